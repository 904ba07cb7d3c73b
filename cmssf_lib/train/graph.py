"""Training steps as CUDA graphs: captured once, then replayed.

A step of a small model is hundreds of small kernels, and Python launches them more slowly than a
GPU computes them. A captured step is launched as a whole. It always reads and writes the same
memory, so the batch and the learning rates are copied to where it looks for them.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from cmssf_lib.data.image_text import Batch
from cmssf_lib.encoders import TextEncoder
from cmssf_lib.train.session import Session
from cmssf_lib.train.steps import Step

WARM_UP = 3  # plain steps of a kind before it is captured
MOST = 4  # kinds of steps that are captured in one training
TRUSTED = 0.5  # a replayed update may differ from a plain one by this part of it, in bfloat16
Record = Callable[[Callable[[], None]], Callable[[], None]]


def quicken(session: Session, step: Step) -> Step:
    """Return the step, captured if the training is on one GPU and needs no gradient scaler."""
    accelerator = session.accelerator
    alone = accelerator.num_processes == 1 and accelerator.scaler is None
    possible = alone and accelerator.device.type == "cuda" and session.method.capturable
    for group in session.optimizer.param_groups:  # a checkpoint may come from another machine
        group["capturable"] = possible
    return CapturedStep(session, step, record) if possible else step


def record(work: Callable[[], None]) -> Callable[[], None]:
    """Capture what some work launches on the GPU, without computing it; return how to replay it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class CapturedStep:
    """A training step that is captured for each kind of batch, and then replayed.

    Two batches are of one kind if their shapes and captions are the same, and so is the method's
    `phase`. The first steps of a kind are plain ones. A captured step is trusted only if it moves
    the weights as a plain one does, from the same weights with the same random numbers; otherwise,
    or if it cannot be captured, a warning says so and all steps are plain ones.

    Args:
        session: The training.
        step: The plain step.
        record: Captures some work.
    """

    def __init__(self, session: Session, step: Step, record: Record) -> None:
        self.session, self.step, self.record = session, step, record
        self.seen: Counter[Hashable] = Counter()
        self.captured: dict[Hashable, Captured] = {}
        self.given_up = False
        device = session.accelerator.device
        self.rates = [torch.zeros((), device=device) for _ in session.optimizer.param_groups]

    def __call__(self, batch: Batch) -> None:
        """Take a step."""
        kind = (batch.captions, batch.images.shape, self.session.method.phase())
        if kind in self.captured:
            self._replay(self.captured[kind], batch)
            return
        self.seen[kind] += 1
        if self.given_up or self.seen[kind] <= WARM_UP or len(self.captured) == MOST:
            self.step(batch)
            return
        try:
            self._capture(kind, batch)
        except RuntimeError as error:
            self._give_up(str(error).partition("\n")[0])
            self.step(batch)

    def _capture(self, kind: Hashable, batch: Batch) -> None:
        """Capture the step, and take it in both ways."""
        static, changed = copied(batch), self._changed()
        weights = [w.detach() for w in self.session.method.parameters() if w.requires_grad]
        began = [w.clone() for w in weights]
        start, random = [t.clone() for t in changed], self._random_states()
        with self._unlogged():
            self.step(batch)
        plain, ended = [t.clone() for t in changed], [w.clone() for w in weights]
        put(start, changed)
        groups = self.session.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        try:
            with self._unlogged() as logged:
                replay = self.record(lambda: self.step(static))
        finally:
            for group, lr in zip(groups, rates, strict=True):
                group["lr"] = lr
            put(start, changed)
            self._set_random_states(random)
        parts = self.session.method.modules()
        tokens = [part.last for part in parts if isinstance(part, TextEncoder)]
        self.captured[kind] = Captured(static, replay, *logged[0], tokens)
        self._replay(self.captured[kind], batch)
        # The weights by themselves: statistics and queues move further, and would hide them.
        pairs = ((changed, plain, start), (weights, ended, began))
        if not all(distance(x, y) <= TRUSTED * distance(z, y) for x, y, z in pairs):
            put(plain, changed)  # where the step should have ended
            self._give_up("a replayed step does not move the weights as a plain one does")

    def _replay(self, captured: "Captured", batch: Batch) -> None:
        """Copy a batch and the learning rates to where the captured step looks, and replay it."""
        for mine, other in zip(tensors_of(captured.batch), tensors_of(batch), strict=True):
            mine.copy_(other)
        for rate, group in zip(self.rates, self.session.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        captured.replay()
        losses = {k: v.clone() if v.ndim == 0 else v for k, v in captured.losses.items()}
        self.session.check(losses, captured.norm.clone())

    def _give_up(self, why: str) -> None:
        self.given_up = True
        self.captured.clear()
        warnings.warn(f"training steps are not captured as CUDA graphs: {why}", stacklevel=4)

    def _changed(self) -> list[Tensor]:
        """Return all that a step changes: weights, buffers, and the optimizer's moments."""
        state = self.session.optimizer.state
        moments = [v for values in state.values() for v in values.values() if isinstance(v, Tensor)]
        method = list(self.session.method.state_dict().values())
        return [t for t in [*method, *moments] if t.device == self.rates[0].device]

    def _random_states(self) -> list[Tensor]:
        cuda = self.rates[0].is_cuda
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if cuda else [])]

    def _set_random_states(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state)

    @contextmanager
    def _unlogged(self) -> Iterator[list[tuple[dict[str, Tensor], Tensor]]]:
        """Keep what a step logs in a list, instead of logging it."""
        kept: list[tuple[dict[str, Tensor], Tensor]] = []
        usual = self.session.log_step
        self.session.log_step = lambda _, losses, norm: kept.append((losses, norm))
        try:
            yield kept
        finally:
            self.session.log_step = usual


class Captured(NamedTuple):
    """A captured step, and where it reads and writes."""

    batch: Batch
    replay: Callable[[], None]
    losses: dict[str, Tensor]
    norm: Tensor
    tokens: list[Any]  # of its captions; only kept, so that their memory is not used again


def copied(batch: Batch) -> Batch:
    """Return a batch in memory of its own."""
    own: dict[str, Any] = {k: v.clone() for k, v in vars(batch).items() if isinstance(v, Tensor)}
    return replace(batch, **own)


def tensors_of(batch: Batch) -> list[Shaped[Tensor, "..."]]:
    """Return a batch's tensors, in the order of its fields."""
    return [value for value in vars(batch).values() if isinstance(value, Tensor)]


@torch.no_grad()
def put(values: list[Shaped[Tensor, "..."]], into: list[Shaped[Tensor, "..."]]) -> None:
    """Write values into tensors."""
    for value, tensor in zip(values, into, strict=True):
        tensor.copy_(value)


def distance(a: list[Shaped[Tensor, "..."]], b: list[Shaped[Tensor, "..."]]) -> float:
    """Return the Euclidean distance between two lists of tensors; whole numbers do not count."""
    parts = [
        (x - y).double().square().sum() for x, y in zip(a, b, strict=True) if x.is_floating_point()
    ]
    return float(torch.stack(parts).sum().sqrt())
