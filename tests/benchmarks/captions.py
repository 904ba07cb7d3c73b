"""What the text tower takes of a step, with each caption encoded once and with all of them."""

import time
from statistics import median

import torch

from benchmarks.alternate import Turn, alternate, ratio
from benchmarks.pictures import pictures
from benchmarks.report import Report
from cmssf_lib.build import build
from cmssf_lib.data import Batch, batches
from cmssf_lib.methods import CMSSF
from cmssf_lib.presets import preset
from cmssf_lib.train import make_optimizer
from cmssf_lib.train.threads import keep_freed_memory

LARGEST = 0.02


def once(settings: tuple[str, int | None], turn: Turn) -> None:
    """As the library does it: pictures with the same caption share its vector."""
    _measured(settings, turn, lambda batch: batch)


def every(settings: tuple[str, int | None], turn: Turn) -> None:
    """A caption for each picture, encoded as often as it stands there."""

    def repeated(batch: Batch) -> Batch:
        return Batch(
            images=batch.images,
            labels=batch.labels,
            captions=tuple(batch.captions[i] for i in batch.caption_index.tolist()),
            caption_index=torch.arange(len(batch)),
            index=batch.index,
            whole_index=batch.caption_index,  # equal captions stay equal to the loss
        )

    _measured(settings, turn, repeated)


def _measured(settings: tuple[str, int | None], turn: Turn, change) -> None:
    """Each round: (seconds of a step, seconds of its text tower there and back, the loss)."""
    keep_freed_memory()  # as `fit` does
    name, batch_size = settings
    chosen = preset(name, "cmssf")
    size = batch_size or chosen.train.batch_size
    data, _ = pictures(chosen, size)
    method = build(chosen, "cmssf", data)
    assert isinstance(method, CMSSF)
    optimizer = make_optimizer(method, chosen.train)
    batch = change(next(batches(data, size)))

    def step() -> float:
        torch.manual_seed(0)
        loss = method.loss(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def text() -> None:
        method.encode_text(batch.captions).sum().backward()
        optimizer.zero_grad()

    first = step()  # what is loaded once is loaded now
    text()
    turn(None)
    while True:
        seconds = []
        for part in (step, text):
            start = time.perf_counter()
            part()
            seconds.append(time.perf_counter() - start)
        turn((*seconds, first))


def run(name: str = "standard", *, rounds: int = 9, batch_size: int | None = None) -> Report:
    """Take steps in turn."""
    _, what = pictures(preset(name, "cmssf"), 1)
    results = alternate((once, every), (name, batch_size), rounds)
    steps, texts = ([[r[i] for r in side] for side in results] for i in (0, 1))
    shares = [
        median(t / s for t, s in zip(text, step, strict=True))
        for text, step in zip(texts, steps, strict=True)
    ]
    rows = [
        (label, f"{1000 * median(s):.0f}", f"{1000 * median(t):.1f}", f"{share:.1%}",
         f"{side[0][2]:.5f}")
        for label, s, t, share, side in zip(
            ("each caption once", "all captions"), steps, texts, shares, results, strict=True
        )
    ]  # fmt: skip
    times = ratio(steps[1], steps[0])
    return Report(
        f"The text tower's part of a step of CMSSF, {name} preset ({what})",
        ("", "ms a step", "ms for the texts", "part", "first loss"),
        tuple(rows),
        {f"at most {LARGEST:.0%} of a step; with all captions a step takes {times}": (
            shares[0] <= LARGEST
        )},
    )  # fmt: skip
