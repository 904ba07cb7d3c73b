"""The speed of `fit` on a quiet CPU, and beside one and three programs that never pause."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch

from benchmarks.pictures import pictures
from benchmarks.report import Report
from cmssf_lib import data
from cmssf_lib.build import build
from cmssf_lib.presets import preset
from cmssf_lib.train import CollapseWarning, fit, threads

#: Share of the quiet speed that is left beside so many programs.
TARGETS = {1: 0.70, 3: 0.45}
METHODS = ("cmssf", "simclr")


@contextmanager
def programs(count: int) -> Iterator[None]:
    """Let so many programs compute without pause, each on one core."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def speed(name: str, chooses: bool, epochs: int) -> tuple[float, str]:
    """Train; return images a second, the first epoch left out, and how it computed at the end."""
    chosen = preset("quick", name)
    train = replace(chosen.train, epochs=epochs)
    if name == "simclr":
        scenes, _ = pictures(chosen, 30 * train.batch_size)
    else:
        scenes = data.load(replace(chosen.data, train=30 * train.batch_size)).train
    usual, before = threads.FEWEST, torch.get_num_threads()
    threads.FEWEST = usual if chooses else 10**9
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            run = fit(build(chosen, name, scenes), scenes, train, progress=False)
    finally:
        threads.FEWEST = usual
    ways = run.environment.get("threads_from_step", {"1": f"{before} threads"})
    return median(row["images_per_second"] for row in run.history[1:]), list(ways.values())[-1]


def run(epochs: int = 3) -> Report:
    """Measure the quick preset with and without a choice of threads."""
    rows, kept = [], {}
    for name in METHODS:
        quiet = 0.0
        for count in (0, *TARGETS):
            with programs(count):
                usual, _ = speed(name, False, epochs)
                chosen, way = speed(name, True, epochs)
            quiet = quiet or chosen
            beside = f"{name}, beside {count} program{'s' * (count != 1)}"
            rows.append((beside, f"{usual:,.0f}", f"{chosen:,.0f}", f"{chosen / quiet:.0%}", way))
            if count:
                kept[f"{beside}: at least {TARGETS[count]:.0%} of the quiet speed"] = (
                    chosen >= TARGETS[count] * quiet
                )
            else:
                kept[f"{name}, quiet: the choice costs at most 5 %"] = chosen >= 0.95 * usual
    header = ("", "usual threads, images/s", "chosen threads", "of the quiet speed", "chosen")
    cores = os.cpu_count()
    return Report(f"Beside other programs, quick preset, {cores} cores", header, tuple(rows), kept)
