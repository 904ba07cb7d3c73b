"""The training loop: the seven steps of the source chapter's Figure 2, once, for every method.

What is random in a step follows from the run's seed and the step's number, and from nothing
else. That is why a run that was killed goes on bit for bit as if nothing had happened.
"""

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from tqdm.auto import tqdm

from cmssf_lib import processes
from cmssf_lib.data import ImageTextData, batches
from cmssf_lib.data.batch import step_seed
from cmssf_lib.methods import CollapseWarning, diagnose
from cmssf_lib.presets import TrainConfig
from cmssf_lib.runs import Run, environment
from cmssf_lib.timing import stopwatch
from cmssf_lib.train.checkpoint import Checkpoint
from cmssf_lib.train.memory import keep_freed_memory, peak_memory_gb
from cmssf_lib.train.steps import (
    check,
    check_processes,
    learning_rate,
    make_optimizer,
    round_weights,
    stop_if_not_finite,
)

#: Parts of a step that are not the encoders' arithmetic; together they should stay under 10 %.
OVERHEAD = ("data", "views", "logging")
#: Part of a training, and epochs at least, in which a row that looks like a collapse is no news:
#: every training begins near one.
GRACE, GRACE_EPOCHS = 0.25, 2


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

    Started by ``accelerate launch``, or by its ``notebook_launcher``, in several processes, each
    takes its part of every batch, and the weights stay the same in all. The first one alone
    evaluates and writes.

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
        KeyboardInterrupt: After Ctrl-C, once the checkpoint is written, or after the last step
            the weights.
        CollapseWarning: A warning, once, if the history shows a collapse after the first quarter
            of the training.
        OSError: If the disk is full, or would be after the first checkpoint.
    """
    check(config, data)
    run = run if isinstance(run, Run) else Run(run)
    run.config.setdefault("train", asdict(config))
    run.config.setdefault("data_fingerprint", data.fingerprint)
    alone = run.path is None or processes.rank() > 0  # with nobody to keep from the folder
    with nullcontext() if alone else run.lock():
        # Without a GPU several processes meet only if it is told that the processor is meant.
        cpu = not torch.accelerator.is_available()
        AcceleratorState._reset_state()  # else the precision of an earlier training would stay
        accelerator = Accelerator(mixed_precision=config.precision, cpu=cpu)
        check_processes(method, config, accelerator.num_processes)
        data = data.to(accelerator.device)
        run.environment = environment(accelerator.device, run.path)
        run.environment["processes"] = accelerator.num_processes
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
    keep_freed_memory()
    optimizer = make_optimizer(method, config)
    rank, of, first_process = processes.rank(), processes.count(), accelerator.is_main_process
    checkpoint = Checkpoint(run, method, optimizer, writes=first_process)
    done = checkpoint.load()  # steps already taken; 0 for a new run
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    model, optimizer = accelerator.prepare(method, optimizer)
    trained = [p for p in model.parameters() if p.requires_grad]

    steps_an_epoch = len(data) // config.batch_size
    steps = steps_an_epoch * config.epochs
    random_state = torch.get_rng_state()  # the caller's; every step below seeds its own
    saved_at = time.monotonic()
    warned, grace = False, max(GRACE_EPOCHS, GRACE * config.epochs)
    hidden = not progress or not first_process or bool(os.environ.get("TQDM_DISABLE"))
    with interruptible() as interrupted:
        for epoch in range(done // steps_an_epoch, config.epochs):
            method.train()
            stopwatch.reset()
            first = done % steps_an_epoch
            started, before = time.monotonic(), checkpoint.sums.pop("seconds", 0.0)
            bar = tqdm(
                desc=f"epoch {epoch + 1}/{config.epochs}",
                total=steps_an_epoch * config.batch_size,
                initial=first * config.batch_size,
                unit=" images",
                disable=True if hidden else None,  # None: hidden where there is no terminal
                leave=False,
            )
            # 1. Load: the next pictures and their captions.
            order = batches(data, config.batch_size, seed=config.seed, epoch=epoch, start=first)
            for batch in timed(order, "data"):
                seed_all(step_seed(config.seed, 1, done, *([rank] if rank else [])))
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(done, steps, config) * group["lr_factor"]
                # 2. to 5. Augment, encode, project, compare: the method's own business.
                with accelerator.autocast():
                    losses = model(batch if of == 1 else batch.part(rank, of))
                # 6. Backpropagate.
                accelerator.backward(losses["loss"])
                largest = config.clip if config.clip > 0 else math.inf
                norm = accelerator.clip_grad_norm_(trained, largest)
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
                    stop = processes.anywhere(bool(interrupted))  # signals arrive one by one
                    if (due or stop) and done % steps_an_epoch:
                        checkpoint.save(done, before + time.monotonic() - started)
                        saved_at = time.monotonic()
                if stop and done % steps_an_epoch:
                    where = f"; go on with the folder {run.path}" if run.path else ""
                    torch.set_rng_state(random_state)
                    raise KeyboardInterrupt(f"stopped after step {done} of {steps}{where}")
            bar.close()

            # The epoch is over: one row of history, and a checkpoint.
            here = time.monotonic() - started  # in this process
            seconds = here + before
            parts = stopwatch.reset()
            row = {"epoch": float(epoch + 1)}
            row |= {k: total / steps_an_epoch for k, total in checkpoint.sums.items()}
            row |= {
                "lr": learning_rate(done - 1, steps, config),
                "seconds": seconds,
                "images_per_second": steps_an_epoch * config.batch_size / seconds,
                **{f"{part}_share": parts.get(part, 0.0) / here for part in OVERHEAD},
            }
            if each_epoch is not None and first_process:
                method.eval()
                row |= {key: float(value) for key, value in each_epoch(method).items()}
            run.history.append(row)
            if first_process and not warned and epoch >= grace and (cause := diagnose(row)):
                warned = True
                warnings.warn(f"epoch {epoch + 1}: {cause}", CollapseWarning, stacklevel=3)
            run.environment["peak_memory_gb"] = round(peak_memory_gb(), 2)
            if accelerator.device.type == "cuda":
                run.environment["peak_gpu_memory_gb"] = round(
                    torch.cuda.max_memory_reserved() / 1e9, 2
                )
            checkpoint.sums.clear()
            if first_process:
                run.save()
            checkpoint.save(done, 0.0)
            saved_at = time.monotonic()
            if watch is not None and first_process:
                watch(run)
            if processes.anywhere(bool(interrupted)) and done < steps:
                torch.set_rng_state(random_state)
                raise KeyboardInterrupt(f"stopped after epoch {epoch + 1} of {config.epochs}")
    torch.set_rng_state(random_state)
    method.eval()
    if config.half_weights:
        round_weights(method)
    if first_process:
        run.save_weights(method)
        checkpoint.remove()
    if processes.anywhere(bool(interrupted)):
        raise KeyboardInterrupt("stopped after the last step: the training is over")
    return run


def seed_all(seed: int) -> None:
    """Do what `torch.manual_seed` does, without the search for accelerators where there is none.

    On cached features that search would take a fiftieth of a step.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


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
