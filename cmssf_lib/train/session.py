"""What surrounds the steps of a training: device, record, checkpoints, signals, random state, bar.

A `Session` is entered once a training and has one way out, errors included.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cmssf_lib import machine
from cmssf_lib.data.batch import Batch, batches, step_seed
from cmssf_lib.data.image_text import ImageTextData
from cmssf_lib.files import read_checkpoint, write_checkpoint
from cmssf_lib.methods.base import Method
from cmssf_lib.runs import Run
from cmssf_lib.train import steps as step_rules
from cmssf_lib.train.watch import OVERHEAD, Stopwatch, signs_of_collapse, warn_of_collapse


class Session:
    """One training, from the folder's lock to the kept weights; its arguments are those of `fit`.

    Attributes:
        accelerator: Device, precision and processes (Hugging Face's accelerate).
        model: The method as `accelerator` wraps it; called with a batch it returns the losses.
        optimizer: Of the method's parameters.
        run: The record.
        done: Steps taken, of all that there are: ``steps``.
    """

    def __init__(
        self,
        method: Method,
        data: ImageTextData,
        config: step_rules.TrainConfig,
        run: Run | str | Path | None,
        each_epoch: Callable[[Method], Mapping[str, float]] | None,
        watch: Callable[[Run], None] | None,
        progress: bool,
    ) -> None:
        step_rules.require_trainable(config, data)
        self.method, self.data, self.config = method, data, config
        self.each_epoch, self.watch = each_epoch, watch
        self.hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
        self.run = run if isinstance(run, Run) else Run(run)
        self.run.config.setdefault("train", asdict(config))
        self.run.config.setdefault("data_fingerprint", data.fingerprint)
        self.steps_an_epoch = len(data) // config.batch_size
        self.steps = self.steps_an_epoch * config.epochs
        self.stopwatch, self.watched, self.warned = Stopwatch(), False, False
        self.sums: dict[str, float] = defaultdict(float)  # of the current epoch's steps
        self.seconds = 0.0  # of the current epoch, before it was interrupted

    def __enter__(self) -> "Session":
        with ExitStack() as stack:
            run, method, config = self.run, self.method, self.config
            # Without a GPU several processes meet only if it is told that the processor is meant.
            cpu = not torch.accelerator.is_available()
            AcceleratorState._reset_state()  # else an earlier training's precision would stay
            self.accelerator = Accelerator(mixed_precision=config.precision, cpu=cpu)
            self.first, device = self.accelerator.is_main_process, self.accelerator.device
            if self.first and run.path is not None:
                stack.enter_context(run.lock())
            step_rules.require_one_model(method, config, self.accelerator.num_processes)
            stack.callback(method.eval)
            gpus = [device] if device.type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(gpus))  # every step seeds its own
            stack.enter_context(self.stopwatch.on(method, "views"))
            self.received = stack.enter_context(machine.interruptible())
            machine.keep_freed_memory()
            before = Run.load(run.path).environment if run.path is not None and run.begun else None
            here = machine.environment(device, before)
            run.environment |= here | {"processes": self.accelerator.num_processes}
            self.optimizer = step_rules.make_optimizer(method, config)
            self.done = self._load()
            self.accelerator.wait_for_everyone()  # all have looked before the first one writes
            self.data = self.data.to(device)
            self.model, self.optimizer = self.accelerator.prepare(method, self.optimizer)
            self.saved_at = time.monotonic()
            self.bar = tqdm(disable=True)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.stack:
            self.bar.close()
            if kind is None:
                self._finish()

    # --- the course of a training ---

    def epochs(self) -> Iterator[int]:
        """Go through the epochs that are left; after each, write a row of history and save."""
        for epoch in range(self.done // self.steps_an_epoch, self.config.epochs):
            self.method.train()
            self.stopwatch.reset()
            self.started, taken = time.monotonic(), self.done % self.steps_an_epoch
            self.bar.close()
            self.bar = tqdm(
                desc=f"epoch {epoch + 1}/{self.config.epochs}",
                total=self.steps_an_epoch * self.config.batch_size,
                initial=taken * self.config.batch_size,
                unit=" images",
                # None: hidden where there is no terminal
                disable=True if self.hidden or not self.first else None,
                leave=False,
            )
            yield epoch
            self._end_epoch(epoch)

    def batches(self) -> Iterator[Batch]:
        """Go through the current epoch's batches that are left, each with its random numbers."""
        epoch, start = divmod(self.done, self.steps_an_epoch)
        size, seed = self.config.batch_size, self.config.seed
        order = batches(self.data, size, seed=seed, epoch=epoch, start=start)
        number, of = self.accelerator.process_index, self.accelerator.num_processes
        for batch in self.stopwatch.each(order, "data"):
            machine.seed_all(step_seed(seed, 1, self.done, *([number] if number else [])))
            yield batch if of == 1 else batch.part(number, of)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Choose the precision of a forward pass; the first one may not outgrow the memory."""
        first, self.watched = not self.watched, True
        memory = step_rules.within_memory(self.accelerator.device) if first else nullcontext()
        with memory, self.accelerator.autocast():
            yield

    def require_finite(self, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> None:
        """Refuse a step that would spoil the weights.

        Raises:
            FloatingPointError: If the loss or the norm of its gradient is not a finite number.
        """
        with self.stopwatch("logging"):
            if torch.isfinite(loss) and torch.isfinite(norm):
                return
        where = f"The last checkpoint in {self.run.path} is untouched. " if self.run.begun else ""
        raise FloatingPointError(
            f"the loss is {loss.item():.4g} and the gradient's norm {norm.item():.4g} in epoch "
            f"{self.done // self.steps_an_epoch + 1}, step {self.done + 1}: training stopped "
            f"before the step. {where}A lower learning rate, a longer warm-up or clip=1 are "
            "the usual cures"
        )

    def note(self, losses: dict[str, Tensor]) -> None:
        """Add a step's numbers up, and stop or save if it is time.

        Raises:
            KeyboardInterrupt: In the middle of an epoch, once a checkpoint is written.
        """
        with self.stopwatch("logging"):
            if "embeddings" in losses:
                losses |= signs_of_collapse(losses.pop("embeddings"))
            for key, value in losses.items():
                self.sums[key] += float(value.detach())
            self.bar.update(self.config.batch_size)
            self.bar.set_postfix(loss=f"{float(losses['loss'].detach()):.3f}", refresh=False)
            due = time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes
            stop = self._interrupted()
            if (due or stop) and self.done % self.steps_an_epoch:
                self._save(self.seconds + time.monotonic() - self.started)
        if stop and self.done % self.steps_an_epoch:
            where = f"; go on with the folder {self.run.path}" if self.run.path else ""
            raise KeyboardInterrupt(f"stopped after step {self.done} of {self.steps}{where}")

    def _end_epoch(self, epoch: int) -> None:
        """Write one row of history, and a checkpoint."""
        config, run = self.config, self.run
        here = time.monotonic() - self.started  # in this process
        seconds, parts = here + self.seconds, self.stopwatch.reset()
        row = {"epoch": float(epoch + 1)}
        row |= {key: total / self.steps_an_epoch for key, total in self.sums.items()}
        row |= {
            "lr": step_rules.learning_rate(self.done - 1, self.steps, config),
            "seconds": seconds,
            "images_per_second": self.steps_an_epoch * config.batch_size / seconds,
            **{f"{part}_share": parts.get(part, 0.0) / here for part in OVERHEAD},
        }
        if self.each_epoch is not None and self.first:
            self.method.eval()
            row |= {key: float(value) for key, value in self.each_epoch(self.method).items()}
        run.history.append(row)
        run.environment |= machine.peak_memory(self.accelerator.device)
        self.sums.clear()
        if self.first:
            self.warned = self.warned or warn_of_collapse(row, config.epochs)
            run.save()
        self._save(0.0)
        self.seconds = 0.0
        if self.watch is not None and self.first:
            self.watch(run)
        if self._interrupted() and self.done < self.steps:
            raise KeyboardInterrupt(f"stopped after epoch {epoch + 1} of {config.epochs}")

    def _interrupted(self) -> bool:
        """Whether a signal has come in any process; all ask at the same step."""
        return machine.in_any_process(bool(self.received), self.accelerator.device)

    def _finish(self) -> None:
        self.method.eval()
        if self.config.half_weights:
            step_rules.round_weights(self.method)
        if self.first:
            self.run.save_weights(self.method)
            if self.run.checkpoint is not None:
                self.run.checkpoint.unlink(missing_ok=True)
        if self._interrupted():
            raise KeyboardInterrupt("stopped after the last step: the training is over")

    def _load(self) -> int:
        """Put method, optimizer and history back where they were; return the steps done."""
        if self.run.checkpoint is None or self.run.path is None:
            return 0
        if self.run.state() in ("trained", "measured"):
            raise ValueError(
                f"{self.run.path} holds a finished run: choose another folder, or delete it to "
                "train again"
            )
        if not self.run.begun:
            if self.first:
                weights = sum(t.nbytes for t in self.method.state_dict().values())
                # Weights and two moments, the new file beside the old.
                step_rules.require_room(self.run.path, 2 * 3 * weights, "checkpoints")
                self.run.save()
            return 0
        kept = read_checkpoint(self.run.checkpoint, self.method, self.optimizer)
        self.run.history, self.seconds = kept["history"], kept["seconds"]
        self.sums.update(kept["sums"])
        return int(kept["done"])

    def _save(self, seconds: float) -> None:
        """Write a checkpoint, ``seconds`` into the current epoch."""
        if self.run.checkpoint is not None and self.first:
            kept = {"done": self.done, "seconds": seconds, "sums": dict(self.sums)}
            kept["history"] = self.run.history
            write_checkpoint(self.run.checkpoint, self.method, self.optimizer, kept)
        self.saved_at = time.monotonic()
