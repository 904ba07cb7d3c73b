"""Run the benchmarks named, or all; the exit status is 1 if a promise was missed."""

import argparse
import os
import sys
import time
from collections.abc import Callable

import torch

from benchmarks import busy, captions, chunks, disk, gpu, masked, overhead, step, views
from benchmarks.report import Report

BENCHMARKS: dict[str, tuple[Callable[[], Report], ...]] = {
    "views": (lambda: views.run("quick"), lambda: views.run("standard")),
    "step": (lambda: step.run("quick", steps=20), lambda: step.run("standard", steps=6)),
    "overhead": (overhead.run,),
    "captions": (captions.run,),
    "chunks": (chunks.run,),
    "busy": (busy.run,),
    "disk": (disk.run,),
    "gpu": tuple(gpu.reports()),
    "mae": (lambda: masked.run("quick", steps=15), lambda: masked.run("standard", steps=7)),
}


def main(arguments: list[str] | None = None) -> int:
    """Print one table after the other."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="|".join(BENCHMARKS))
    names = parser.parse_args(arguments).names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    begin, kept = time.perf_counter(), True
    print(
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} "
        "cores. A ratio is the median over the rounds, with its smallest and largest."
    )
    for name in names:
        if not BENCHMARKS[name]:
            print(f"\nno GPU here: {name} is left out")
        for benchmark in BENCHMARKS[name]:
            report = benchmark()
            print(report, flush=True)
            kept = kept and all(report.kept.values())
    print(f"\n{time.perf_counter() - begin:.0f} s")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
