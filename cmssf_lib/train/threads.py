"""Speed on a CPU: how many threads compute, how they wait for each other, and freed memory.

PyTorch's threads wait for each other by spinning, which is fastest on a quiet machine. Beside other
programs a waiting thread spins on a core that the awaited one needs, and two threads can be ten
times slower than one.
"""

import copy
import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cmssf_lib.data.image_text import Batch, batches
from cmssf_lib.methods.base import Method
from cmssf_lib.train.session import Session
from cmssf_lib.train.steps import Beside

FEWEST = 100  # steps of a training for which it is worth to choose
ENOUGH = 0.25  # seconds in which short steps are timed
WORTH = 1.1  # another way of computing must be this much faster
SLOWER, FASTER = 0.5, 1.3  # a change of pace by this factor asks for a new choice
WINDOW, PAUSE = 2.0, 15.0  # seconds over which a pace is measured, and between two choices
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names and numbers, from malloc.h


@dataclass(frozen=True)
class Way:
    """How many threads compute, and whether they sleep while they wait for each other."""

    threads: int
    sleeping: bool = False

    def __str__(self) -> str:
        count = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{count} that sleep while waiting" if self.sleeping else count


class Pace:
    """Chooses the way of computing that is fastest on a CPU at this moment.

    It asks for a choice after the first step, and again when the pace of the steps changes. Results
    depend on the number of threads in their last digits, so an interrupted run keeps its number,
    and only chooses how the threads wait.

    Args:
        threads: The number of threads of an interrupted run; ``None`` for a new one.
        steps: Number of steps to come. For a few there is nothing to gain.
    """

    def __init__(self, threads: int | None, steps: int) -> None:
        self.usual = torch.get_num_threads()
        threads = min(threads or 0, os.cpu_count() or 1)  # on another machine there may be fewer
        counts = [threads] if threads else sorted({self.usual, -(-self.usual // 2), 1})[::-1]
        asleep = (False, True) if sys.platform == "linux" else (False,)
        ways = [Way(n, sleeping) for n in counts for sleeping in asleep if n > 1 or not sleeping]
        self.ways = ways if steps >= FEWEST and self.usual > 1 else ways[:1]
        self.way, self.sleepers = self.ways[0], list[Sleeper]()
        self.chosen_at, self.reference = -math.inf, 0.0  # when, and the pace after it
        self._compute_in(self.way)
        self.rest()

    def asks(self) -> bool:
        """Count a step; return whether it is time to choose."""
        self.steps += 1
        if len(self.ways) < 2:
            return False
        now = time.monotonic()
        if self.chosen_at < 0:
            return True
        if (seconds := now - self.since) < WINDOW:
            return False
        pace = self.steps / seconds
        self.rest()
        self.reference = self.reference or pace
        changed = not SLOWER < pace / self.reference < FASTER
        return changed and now - self.chosen_at > PAUSE

    def choose(self, method: Method, batch: Batch) -> Way | None:
        """Time steps in each way, and compute in the fastest from now on.

        Args:
            method: Not changed; a copy takes the steps.
            batch: To take them on.

        Returns:
            The way, if it is another one than before.
        """
        twin = copy.deepcopy(method).train()

        def step() -> None:
            with torch.random.fork_rng([]):
                twin(batch)["loss"].backward()

        before, usual = self.way, self.ways[0]
        seconds = {way: self._seconds(way, step) for way in self.ways}
        best = min(self.ways, key=seconds.__getitem__)
        self.way = best if seconds[best] * WORTH < seconds[usual] else usual
        self._compute_in(self.way)
        self.chosen_at, self.reference = time.monotonic(), 0.0
        self.rest()
        return None if self.way == before else self.way

    def rest(self) -> None:
        """Begin a new window: what came before, such as an evaluation, does not count."""
        self.steps, self.since = 0, time.monotonic()

    def end(self) -> None:
        """Compute as before the training."""
        self._compute_in(Way(self.usual))

    def _seconds(self, way: Way, step: Callable[[], None]) -> float:
        """Return how long a step takes, on average over at least two."""
        self._compute_in(way)
        step()  # starts the threads
        start, steps, taken = time.perf_counter(), 0, 0.0
        while steps < 2 or taken < ENOUGH:
            step()
            steps, taken = steps + 1, time.perf_counter() - start
        return taken / steps

    def _compute_in(self, way: Way) -> None:
        torch.set_num_threads(way.threads)
        for sleeper in self.sleepers:
            sleeper.end()
        count = (os.cpu_count() or 1) // way.threads if way.sleeping else 0
        self.sleepers = [Sleeper() for _ in range(count)]


class ChoiceOfThreads(Beside):
    """Lets a training on the CPU compute in the way that is fastest; see `Pace`.

    Here and on a GPU, the process also keeps freed memory.

    Args:
        session: The training.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        keep_freed_memory()
        alone = session.accelerator.num_processes == 1
        steps = session.steps - session.done
        on_cpu = alone and session.accelerator.device.type == "cpu"
        self.pace = Pace(session.threads, steps if on_cpu else 0)

    def after_step(self) -> None:
        """Choose if it is time."""
        session = self.session
        if session.done % session.steps_an_epoch == 1:  # an evaluation lies between two epochs
            self.pace.rest()
        if not self.pace.asks():
            return
        config, environment = session.config, session.run.environment
        batch = next(batches(session.data, config.batch_size, seed=config.seed))
        if way := self.pace.choose(session.method, batch):
            environment["threads"] = way.threads
            environment.setdefault("threads_from_step", {})[str(session.done)] = str(way)
            if not session.bar.disable:
                session.bar.write(f"training goes on with {way}, the fastest on this machine now")

    def end(self) -> None:
        """Compute as before the training."""
        self.pace.end()


def keep_freed_memory() -> None:
    """Let the process reuse the memory of freed tensors instead of returning it to the system.

    By default glibc returns each large block as soon as it is free, and the next step asks for
    the same block again. The system then has to fill it with zeros, page by page: a fifth of the
    time for forward and backward of the standard encoder on one core, at 256 pictures. No result
    changes, but the process keeps its peak memory. Only glibc, on Linux, needs this.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Sleeper(threading.Thread):
    """A thread with a team of its own, which does nothing.

    GNU's OpenMP, which PyTorch uses on Linux, lets waiting threads spin for milliseconds as long as
    there are no more of them than cores; if there are more, they soon sleep. A second team makes
    them more. (``OMP_WAIT_POLICY`` does it too, but only if it is set before a program starts.)
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ready, self.done = threading.Event(), threading.Event()
        self.start()
        self.ready.wait()

    def run(self) -> None:
        """Start the team, and keep it until the end."""
        torch.ones(2**20).sum()  # large enough to be computed by a team
        self.ready.set()
        self.done.wait()

    def end(self) -> None:
        """Dissolve the team."""
        self.done.set()
        self.join()
