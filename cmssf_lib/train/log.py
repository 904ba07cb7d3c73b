"""What is noted while a method trains: where the time goes, the steps' numbers, checkpoints."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmssf_lib.files import damage_of, read_tensors, write_tensors
from cmssf_lib.runs import Run

#: Parts of a step outside the model's arithmetic; together they should stay under 10 %.
OVERHEAD = ("data", "views", "logging")
READ_EVERY = 50  # steps between two readings of what was logged, on a GPU
RANK_EVERY = 10  # steps between two measurements of the embeddings, which cost milliseconds each
NORM = "gradient_norm"
CHECKPOINT_FORMAT = "cmssf-checkpoint-2"

Item = TypeVar("Item")


class Stopwatch:
    """Adds up the seconds spent in named parts: ``with stopwatch("data"): ...``.

    A GPU computes asynchronously, so there the seconds are those of launching the kernels.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time spent inside the ``with`` block to ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    @contextmanager
    def on(self, method: nn.Module, part: str) -> Iterator[None]:
        """Time every call of the modules whose name ends with ``part``, inside the ``with`` block.

        This times a method's "views" and "local_views" without code for it in the method.
        """
        starts: list[float] = []

        def begin(*_: object) -> None:
            starts.append(time.perf_counter())

        def end(*_: object) -> None:
            self.seconds[part] += time.perf_counter() - starts.pop()

        with ExitStack() as hooks:  # removes the hooks at the end
            for name, module in method.named_modules():
                if name.endswith(part):
                    hooks.enter_context(module.register_forward_pre_hook(begin))
                    hooks.enter_context(module.register_forward_hook(end, always_call=True))
            yield

    def each(self, items: Iterator[Item], part: str) -> Iterator[Item]:
        """Iterate over ``items``, adding the time it takes to get each one to ``part``."""
        while True:
            with self(part):
                item = next(items, None)
            if item is None:
                return
            yield item

    def reset(self) -> dict[str, float]:
        """Return the seconds of each part so far, and start again from zero."""
        seconds = dict(self.seconds)
        self.seconds.clear()
        return seconds


class Log:
    """The mean of what an epoch's steps log, and the check that it is finite.

    The CPU reads and checks every step, before its update. A GPU would have to finish all its work
    first, so there that happens every `READ_EVERY` steps and before each checkpoint.

    Args:
        run: Of the training, whose checkpoint an error names.
        device: Of the training.
        steps_an_epoch: Number of steps in an epoch.
        scaled: Whether gradients are scaled for float16. Some then overflow, and their step is
            skipped, until the scaler has found its scale.

    Attributes:
        loss: The loss that was read last.
    """

    #: What is logged of the embeddings. `cmssf_lib.train` adds the signs of a collapse.
    statistics: ClassVar[list[Callable[[Tensor], dict[str, Tensor]]]] = []

    def __init__(self, run: Run, device: torch.device, steps_an_epoch: int, scaled: bool) -> None:
        self.run, self.scaled = run, scaled
        self.every = 1 if device.type == "cpu" else READ_EVERY
        self.steps_an_epoch, self.loss = steps_an_epoch, math.nan
        self.unread: list[tuple[int, dict[str, Tensor]]] = []
        self.sums: dict[str, tuple[float, int]] = {}  # name → sum, and how many were added

    def add(self, step: int, losses: dict[str, Tensor], norm: Float[Tensor, ""]) -> None:
        """Add what a step logged; ``step`` counts from 0 in the whole training.

        Raises:
            FloatingPointError: As `read`.
        """
        embeddings, every = losses.pop("embeddings", None), max(RANK_EVERY, self.every)
        if embeddings is not None and step % self.steps_an_epoch % every == 0:
            for statistic in self.statistics:
                losses |= statistic(embeddings)
        self.unread.append((step, {k: v.detach() for k, v in losses.items()} | {NORM: norm}))
        if len(self.unread) >= self.every:
            self.read()

    def read(self) -> None:
        """Read what was added since the last call.

        Raises:
            FloatingPointError: If a loss or the norm of a gradient is not a finite number.
        """
        rows, self.unread = self.unread, []
        values = [value for _, row in rows for value in row.values()]
        numbers = iter(torch.stack([v.to(values[-1]) for v in values]).tolist() if values else [])
        for step, row in rows:
            read = {key: next(numbers) for key in row}
            self.loss, norm = read["loss"], read.pop(NORM)
            if not (math.isfinite(self.loss) and (math.isfinite(norm) or self.scaled)):
                stopped = "stopped before the step" if self.every == 1 else "stopped"
                kept = f"The last checkpoint in {self.run.path} is untouched. "
                raise FloatingPointError(
                    f"the loss is {self.loss:.4g} and the gradient's norm {norm:.4g} in epoch "
                    f"{step // self.steps_an_epoch + 1}, step {step + 1}: training {stopped}. "
                    f"{kept * self.run.begun}Try a lower learning rate, a longer warm-up or clip=1"
                )
            if step == 0:
                self.run.start |= read
            for key, value in read.items():
                total, count = self.sums.get(key, (0.0, 0))
                self.sums[key] = total + value, count + 1

    def means(self) -> dict[str, float]:
        """Return the mean of each number over the epoch's steps, and start again."""
        self.read()
        means = {key: total / count for key, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def write_checkpoint(
    path: Path, method: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Write the weights and the optimizer's state, and everything else as JSON in the header.

    Args:
        path: The safetensors file.
        method: The model.
        optimizer: Its optimizer.
        state: What else to store; JSON must be able to represent it.
    """
    moments = optimizer.state_dict()
    tensors = {f"model.{k}": v for k, v in method.state_dict().items()}
    for index, values in moments["state"].items():
        tensors |= {  # only tensors: Muon also keeps a flag, which it can tell from the group
            f"optimizer.{index}.{name}": value
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
    kept = json.dumps({**state, "param_groups": moments["param_groups"]})
    write_tensors(path, tensors, {"format": CHECKPOINT_FORMAT, "state": kept})


def read_checkpoint(
    path: Path, method: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore what `write_checkpoint` wrote into the model and its optimizer; return the rest.

    Raises:
        ValueError: If the file is cut off, damaged, or of another kind.
    """
    tensors, metadata = read_tensors(path, CHECKPOINT_FORMAT)
    with damage_of(path):
        state: dict[str, Any] = json.loads(metadata["state"])
        method.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments[int(index)][name] = value
        groups = state.pop("param_groups")
        optimizer.load_state_dict({"state": dict(moments), "param_groups": groups})
    return state
