"""Two SimCLR views of every picture of a batch: ours, and lightly's in two worker processes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.alternate import Turn, alternate, ratio
from benchmarks.pictures import lightlys_loader, photo_views, pictures
from benchmarks.report import Report
from cmssf_lib.data import ImageTextData, batches
from cmssf_lib.presets import preset
from cmssf_lib.views import Views

TARGET = 5.0


@dataclass(frozen=True)
class Settings:
    """Which pictures, and how long a round lasts at least."""

    data: ImageTextData
    batch_size: int
    rounds: int
    seconds: float


def rate(one_pass: Callable[[], None], settings: Settings) -> float:
    """Go through the pictures until the round has lasted; return images a second."""
    passes, lasted, start = 0, 0.0, time.perf_counter()
    while passes == 0 or lasted < settings.seconds:
        one_pass()
        passes += 1
        lasted = time.perf_counter() - start
    return passes * len(settings.data) / lasted


def ours(settings: Settings, turn: Turn) -> None:
    """Time our way from the data in memory to batches of views."""
    views = Views(photo_views())

    def one_pass() -> None:
        for batch in batches(settings.data, settings.batch_size):
            views(batch.images.repeat(2, 1, 1, 1))  # as `SimCLR.loss` makes them

    one_pass()
    turn(None)
    for _ in range(settings.rounds):
        turn(rate(one_pass, settings))


def lightlys(settings: Settings, turn: Turn) -> None:
    """Time lightly's way."""
    loader = lightlys_loader(settings.data, photo_views(), settings.batch_size)

    def one_pass() -> None:
        for (first, second), _labels in loader:
            assert len(first) == len(second) == settings.batch_size

    one_pass()  # the workers start
    turn(None)
    for _ in range(settings.rounds):
        turn(rate(one_pass, settings))


def run(name: str, *, steps: int = 10, rounds: int = 7, seconds: float = 2.0) -> Report:
    """Compare the two at a preset's pictures and batch size."""
    chosen = preset(name, "simclr")
    data, what = pictures(chosen, steps * chosen.train.batch_size)
    settings = Settings(data, chosen.train.batch_size, rounds, seconds)
    return report(what, settings, *alternate((ours, lightlys), settings, rounds))


def report(what: str, settings: Settings, our: list[float], their: list[float]) -> Report:
    """Put images a second beside each other."""
    side, times = settings.data.images.shape[-1], ratio(our, their)
    return Report(
        f"Two views of a picture, {side}×{side} ({what})",
        ("", "images/s"),
        (
            ("ours", f"{median(our):,.0f}"),
            ("lightly, two workers", f"{median(their):,.0f}"),
            ("ratio", str(times)),
        ),
        {f"views of {side}×{side} at least {TARGET:g} times as fast": times.median >= TARGET},
    )
