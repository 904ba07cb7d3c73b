"""Everything around the steps of a training: device, record, checkpoints, signals, random state.

A `Session` is opened once a training and cleans up in one place, after errors too.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cmssf_lib import machine
from cmssf_lib.data.image_text import Batch, ImageTextData, batches
from cmssf_lib.files import lock_folder
from cmssf_lib.methods.base import Method
from cmssf_lib.runs import Run
from cmssf_lib.train import steps as step_rules
from cmssf_lib.train.log import OVERHEAD, Log, Stopwatch, read_checkpoint, write_checkpoint
from cmssf_lib.train.steps import Beside, LogStep, Step


@dataclass(eq=False)
class Session:
    """One training, from locking the folder to saving the weights. Its fields are those of `fit`.

    Attributes:
        accelerator: Device, precision and processes (Hugging Face's accelerate).
        model: The method wrapped by `accelerator`; called with a batch, it returns the losses.
        optimizer: Of the method's parameters.
        done: Number of steps taken so far, of ``steps`` in total.
    """

    #: What works beside the steps. `cmssf_lib.train` adds checks, records, warnings, threads.
    beside: ClassVar[list[type[Beside]]] = []
    #: Each makes a step faster. `cmssf_lib.train` adds CUDA graphs.
    quicken: ClassVar[list[Callable[["Session", Step], Step]]] = []

    method: Method
    data: ImageTextData
    config: step_rules.TrainConfig
    run: Run
    each_epoch: Callable[[Method], Mapping[str, float]] | None
    watch: Callable[[Run], None] | None
    progress: bool

    def __post_init__(self) -> None:
        step_rules.require_trainable(self.config, self.data)
        self.run.config.setdefault("train", asdict(self.config))
        self.run.config.setdefault("data_fingerprint", self.data.fingerprint)
        self.steps_an_epoch = len(self.data) // self.config.batch_size
        self.steps = self.steps_an_epoch * self.config.epochs
        self.stopwatch = Stopwatch()
        self.threads: int | None = None  # of an interrupted run
        self.seconds = 0.0  # of the current epoch, before it was interrupted

    @contextmanager
    def open(self) -> Iterator["Session"]:
        """Prepare everything that the steps need, and save the weights at the end."""
        run, method, config = self.run, self.method, self.config
        with ExitStack() as stack:
            # Several processes can only train on the CPU if accelerate is told to use it.
            cpu = (fastest := machine.fastest_device()).type == "cpu"
            precision = step_rules.precision_on(fastest, config.precision)
            # Otherwise accelerate would keep the precision and device of an earlier training.
            AcceleratorState._reset_state(reset_partial_state=machine.process_count() == 1)
            self.accelerator = Accelerator(mixed_precision=precision, cpu=cpu)
            self.first, device = self.accelerator.is_main_process, self.accelerator.device
            self.log = Log(run, device, self.steps_an_epoch, precision == "fp16")
            self.log_step: LogStep = self.log.add  # a captured step leaves it to its replays
            if self.first and run.path is not None:
                stack.enter_context(lock_folder(run.path))
            home = next((weight.device for weight in method.parameters()), device)
            stack.callback(lambda: method.eval().to(home))  # back to the user's device at the end
            method.to(device)
            # Every step seeds the generators; afterwards they are as the caller left them.
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            stack.enter_context(self.stopwatch.on(method, "views"))
            self.received = stack.enter_context(machine.interruptible())
            self.optimizer = step_rules.make_optimizer(method, config)
            self.done = self._load()
            self.accelerator.wait_for_everyone()  # all processes have read before the first writes
            self.data = self.data.to(device)
            self.model, self.optimizer = self.accelerator.prepare(method, self.optimizer)
            self.room: AbstractContextManager[None] = step_rules.within_memory(device)
            self.helpers = [helper(self) for helper in self.beside]
            for helper in self.helpers:
                stack.callback(helper.end)
            if self.first and not run.begun:
                run.start = self._measured()
                run.save()
            self.saved_at = time.monotonic()
            yield self
            self._finish()

    # --- the course of a training ---

    def epochs(self) -> Iterator[int]:
        """Iterate over the remaining epochs; after each, add a row to the history and save."""
        for epoch in range(self.done // self.steps_an_epoch, self.config.epochs):
            self.method.train()
            self.stopwatch.reset()
            self.started, taken = time.monotonic(), self.done % self.steps_an_epoch
            with tqdm(
                desc=f"epoch {epoch + 1}/{self.config.epochs}",
                total=self.steps_an_epoch * self.config.batch_size,
                initial=taken * self.config.batch_size,
                unit=" images",
                disable=machine.hide_bars(not (self.progress and self.first)),
                leave=False,
            ) as self.bar:
                yield epoch
            self._end_epoch(epoch)

    def batches(self) -> Iterator[Batch]:
        """Iterate over the epoch's remaining batches, seeding the random generators for each."""
        epoch, start = divmod(self.done, self.steps_an_epoch)
        size, seed = self.config.batch_size, self.config.seed
        order = batches(self.data, size, seed=seed, epoch=epoch, start=start)
        number, of = self.accelerator.process_index, self.accelerator.num_processes
        for batch in self.stopwatch.each(order, "data"):
            machine.seed_all(machine.step_seed(seed, 1, self.done, *([number] if number else [])))
            yield batch if of == 1 else batch.part(number, of)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Set the precision of a forward pass; the first one also checks that memory suffices."""
        with self.room, self.accelerator.autocast():
            yield
        self.room = nullcontext()

    def fast(self, step: Step) -> Step:
        """Return a step that does the same, faster where the machine can."""
        for quicken in self.quicken:
            step = quicken(self, step)
        return step

    def check(self, losses: dict[str, Tensor], norm: Float[Tensor, ""]) -> None:
        """Log a step's numbers, and stop before an update that would destroy the weights.

        Raises:
            FloatingPointError: If the loss or the norm of its gradient is not a finite number. On
                a GPU that may be noticed up to `log.READ_EVERY` steps later.
        """
        with self.stopwatch("logging"):
            self.log_step(self.done, losses, norm)

    def save_or_stop(self) -> None:
        """Write a checkpoint in the middle of an epoch if it is time, or after a signal.

        Raises:
            KeyboardInterrupt: After a signal, when the checkpoint is written.
        """
        with self.stopwatch("logging"):
            self.bar.update(self.config.batch_size)
            self.bar.set_postfix(loss=f"{self.log.loss:.3f}", refresh=False)
            due = time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes
            stop, inside = self._interrupted(), self.done % self.steps_an_epoch > 0
            if (due or stop) and inside:
                self._save(self.seconds + time.monotonic() - self.started)
            for helper in self.helpers:
                helper.after_step()
        if stop and inside:
            where = f"; go on with the folder {self.run.path}" if self.run.path else ""
            raise KeyboardInterrupt(f"stopped after step {self.done} of {self.steps}{where}")

    def _end_epoch(self, epoch: int) -> None:
        """Add one row to the history, and write a checkpoint."""
        config, run = self.config, self.run
        here = time.monotonic() - self.started  # in this process
        seconds, parts = here + self.seconds, self.stopwatch.reset()
        row = {
            "epoch": float(epoch + 1),
            **self.log.means(),
            "lr": step_rules.learning_rate(self.done - 1, self.steps, config),
            "seconds": seconds,
            "images_per_second": self.steps_an_epoch * config.batch_size / seconds,
            **{f"{part}_share": parts.get(part, 0.0) / here for part in OVERHEAD},
        }
        if self.first:
            row |= self._measured()
        run.history.append(row)
        for helper in self.helpers:
            helper.after_epoch(row)
        if self.first:
            run.save()
        self.seconds = 0.0
        self._save(self.seconds)
        if self.watch is not None and self.first:
            self.watch(run)
        if self._interrupted() and self.done < self.steps:
            raise KeyboardInterrupt(f"stopped after epoch {epoch + 1} of {config.epochs}")

    def _measured(self) -> dict[str, float]:
        """Return what the caller measures after each epoch, and before the first."""
        if self.each_epoch is None:
            return {}
        self.method.eval()
        return {key: float(value) for key, value in self.each_epoch(self.method).items()}

    def _interrupted(self) -> bool:
        """Return whether any process received a signal; all processes ask at the same step."""
        return machine.in_any_process(bool(self.received), self.accelerator.device)

    def _finish(self) -> None:
        self.method.eval()
        if self.config.half_weights:
            step_rules.round_weights(self.method)
        if self.first:
            self.run.save_weights(self.method)
        if self._interrupted():
            raise KeyboardInterrupt("stopped after the last step: the training is over")

    def _load(self) -> int:
        """Restore method, optimizer and history from a checkpoint; return the steps done."""
        run = self.run
        if run.state() in ("trained", "measured"):
            raise ValueError(f"{run.path} holds a finished run: choose another folder or delete it")
        if run.checkpoint is not None and run.begun:
            kept = read_checkpoint(run.checkpoint, self.method, self.optimizer)
            run.history, self.seconds = kept["history"], kept["seconds"]
            run.start = kept.get("start", {})
            self.threads = kept["threads"]
            self.log.sums = {key: (total, count) for key, (total, count) in kept["sums"].items()}
            return int(kept["done"])
        if self.first and run.path is not None:
            step_rules.require_room(run.path, self.method)
        return 0

    def _save(self, seconds: float) -> None:
        """Write a checkpoint, ``seconds`` into the current epoch."""
        self.log.read()  # never save weights that a loss which is not finite has destroyed
        if self.run.checkpoint is not None and self.first:
            kept = {"done": self.done, "seconds": seconds, "sums": self.log.sums}
            kept |= {"history": self.run.history, "start": self.run.start}
            kept["threads"] = torch.get_num_threads()
            write_checkpoint(self.run.checkpoint, self.method, self.optimizer, kept)
        self.saved_at = time.monotonic()
