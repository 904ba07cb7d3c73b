"""Try settings for CIFAR-10 as the protocol says, the same number for every method.

    python .ci/trials.py --jobs 6           make the trials that are not in the ledger yet
    python .ci/trials.py --list             what there is to make
    python .ci/trials.py --best             the settings that won, one line a method

The search is declared in `book/protocol.md`: one random generator draws the trials of all methods.
A trial trains at a part of the budget, and a linear classifier with all labels judges its features
on pictures that were held out of the training set. Every trial, the bad ones too, becomes a row of
`book/runs/trials.csv`. Start it again to go on; a trial that was cut off begins anew.
"""

import argparse
import csv
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from cmssf_lib import cli
from cmssf_lib.build import build
from cmssf_lib.data import load
from cmssf_lib.environment import environment
from cmssf_lib.evaluate import accuracy, embed_features, linear_probe
from cmssf_lib.machine import fastest_device
from cmssf_lib.presets import preset
from cmssf_lib.train import fit

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "book" / "runs" / "trials.csv"
PARTS = {"card": (16, 4), "cores": (4, 8)}  # trials of a method, and the budget's divisor
RATES = (3e-4, 6e-3)
SHARED: dict[str, tuple[Any, ...]] = {
    "train.weight_decay": (0.02, 0.05, 0.1, 0.3),
    "train.optimizer": ("adamw", "muon"),
    "erase": (0.0, 0.375),  # the side of a hidden square, as a fraction of the picture's
}
#: One setting of the method's own.
OWN: dict[str, dict[str, tuple[Any, ...]]] = {
    "simclr": {"simclr.temperature": (0.1, 0.2, 0.5)},
    "moco": {"moco.temperature": (0.1, 0.2, 0.5)},
    "byol": {"byol.momentum": (0.96, 0.98, 0.99, 0.996)},
    "dino": {"dino.momentum": (0.96, 0.98, 0.99, 0.996)},
    "mae": {"mae.mask_ratio": (0.5, 0.65, 0.75)},
    "vicreg": {"vicreg.variance": (10.0, 25.0, 50.0)},
    "supervised": {},
    "cmssf": {"cmssf.head_norm": (True, False)},
}
COLUMNS = (
    "method", "trial", "lr", "weight_decay", "optimizer", "erase", "own", "epochs",
    "linear", "loss", "seconds", "device", "commit",
)  # fmt: skip


def drawn(part: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield method, number of the trial and settings; always the same ones."""
    trials, divisor = PARTS[part]
    dice = random.Random(0)
    for method, own in OWN.items():
        epochs = max(1, round(preset("standard", method).train.epochs / divisor))
        for trial in range(trials):
            low, high = map(math.log, RATES)
            settings = {"train.lr": round(math.exp(dice.uniform(low, high)), 6)}
            settings |= {name: dice.choice(values) for name, values in (SHARED | own).items()}
            settings[f"{method}.views.erase"] = settings.pop("erase")
            yield method, trial, {"train.epochs": epochs, **settings}


def words(method: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings as arguments of ``cmssf train``."""
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [method, "--preset", "standard", *options]


def make(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train and judge one trial; return what its row adds to the settings."""
    _, chosen = cli.read_settings(words(method, settings))
    training, held_out = load(chosen.data).train.hold_out(chosen.data.validation, chosen.data.seed)
    pupil = build(chosen, method, training)
    start = time.perf_counter()
    run = fit(pupil, training, chosen.train, progress=False)
    seconds = time.perf_counter() - start
    bank, queries = (embed_features(pupil, data).cpu() for data in (training, held_out))
    said = linear_probe(bank, training.labels.cpu(), queries)
    here = environment(fastest_device())
    return {
        "linear": round(accuracy(said, held_out.labels.cpu()), 4),
        "loss": round(run.history[-1]["loss"], 4),
        "seconds": round(seconds),
        "device": here["device"],
        "commit": here["commit"],
    }


def row(
    method: str, trial: int, settings: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a trial as a row of the ledger."""
    short = {name.rpartition(".")[2]: value for name, value in settings.items()}
    own = "; ".join(f"{name}={short[name.rpartition('.')[2]]}" for name in OWN[method])
    shared = {name: short[name] for name in ("lr", "weight_decay", "optimizer", "erase", "epochs")}
    return {"method": method, "trial": trial, **shared, "own": own, **found}


def ledger() -> list[dict[str, str]]:
    """Read the rows that are there."""
    if not LEDGER.is_file():
        return []
    with LEDGER.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def best() -> dict[str, dict[str, str]]:
    """Return the winning row of each method."""
    won: dict[str, dict[str, str]] = {}
    for found in ledger():
        other = won.setdefault(found["method"], found)
        if float(found["linear"]) > float(other["linear"]):
            won[found["method"]] = found
    return won


def in_a_process(method: str, trial: int, part: str) -> dict[str, Any] | None:
    """Make a trial in a process of its own; ``None`` if it failed, which is shown."""
    asked = [sys.executable, __file__, "--part", part, "--one", method, str(trial)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        asked, cwd=ROOT, env=os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        print(f"{method} {trial}: {done.stdout}{done.stderr}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, default="card", help="how many, at what budget")
    parser.add_argument("--jobs", type=int, default=1, help="trials side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start none after that")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "TRIAL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        wanted = {(method, str(trial)): s for method, trial, s in drawn(asked.part)}
        print(json.dumps(make(asked.one[0], wanted[tuple(asked.one)])))
        return 0
    if asked.best:
        for found in best().values():
            print(", ".join(f"{name} {found[name]}" for name in COLUMNS[:9]))
        return 0
    there = {(found["method"], found["trial"]) for found in ledger()}
    # The first of each method, then the second: a session that is cut off leaves equal numbers.
    waiting = sorted(drawn(asked.part), key=lambda one: one[1])
    waiting = [one for one in waiting if (one[0], str(one[1])) not in there]
    if asked.list:
        print("\n".join("cmssf train " + " ".join(words(m, s)) for m, _, s in waiting))
        return 0
    lock, end = Lock(), time.monotonic() + 60 * asked.minutes

    def one(method: str, trial: int, settings: Mapping[str, Any]) -> bool:
        if time.monotonic() > end:
            return True
        found = in_a_process(method, trial, asked.part)
        if found is None:
            return False
        with lock:
            new = not LEDGER.is_file()
            with LEDGER.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row(method, trial, settings, found))
        print(f"{method} {trial}: {found['linear']:.1%} in {found['seconds']} s", flush=True)
        return True

    with ThreadPoolExecutor(asked.jobs) as pool:
        return 0 if all(list(pool.map(lambda them: one(*them), waiting))) else 1


if __name__ == "__main__":
    sys.exit(main())
