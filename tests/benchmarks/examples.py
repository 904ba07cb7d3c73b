"""The smallest sides there are: for the tests, which see to it that turns are taken."""

import os

from benchmarks.alternate import Turn


def counting(settings: int, turn: Turn) -> None:
    """Say how often it was asked, and in which process."""
    for asked in range(settings + 1):
        turn((asked, os.getpid()) if asked else None)


def failing(settings: int, turn: Turn) -> None:
    """Fail in the first round."""
    turn(None)
    raise RuntimeError("as the test wants it")
