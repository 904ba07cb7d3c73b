"""Training on 100,000 pictures that stay on disk: its memory, and what loading takes of a step.

Each training is a process of its own, on JPEG files of 64 pixels in one Arrow file. The peak is the
process's resident memory; the pages of the mapped files count as long as they are in memory, though
the system may take them back. Beside it stands what was the process's own at the end.
"""

import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from PIL import Image

from benchmarks.report import Report
from cmssf_lib.build import build
from cmssf_lib.data import arrow_folder, digit_scenes
from cmssf_lib.environment import peak_memory_gb
from cmssf_lib.presets import preset
from cmssf_lib.train import CollapseWarning, fit

MOST_GB, LARGEST = 1.5, 0.1
SIDE = 64


def rows(count: int, split: str) -> Iterator[dict[str, Any]]:
    """Yield pictures: scenes, each moved to the right by another number of pixels."""
    data = getattr(digit_scenes("tinted", train=1600, test=100, image_size=SIDE), split)
    pixels = data.images.permute(0, 2, 3, 1).numpy()
    for i in range(count):
        held = io.BytesIO()
        moved = pixels[i % len(pixels)].copy()
        moved[:, : i // len(pixels) % SIDE] = i % 251
        Image.fromarray(moved).save(held, "JPEG", quality=90)
        label = int(data.labels[i % len(pixels)])
        yield {"image": {"bytes": held.getvalue(), "path": None}, "label": label}


def write(folder: Path, count: int) -> None:
    """Write so many pictures, and a hundredth of them to test on."""
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    made = {
        split: datasets.Dataset.from_generator(
            rows,
            datasets.Features(kinds),
            cache_dir=str(folder / "made"),
            gen_kwargs={"count": n, "split": split},
        )
        for split, n in (("train", count), ("test", -(-count // 100)))
    }
    datasets.DatasetDict(made).save_to_disk(folder / "pictures")


def train(folder: str, where: str) -> dict[str, float]:
    """Train SimCLR with the quick encoder for an epoch; return what it took."""
    chosen = preset("quick", "simclr")
    data = arrow_folder(Path(folder, "pictures"), image_size=chosen.data.image_size).train
    if where == "memory":
        data = replace(data, images=data.images[:])
    config = replace(chosen.train, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        row = fit(build(chosen, "simclr", data), data, config, progress=False).history[0]
    status = Path("/proc/self/status").read_text() if sys.platform == "linux" else "RssAnon: 0"
    own = int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e9
    return {"peak": peak_memory_gb(), "own": own} | row


def run(count: int = 100_000) -> Report:
    """Train from disk and from memory, one after the other."""
    found = {}
    with TemporaryDirectory() as folder:
        write(Path(folder), count)
        for where in ("disk", "memory"):
            code = f"from benchmarks import disk; disk.main({folder!r}, {where!r})"
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
            found[where] = json.loads(done.stdout)
    return report(count, found)


def report(count: int, found: dict[str, dict[str, float]]) -> Report:
    """Put into a table what the trainings took."""
    table = [
        (
            f"from {where}",
            f"{row['images_per_second']:,.0f}",
            f"{row['data_share']:.1%}",
            f"{row['peak']:.2f}",
            f"{row['own']:.2f}",
        )
        for where, row in found.items()
    ]
    kept = {
        f"from disk: at most {MOST_GB} GB": found["disk"]["peak"] <= MOST_GB,
        f"from disk: loading takes at most {LARGEST:.0%} of a step": (
            found["disk"]["data_share"] <= LARGEST
        ),
    }
    header = ("", "images/s", "loading", "peak memory, GB", "of it not in files, GB")
    return Report(f"{count:,} pictures of {SIDE} pixels, quick encoder", header, tuple(table), kept)


def main(folder: str, where: str) -> None:
    """Print what one training took, as JSON."""
    print(json.dumps(train(folder, where)))
