"""Two sides in turn, each in a process of its own, so that neither warms or disturbs the other.

A machine has good and bad seconds. Rounds of one side between rounds of the other meet the same
ones, and the ratio of two neighbouring rounds is steadier than either of its times.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

#: A side is a function of its settings and of ``turn``. It calls ``turn(None)`` when it is ready
#: to be measured and ``turn(result)`` after each round; each call returns when it may go on.
Turn = Callable[[Any], None]
Side = Callable[[Any, Turn], None]


def alternate(sides: Sequence[Side], settings: Any, rounds: int) -> list[list[Any]]:
    """Run the sides in turn and return their results, a list for each side.

    Args:
        sides: Functions at the top of a module, which a new process can import.
        settings: Given to each side; it goes through a pipe.
        rounds: Of each side. Who begins a round changes from round to round.

    Raises:
        EOFError: If a side ends before its last round; its own error stands above.
    """
    context = multiprocessing.get_context("spawn")  # nothing is inherited, on any system
    processes, pipes = [], []
    try:
        for side in sides:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, side, settings))
            process.start()
            there.close()  # the child's alone, so that its end is noticed here
            processes.append(process)
            pipes.append(here)
            here.recv()  # ready
        results: list[list[Any]] = [[] for _ in sides]
        for number in range(rounds):
            order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
            for i in order:
                pipes[i].send("go")
                results[i].append(pipes[i].recv())
        return results
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def _serve(pipe: Connection, side: Side, settings: Any) -> None:
    def turn(result: Any) -> None:
        pipe.send(result)
        pipe.recv()

    with suppress(EOFError, BrokenPipeError):  # after the last round nobody is asking any more
        side(settings, turn)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast, round by round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({min(self.values):.2f} to {max(self.values):.2f})"


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Divide each round of the first by the same round of the second."""
    return Ratio(tuple(a / b for a, b in zip(first, second, strict=True)))
