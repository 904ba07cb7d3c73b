"""How trainings went, side by side: columns of their histories, over epochs."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmssf_lib.plots.fusion import LINES, STYLES
from cmssf_lib.plots.style import MARKERS, PALE, note, panels, styled
from cmssf_lib.runs import Run

MARKED = 10  # about so many epochs of a line carry its marker


@styled
def run_curves(
    groups: Mapping[str, Sequence[Run]],
    columns: Mapping[str, str],
    *,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Draw columns of runs' histories over the epochs, a panel for each column.

    A line is the mean over a group's runs, its seeds; the band behind it runs from the lowest to
    the highest. A group looks the same in every panel. It is missing from the panel of a column
    that its method does not log, and ends with the last epoch that all of its runs have.

    Args:
        groups: Name → runs that differ in the seed alone.
        columns: Column of the history → what the vertical axis says. Two panels a row.
        lines: Name → height, drawn as a dotted line in the first panel: chance, say.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no group or no column, a group without a run, a run without a
            history, or a column that no run has.
    """
    if not groups or not columns:
        raise ValueError(f"expected runs and columns; got {len(groups)} groups, {len(columns)}")
    for name, runs in groups.items():
        if not runs:
            raise ValueError(f"{name!r} has no run: expected one a seed")
        for run in runs:
            if not run.history:
                raise ValueError(f"the run {run.name} has no history: no epoch is done yet")
    drawn = {
        column: {name: found for name, runs in groups.items() if (found := _rows(runs, column))}
        for column in columns
    }
    for column, curves in drawn.items():
        if not curves:
            known = sorted({key for runs in groups.values() for key in runs[0].history[-1]})
            raise ValueError(f"no run has a column {column!r}; there are {', '.join(known)}")
    looks = dict(zip(groups, zip(cycle(LINES), cycle(MARKERS), cycle(STYLES)), strict=False))
    wide = min(2, len(columns))
    count = -(-len(columns) // wide)
    figure, axes = panels(count, wide, height=2.5 * count + 0.6)
    handles = {}
    for panel in axes.flat[len(columns) :]:
        panel.set_axis_off()
    for panel, (column, label) in zip(axes.flat, columns.items(), strict=False):
        for name, found in drawn[column].items():
            colour, marker, style = looks[name]
            epochs = list(found)
            values = np.asarray(list(found.values()))  # (epochs, runs)
            panel.fill_between(
                epochs, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, lw=0
            )
            (handles[name],) = panel.plot(
                epochs,
                values.mean(axis=1),
                color=colour,
                marker=marker,
                markevery=max(1, len(epochs) // MARKED),
                linestyle=style,
            )
        panel.set(xlabel="epoch", ylabel=label)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for text, height in (lines or {}).items():
        axes[0, 0].axhline(height, color=PALE, linestyle=":", linewidth=1.4)
        note(axes[0, 0], 0.98, height, text, ha="right", color=PALE)
    shown = [name for name in groups if name in handles]
    figure.legend(
        [handles[name] for name in shown],
        shown,
        loc="outside lower center",
        ncols=min(3, len(shown)),
        frameon=False,
        handlelength=3.2,
    )
    return figure


def _rows(runs: Sequence[Run], column: str) -> dict[float, list[float]]:
    """Return epoch → the column's value in each run, for the epochs in which all have one."""
    found = [{row["epoch"]: row[column] for row in run.history if column in row} for run in runs]
    return {
        epoch: [f[epoch] for f in found] for epoch in found[0] if all(epoch in f for f in found)
    }
