"""Where the seconds of a training step go.

One stopwatch for the whole library. `fit` and the methods put their parts under it
(``with stopwatch("views"): ...``), and `fit` prints and records the shares, so that
everything beside the encoders can be held under a tenth of a step.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds spent in named parts.

    On a GPU the kernels run on after Python has moved on, so a part's seconds are those
    of its launches, unless ``synchronise`` is set: then every part waits for its kernels,
    which gives true shares and a slower run.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.synchronise = False

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time spent inside the ``with`` block to ``part``."""
        start = self._now()
        try:
            yield
        finally:
            self.seconds[part] += self._now() - start

    def reset(self) -> dict[str, float]:
        """Return the seconds of each part so far, and start again from zero."""
        seconds = dict(self.seconds)
        self.seconds.clear()
        return seconds

    def _now(self) -> float:
        if self.synchronise and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


stopwatch = Stopwatch()
