"""What of a step is not the encoders' arithmetic: data, views and logging, for every method."""

import warnings
from dataclasses import replace

from benchmarks.pictures import pictures
from benchmarks.report import Report
from cmssf_lib.build import build
from cmssf_lib.presets import preset
from cmssf_lib.train import OVERHEAD, CollapseWarning, fit

METHODS = ("simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised")
LARGEST = 0.1


def shares(name: str, method: str, steps: int, batch_size: int | None = None) -> dict[str, float]:
    """Train two epochs of so many steps; return the second's shares, and seconds a step."""
    chosen = preset(name, method)
    train = replace(chosen.train, epochs=2, batch_size=batch_size or chosen.train.batch_size)
    chosen = replace(chosen, train=train)
    data, _ = pictures(chosen, steps * train.batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        run = fit(build(chosen, method, data), data, train, progress=False)
    row = run.history[-1]
    return {"seconds": row["seconds"] / steps} | {p: row[f"{p}_share"] for p in OVERHEAD}


def run(name: str = "standard", *, steps: int = 5, batch_size: int | None = None) -> Report:
    """Measure every method on a preset's encoder."""
    _, what = pictures(preset(name, METHODS[0]), 1)
    found = {method: shares(name, method, steps, batch_size) for method in METHODS}
    totals = {method: sum(part[p] for p in OVERHEAD) for method, part in found.items()}
    rows = [
        (
            method,
            f"{1000 * part['seconds']:,.0f}",
            *(f"{part[p]:.1%}" for p in OVERHEAD),
            f"{totals[method]:.1%}",
        )
        for method, part in found.items()
    ]
    return Report(
        f"Beside the arithmetic, {name} encoder ({what})",
        ("", "ms a step", *OVERHEAD, "together"),
        tuple(rows),
        {f"{m}: at most {LARGEST:.0%} of a step": total <= LARGEST for m, total in totals.items()},
    )
