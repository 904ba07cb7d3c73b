"""SimCLR's whole training step: `fit`, and lightly's published pipeline around the same encoder.

lightly's is the loop of its examples: two workers make views with PIL, the model sees the first
views and then the second, `NTXentLoss` compares them. Encoder, head, pictures, views, batch size,
optimizer, clipping and PyTorch's number of threads are the same on both sides. What `fit` does
beside, such as keeping freed memory (`cmssf_lib.train.threads.keep_freed_memory`), is on our side
alone.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

import torch
from lightly.loss import NTXentLoss
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from benchmarks.alternate import Turn, alternate, ratio
from benchmarks.pictures import lightlys_loader, photo_views, pictures
from benchmarks.report import Report
from cmssf_lib.data import ImageTextData
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.methods import SimCLR
from cmssf_lib.presets import Preset, preset
from cmssf_lib.runs import Run
from cmssf_lib.train import OVERHEAD, CollapseWarning, Stopwatch, fit, make_optimizer

TARGETS = {"quick": 1.5, "standard": 1.1}
PARTS = ("data", "views", "forward", "backward", "update", "logging", "other")


@dataclass(frozen=True)
class Settings:
    """What is trained, on which pictures; a round is one epoch."""

    preset: Preset
    data: ImageTextData

    @property
    def steps(self) -> int:
        return len(self.data) // self.preset.train.batch_size


@dataclass(frozen=True)
class Round:
    """What one epoch took: images a second, and seconds a step for each of `PARTS`."""

    rate: float
    parts: dict[str, float]


def settings_of(name: str, steps: int, rounds: int) -> tuple[Settings, str]:
    """Take everything from a preset but the views, which must be such as both can make.

    Returns:
        The settings, and what the pictures are.
    """
    chosen = preset(name, "simclr")
    config = replace(chosen.simclr, views=photo_views())
    # One epoch warms up and is not counted.
    train = replace(chosen.train, epochs=rounds + 1)
    data, what = pictures(chosen, steps * train.batch_size)
    return Settings(replace(chosen, simclr=config, train=train), data), what


@contextmanager
def seams(method: nn.Module) -> Iterator[Stopwatch]:
    """Time from outside what lies between the seams of `fit`'s step.

    "forward" is the method's loss, "backward" lasts until the optimizer begins, clipping included,
    "update" is the optimizer; the time of views is taken out of the first.
    """
    watch, loss = Stopwatch(), method.loss
    before = (0.0, 0.0)

    def clocks() -> tuple[float, float]:
        """The time, and how much of it the views have taken."""
        return time.perf_counter(), watch.seconds["views"]

    def ends(part: str) -> None:
        nonlocal before
        now = clocks()
        watch.seconds[part] += (now[0] - before[0]) - (now[1] - before[1])
        before = now

    def timed_loss(batch):
        nonlocal before
        before = clocks()
        out = loss(batch)
        ends("forward")
        return out

    hooks = [
        register_optimizer_step_pre_hook(lambda *_: ends("backward")),
        register_optimizer_step_post_hook(lambda *_: ends("update")),
    ]
    method.loss = timed_loss
    try:
        with watch.on(method, "views"):
            yield watch
    finally:
        method.loss = loss
        for hook in hooks:
            hook.remove()


def a_round(seconds: float, steps: int, batch_size: int, parts: dict[str, float]) -> Round:
    """Divide an epoch among its parts; what nobody timed is "other"."""
    parts = defaultdict(float, parts)
    parts["other"] = seconds - sum(parts.values())
    return Round(steps * batch_size / seconds, {part: parts[part] / steps for part in PARTS})


def ours(settings: Settings, turn: Turn) -> None:
    """Train with `fit`; what a round took is read from its history."""
    chosen, batch_size = settings.preset, settings.preset.train.batch_size
    warnings.simplefilter("ignore", CollapseWarning)  # nobody wants to learn anything here
    torch.manual_seed(0)
    method = SimCLR(ImageEncoder(chosen.vision), chosen.simclr)
    with seams(method) as watch:

        def watch_epoch(run: Run) -> None:
            row, parts = run.history[-1], watch.reset()
            parts |= {part: row[f"{part}_share"] * row["seconds"] for part in OVERHEAD}
            result = a_round(row["seconds"], settings.steps, batch_size, parts)
            turn(None if len(run.history) == 1 else result)

        fit(method, settings.data, chosen.train, watch=watch_epoch, progress=False)


def lightlys(settings: Settings, turn: Turn) -> None:
    """Train as lightly's examples do."""
    chosen, batch_size = settings.preset, settings.preset.train.batch_size
    loader = lightlys_loader(settings.data, chosen.simclr.views, batch_size)
    torch.manual_seed(0)
    same = SimCLR(ImageEncoder(chosen.vision), chosen.simclr)
    model = nn.Sequential(same.image_encoder, same.head)
    criterion = NTXentLoss(temperature=chosen.simclr.temperature)
    optimizer = make_optimizer(model, chosen.train)
    model.train()
    for epoch in range(chosen.train.epochs):
        watch, start = Stopwatch(), time.perf_counter()
        for (first, second), _labels in watch.each(iter(loader), "data"):
            with watch("forward"):
                loss = criterion(model(first), model(second))
            with watch("backward"):
                loss.backward()
                if chosen.train.clip > 0:
                    nn.utils.clip_grad_norm_(model.parameters(), chosen.train.clip)
            with watch("update"):
                optimizer.step()
                optimizer.zero_grad()
        seconds = time.perf_counter() - start
        result = a_round(seconds, settings.steps, batch_size, watch.reset())
        turn(None if epoch == 0 else result)


def run(name: str, *, steps: int, rounds: int = 5) -> Report:
    """Compare the two at a preset's encoder and batch size."""
    settings, what = settings_of(name, steps, rounds)
    return report(what, settings.preset, *alternate((ours, lightlys), settings, rounds))


def report(what: str, chosen: Preset, *sides: list[Round]) -> Report:
    """Put images a second beside each other, and where the time of a step goes."""
    times = ratio(*([r.rate for r in side] for side in sides))
    name, target = chosen.name, TARGETS[chosen.name]
    rows = [
        ("images/s", *(f"{median(r.rate for r in side):,.0f}" for side in sides)),
        ("ratio", str(times), ""),
    ]
    for part in PARTS:
        seconds = [median(r.parts[part] for r in side) for side in sides]
        rows.append((f"{part}, ms a step", *(f"{1000 * s:.1f}" for s in seconds)))
    return Report(
        f"SimCLR's step, {name} encoder, batches of {chosen.train.batch_size} ({what}; "
        "lightly's views are made by its workers: its “data” is the wait for them)",
        ("", "ours", "lightly"),
        tuple(rows),
        {f"{name} step at least {target:g} times as fast": times.median >= target},
    )
