"""A large batch's image–text loss in chunks, and open_clip's, which holds the whole matrix."""

import time
from statistics import median

import psutil
import torch

from benchmarks.alternate import Turn, alternate, ratio
from benchmarks.report import Report
from cmssf_lib.environment import peak_memory_gb
from cmssf_lib.losses import image_text_loss

LESS_MEMORY, MORE_TIME = 8.0, 1.3


def ours(settings: tuple[int, int, int], turn: Turn) -> None:
    """The library's loss, some rows at a time."""
    _measured(settings, turn, lambda i, t, s: image_text_loss(i, t, s, chunk=settings[2]))


def theirs(settings: tuple[int, int, int], turn: Turn) -> None:
    """open_clip's loss."""
    from open_clip.loss import ClipLoss

    _measured(settings, turn, ClipLoss())


def _measured(settings: tuple[int, int, int], turn: Turn, loss) -> None:
    """Each round: (seconds of a loss with its gradients, GB that they needed at most, the loss)."""
    b, dim, _ = settings
    torch.manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(torch.randn(b, dim), dim=1).requires_grad_() for _ in range(2)
    )
    scale = torch.tensor(1 / 0.07, requires_grad=True)
    loss(image[:64], text[:64], scale).backward()  # what is loaded once is loaded now
    before = psutil.Process().memory_info().rss / 1e9
    turn(None)
    while True:
        start = time.perf_counter()
        value = loss(image, text, scale)
        value.backward()
        seconds = time.perf_counter() - start
        image.grad = text.grad = scale.grad = None
        turn((seconds, peak_memory_gb() - before, value.item()))


def run(*, b: int = 16_384, dim: int = 256, chunk: int = 512, rounds: int = 5) -> Report:
    """Compute loss and gradients in turn."""
    results = alternate((ours, theirs), (b, dim, chunk), rounds)
    seconds, memory = ([[r[i] for r in side] for side in results] for i in (0, 1))
    times = ratio(seconds[0], seconds[1])
    gigabytes = [max(side) for side in memory]
    names = f"ours, {chunk} rows at a time", "open_clip, whole"
    rows = [
        (name, f"{median(s):.1f}", f"{gb:.2f}", f"{side[0][2]:.5f}")
        for name, s, gb, side in zip(names, seconds, gigabytes, results, strict=True)
    ]
    less = gigabytes[1] / gigabytes[0]
    return Report(
        f"Image–text loss and its gradients, {b:,} pairs of {dim} dimensions",
        ("", "s", "GB at the peak", "loss"),
        tuple(rows),
        {
            f"a peak of at most 1/{LESS_MEMORY:g} of open_clip's (1/{less:.1f})": (
                less >= LESS_MEMORY
            ),
            f"at most {MORE_TIME:g} times its time: {times}": times.median <= MORE_TIME,
        },
    )
