"""The stopwatch, under a clock that the tests move by hand."""

import pytest
from torch import nn

from cmssf_lib.train import Stopwatch, log


@pytest.fixture
def clock(monkeypatch):
    """A list with one number: the time it is."""
    now = [100.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    return now


def test_the_seconds_of_a_part_add_up(clock):
    watch = Stopwatch()
    for part, seconds in (("views", 1.5), ("data", 0.25), ("views", 2.0)):
        with watch(part):
            clock[0] += seconds
        clock[0] += 50  # what lies between the parts belongs to none
    assert watch.seconds == {"views": 3.5, "data": 0.25}


def test_reset_returns_the_seconds_and_starts_again(clock):
    watch = Stopwatch()
    with watch("views"):
        clock[0] += 1
    assert watch.reset() == {"views": 1.0}
    assert watch.reset() == {}
    with watch("views"):
        clock[0] += 2
    assert watch.reset() == {"views": 2.0}


def test_a_part_that_fails_is_counted_and_its_error_goes_on(clock):
    watch = Stopwatch()

    def failing() -> None:
        with watch("data"):
            clock[0] += 3
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        failing()
    assert watch.seconds == {"data": 3.0}


def test_a_part_within_a_part_is_counted_in_both(clock):
    watch = Stopwatch()
    with watch("step"):
        clock[0] += 1
        with watch("views"):
            clock[0] += 2
    assert watch.seconds == {"step": 3.0, "views": 2.0}


def test_the_calls_of_some_modules_are_timed_and_nothing_stays(clock):
    class Slow(nn.Module):
        def forward(self, x):
            clock[0] += 2
            if x is None:
                raise ValueError("nothing to see")
            return x

    method = nn.ModuleDict({"views": Slow(), "local_views": Slow(), "encoder": Slow()})
    stopwatch = Stopwatch()
    with stopwatch.on(method, "views"):
        for part in method.values():
            part(1)
        with pytest.raises(ValueError, match="nothing to see"):
            method["views"](None)  # counted as well
    method["views"](1)
    assert stopwatch.seconds == {"views": 6.0}
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in method.values())


def test_items_are_timed_as_they_arrive(clock):
    def slow():
        for item in range(3):
            clock[0] += 1
            yield item

    stopwatch = Stopwatch()
    for _ in stopwatch.each(slow(), "data"):
        clock[0] += 10
    assert stopwatch.seconds == {"data": 3.0}
