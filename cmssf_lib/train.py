"""The training loop: the seven steps of the source chapter's Figure 2, once, for every method.

What is random in a step follows from the run's seed and the step's number, and from nothing
else. That is why a run that was killed goes on bit for bit as if nothing had happened.
"""

import json
import math
import resource
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from cmssf_lib.data import ImageTextData, batches
from cmssf_lib.data.image_text import step_seed
from cmssf_lib.presets import TrainConfig
from cmssf_lib.runs import Run, environment, read_tensors, write_tensors
from cmssf_lib.timing import stopwatch

FORMAT = "cmssf-checkpoint-1"
SCHEDULES = ("constant", "cosine")
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
#: Parts of a step that are not the encoders' arithmetic; together they should stay under 10 %.
OVERHEAD = ("data", "views", "logging")


def fit(
    method: nn.Module,
    data: ImageTextData,
    config: TrainConfig,
    *,
    run: Run | str | Path | None = None,
    each_epoch: Callable[[nn.Module], Mapping[str, float]] | None = None,
    watch: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train a method and keep a record of it.

    A run with a folder writes a checkpoint every few minutes, after every epoch, and when it
    is interrupted (Ctrl-C, SIGTERM). Called again with the same folder it goes on from there.

    Args:
        method: A module with ``loss(batch)``, ``after_step(progress)``, ``features(images)``.
        data: The training set.
        config: How to train.
        run: A folder, a `Run` with its configuration filled in, or ``None`` to keep the record
            in memory only.
        each_epoch: Called with the method after each epoch; what it returns joins the history.
        watch: Called with the run after each epoch, for a live figure say.
        progress: Show a progress bar with loss, images a second and the time left.

    Returns:
        The run. Its history has a row an epoch.

    Raises:
        ValueError: If the configuration is inconsistent, the data too small for a batch, or
            the folder holds a run with another configuration (the message names the field) or
            a damaged checkpoint.
        RuntimeError: If another process is training in the folder.
        FloatingPointError: If the loss or the gradient is not finite. The run stops before the
            step is taken and the last checkpoint stays.
        KeyboardInterrupt: After Ctrl-C, once the checkpoint is written.
        OSError: If the disk is full, or would be after the first checkpoint.
    """
    check(config, data)
    run = run if isinstance(run, Run) else Run(run)
    run.config.setdefault("train", asdict(config))
    run.config.setdefault("data_fingerprint", data.fingerprint)
    with nullcontext() if run.path is None else run.lock():
        accelerator = Accelerator(mixed_precision=config.precision)
        if accelerator.num_processes > 1:
            raise RuntimeError(
                "several processes were started, but the contrastive losses of this version "
                "compare the pictures of one process only: start a single one"
            )
        data = data.to(accelerator.device)
        run.environment = environment(accelerator.device)
        return _train(method, data, config, run, accelerator, each_epoch, watch, progress)


def _train(
    method: nn.Module,
    data: ImageTextData,
    config: TrainConfig,
    run: Run,
    accelerator: Accelerator,
    each_epoch: Callable[[nn.Module], Mapping[str, float]] | None,
    watch: Callable[[Run], None] | None,
    progress: bool,
) -> Run:
    optimizer = make_optimizer(method, config)
    checkpoint = Checkpoint(run, method, optimizer)
    done = checkpoint.load()  # steps already taken; 0 for a new run
    model, optimizer = accelerator.prepare(method, optimizer)

    steps_an_epoch = len(data) // config.batch_size
    steps = steps_an_epoch * config.epochs
    random_state = torch.get_rng_state()  # the caller's; every step below seeds its own
    saved_at = time.monotonic()
    with interruptible() as interrupted:
        for epoch in range(done // steps_an_epoch, config.epochs):
            method.train()
            stopwatch.reset()
            first = done % steps_an_epoch
            started = time.monotonic() - checkpoint.sums.pop("seconds", 0.0)
            bar = tqdm(
                desc=f"epoch {epoch + 1}/{config.epochs}",
                total=steps_an_epoch * config.batch_size,
                initial=first * config.batch_size,
                unit=" images",
                disable=None if progress else True,
                leave=False,
            )
            # 1. Load: the next pictures and their captions.
            order = batches(data, config.batch_size, seed=config.seed, epoch=epoch, start=first)
            for batch in timed(order, "data"):
                torch.manual_seed(step_seed(config.seed, 1, done))
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(done, steps, config)
                # 2. to 5. Augment, encode, project, compare: the method's own business.
                with accelerator.autocast():
                    losses = model(batch)
                # 6. Backpropagate.
                accelerator.backward(losses["loss"])
                norm = accelerator.clip_grad_norm_(
                    model.parameters(), config.clip if config.clip > 0 else math.inf
                )
                with stopwatch("logging"):
                    stop_if_not_finite(losses["loss"], norm, epoch, done, run)
                # 7. Update.
                optimizer.step()
                optimizer.zero_grad()
                done += 1
                method.after_step(done / steps)  # type: ignore[operator]

                with stopwatch("logging"):
                    for key, value in losses.items():
                        checkpoint.sums[key] += float(value.detach())
                    bar.update(config.batch_size)
                    bar.set_postfix(loss=f"{float(losses['loss'].detach()):.3f}", refresh=False)
                    due = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
                    if (due or interrupted) and done % steps_an_epoch:
                        checkpoint.save(done, time.monotonic() - started)
                        saved_at = time.monotonic()
                if interrupted and done % steps_an_epoch:
                    where = f"; go on with the folder {run.path}" if run.path else ""
                    torch.set_rng_state(random_state)
                    raise KeyboardInterrupt(f"stopped after step {done} of {steps}{where}")
            bar.close()

            # The epoch is over: one row of history, and a checkpoint.
            seconds = time.monotonic() - started
            parts = stopwatch.reset()
            row = {"epoch": float(epoch + 1)}
            row |= {k: total / steps_an_epoch for k, total in checkpoint.sums.items()}
            row |= {
                "lr": learning_rate(done - 1, steps, config),
                "seconds": seconds,
                "images_per_second": steps_an_epoch * config.batch_size / seconds,
                **{f"{part}_share": parts.get(part, 0.0) / seconds for part in OVERHEAD},
            }
            if each_epoch is not None:
                method.eval()
                row |= {key: float(value) for key, value in each_epoch(method).items()}
            run.history.append(row)
            run.environment["peak_memory_gb"] = round(peak_memory_gb(), 2)
            checkpoint.sums.clear()
            run.save()
            checkpoint.save(done, 0.0)
            saved_at = time.monotonic()
            if watch is not None:
                watch(run)
            if interrupted and done < steps:
                torch.set_rng_state(random_state)
                raise KeyboardInterrupt(f"stopped after epoch {epoch + 1} of {config.epochs}")
    torch.set_rng_state(random_state)
    method.eval()
    run.save_weights(method)
    checkpoint.remove()
    return run


def check(config: TrainConfig, data: ImageTextData) -> None:
    """Refuse what cannot work, before any work is done.

    Raises:
        ValueError: The message says which field is wrong and what it may be.
    """
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {config.optimizer!r}; choose {list(OPTIMIZERS)}")
    if config.schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {config.schedule!r}; choose {list(SCHEDULES)}")
    if config.epochs < 1 or config.batch_size < 1 or not config.lr > 0:
        raise ValueError(
            "epochs, batch_size and lr must be positive; got "
            f"{config.epochs}, {config.batch_size}, {config.lr}"
        )
    if not 0 <= config.warmup < 1:
        raise ValueError(f"warmup is a part of the training, 0 to under 1; got {config.warmup}")
    if len(data) < config.batch_size:
        raise ValueError(
            f"{data.name} holds {len(data)} pictures, fewer than one batch of "
            f"{config.batch_size}: choose a smaller batch"
        )
    if len(torch.unique(data.labels)) < 2:
        raise ValueError(
            f"all pictures of {data.name} are of one class "
            f"({data.class_names[int(data.labels[0])]}): there is nothing to tell apart"
        )


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step.

    It rises linearly over the warm-up, then stays ("constant") or falls along half a cosine
    to zero ("cosine").

    Args:
        step: Counted from 0.
        steps: Of the whole training.
        config: ``lr``, ``schedule`` and ``warmup``.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(method: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimizer; only matrices decay.

    A bias, a norm's gain and the logit scale have no reason to be small, so weight decay
    leaves every parameter with fewer than two dimensions alone.
    """
    trained = [p for p in method.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the method has no parameter to train: all of them are frozen")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.optimizer]([g for g in groups if g["params"]], lr=config.lr)


def stop_if_not_finite(loss: Tensor, norm: Tensor | None, epoch: int, step: int, run: Run) -> None:
    """Raise before a step that would spoil the weights."""
    if torch.isfinite(loss) and (norm is None or torch.isfinite(norm)):
        return
    kept = f"The last checkpoint in {run.path} is untouched. " if run.path else ""
    raise FloatingPointError(
        f"the loss is {float(loss):.4g} and the gradient's norm {float(norm or 0):.4g} in epoch "
        f"{epoch + 1}, step {step + 1}: training stopped before the step. {kept}"
        "A lower learning rate, a longer warm-up or clip=1 are the usual cures"
    )


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying of them, so that a step is never torn.

    A second Ctrl-C stops at once, without a checkpoint.
    """
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def timed(items: Iterator[Any], part: str) -> Iterator[Any]:
    """Go through ``items``, with the time each takes to arrive on the stopwatch."""
    while True:
        with stopwatch(part):
            item = next(items, None)
        if item is None:
            return
        yield item


def peak_memory_gb() -> float:
    """Return the most memory this process has held, in gigabytes (10⁹ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


class Checkpoint:
    """Where an unfinished run goes on: weights, optimizer, history and the running sums.

    One safetensors file; what is not a tensor stands as JSON in its header.

    Attributes:
        sums: Of each logged quantity over the current epoch's steps.
    """

    def __init__(self, run: Run, method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.run, self.method, self.optimizer = run, method, optimizer
        self.path = None if run.path is None else run.path / "checkpoint.safetensors"
        self.sums: dict[str, float] = defaultdict(float)

    def load(self) -> int:
        """Put method, optimizer and history back where they were; return the steps done."""
        if self.path is None or self.run.path is None:
            return 0
        if (self.run.path / "config.json").is_file():
            refuse_other_config(Run.load(self.run.path).config, self.run)
        if not self.path.is_file():
            if (self.run.path / "model.safetensors").is_file():
                raise ValueError(
                    f"{self.run.path} holds a finished run: choose another folder, or delete it "
                    "to train again"
                )
            self._room_for_two()
            self.run.save()
            return 0
        tensors, metadata = read_tensors(self.path, FORMAT)
        state = json.loads(metadata["state"])
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        self.method.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments[int(index)][name] = value
        self.optimizer.load_state_dict(
            {"state": dict(moments), "param_groups": state["param_groups"]}
        )
        self.run.history = state["history"]
        self.sums.update(state["sums"])
        self.sums["seconds"] = state["seconds"]
        return int(state["done"])

    def save(self, done: int, seconds: float) -> None:
        """Write the state after ``done`` steps, ``seconds`` of them in the current epoch."""
        if self.path is None:
            return
        state = self.optimizer.state_dict()
        tensors = {f"model.{k}": v for k, v in self.method.state_dict().items()}
        for index, moments in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        content = {
            "done": done,
            "seconds": seconds,
            "sums": dict(self.sums),
            "history": self.run.history,
            "param_groups": state["param_groups"],
        }
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        write_tensors(self.path, whole, {"format": FORMAT, "state": json.dumps(content)})

    def remove(self) -> None:
        """Delete the checkpoint of a run that is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _room_for_two(self) -> None:
        """Refuse to start where the first checkpoints would not fit."""
        assert self.run.path is not None
        weights = sum(t.numel() * t.element_size() for t in self.method.state_dict().values())
        needed = 2 * 3 * weights  # weights and two moments, the new file beside the old
        free = shutil.disk_usage(self.run.path).free
        if free < needed:
            raise OSError(
                f"{self.run.path} has {free / 1e6:.0f} MB free and checkpoints take "
                f"{needed / 1e6:.0f} MB: free some space or choose another folder"
            )


def refuse_other_config(recorded: Mapping[str, Any], run: Run) -> None:
    """Raise if a run in this folder was started with another configuration.

    Raises:
        ValueError: Naming the fields that differ and both values.
    """

    def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in config.items():
            if isinstance(value, Mapping):
                out |= flat(value, f"{prefix}{key}.")
            else:
                out[prefix + key] = list(value) if isinstance(value, tuple) else value
        return out

    old, new = flat(recorded), flat(run.config)
    differ = [
        f"{key} (recorded {old.get(key)!r}, asked for {new.get(key)!r})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key != "train.checkpoint_minutes"
    ]
    if differ:
        raise ValueError(
            f"{run.path} holds a run with another configuration: {'; '.join(differ)}. "
            "Go on with the recorded one, or choose another folder"
        )
