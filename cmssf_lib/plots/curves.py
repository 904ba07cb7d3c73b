"""Curves of runs over the epochs (loss, similarity, retrieval), and losses over batch size."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmssf_lib.plots import style
from cmssf_lib.runs import Run

#: Losses whose minimum is zero even if a batch contains equal captions.
WITHOUT_FLOOR = ("masked", "excess")


@style.styled
def loss_curves(run: Run) -> Figure:
    """Draw the training and validation loss of a run between guessing and the floor.

    Guessing has the loss ln(batch size). The floor is the one-hot loss of a perfect model, which is
    positive if a batch contains equal captions; the masked and the excess loss can reach zero.

    Args:
        run: Its history has a column "loss"; "floor" and "validation_loss" are drawn if present.

    Raises:
        ValueError: If no epoch is done yet, or the run's config has no batch size.
        KeyError: If the history has no column "loss".
    """
    validation = {"validation_loss": "validation"} if _logged(run, "validation_loss") else {}
    figure, axes = _over_epochs(run, "loss (nats)", {"loss": "training", **validation})
    batch = run.config.get("train", {}).get("batch_size")
    if batch is None:
        raise ValueError(f"the config of the run {run.name} has no train.batch_size")
    guessing = math.log(batch)
    style.levels(axes, {f"guessing: ln {batch} = {guessing:.2f}": guessing}, 0.99)
    if "floor" in run.history[-1]:
        floor = run.series("floor")
        what = "floor: equal captions"
        if run.config.get("cmssf", {}).get("loss") in WITHOUT_FLOOR:
            what = "the one-hot loss's floor; this loss can reach 0"
        axes.plot(run.series("epoch"), floor, "-.", color=style.COLOURS["black"], linewidth=1.4)
        style.note(axes, 0.01, floor[0], f"{what} ({floor[-1]:.2f})")
    axes.set_ylim(bottom=min(0.0, *run.series("loss")))
    axes.margins(y=0.12)
    style.legend(figure, "upper", columns=2)
    return figure


@style.styled
def similarity_curves(run: Run) -> Figure:
    """Draw the mean cosine similarity of pictures with their own and with other captions.

    On held-out pictures there are two curves for other captions: those of *other classes*, and
    those of all other pictures. The second is contaminated: some of its captions are right.

    Args:
        run: Its history has the three ``validation_…_similarity`` columns of `evaluate.monitor`,
            or ``positive_similarity`` and ``negative_similarity`` of the training batches.

    Raises:
        ValueError: If no epoch is done yet.
        KeyError: If the history lacks one of these columns.
    """
    where = "on the training batches"
    columns = {"positive_similarity": "own caption", "negative_similarity": "different captions"}
    if _logged(run, "validation_positive_similarity"):
        where = "on held-out pictures"
        columns = {
            "validation_positive_similarity": "own caption",
            "validation_different_class_similarity": "captions of other classes",
            "validation_contaminated_similarity": "all other captions (contaminated)",
        }
    figure, axes = _over_epochs(run, "mean cosine similarity", columns)
    axes.set_title(where, loc="left")
    axes.axhline(0, color=style.PALE, linewidth=1)
    axes.set_ylim(top=1.02)
    style.legend(figure, columns=2)
    return figure


@style.styled
def retrieval_curve(run: Run, *, classes: int) -> Figure:
    """Draw recall at 1 of class-level caption retrieval, and zero-shot accuracy.

    Args:
        run: Its history has the columns ``validation_retrieval_at_1`` and
            ``validation_zero_shot`` (see `evaluate.monitor`).
        classes: Number of classes, which sets the chance level.

    Raises:
        ValueError: If no epoch is done yet, or there are fewer than two classes.
        KeyError: If the history lacks one of the columns.
    """
    if classes < 2:
        raise ValueError(f"with {classes} class(es) every answer is right: expected two or more")
    columns = {
        "validation_retrieval_at_1": "first caption found is of the right class (R@1)",
        "validation_zero_shot": "zero-shot",
    }
    figure, axes = _over_epochs(run, "right on held-out pictures", columns)
    # Curves rise from chance to the ceiling, so these places do not hide the labels.
    style.levels(axes, {"ceiling: 100 %": 1.0}, 0.01, above=False)
    style.levels(axes, {f"chance: one in {classes}": 1 / classes}, 0.99)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(style.percent)
    style.legend(figure, "upper", columns=2)
    return figure


@style.styled
def run_curves(
    groups: Mapping[str, Sequence[Run]],
    columns: Mapping[str, str],
    *,
    lines: Mapping[str, float] = style.NONE,
) -> Figure:
    """Draw columns of runs' histories over the epochs, with one panel per column, two in a row.

    A line is the mean over the runs (seeds) of a group; the band behind it runs from the lowest to
    the highest. A group looks the same in every panel. It is missing from the panel of a column
    that its method does not log, and ends with the last epoch that all of its runs have.

    Args:
        groups: Name → runs that differ only in the seed.
        columns: Column of the history → label of the y axis.
        lines: Name → height, drawn as a dotted line in the first panel, such as chance.

    Raises:
        ValueError: If there is no group or no column, a group has no run, a run has no history,
            or no run has one of the columns.
    """
    if not groups or not columns:
        raise ValueError(f"expected groups and columns; got {len(groups)} and {len(columns)}")
    look = style.looks(groups)
    figure, axes = style.tiles(len(columns), 2, 2.5, over=0.6)
    for panel, (column, label) in zip(axes, columns.items(), strict=True):
        for name, runs in groups.items():
            style.require_some(runs, f"{name!r} has no run: expected one a seed")
            found = [dict(_logged(run, column)) for run in runs]
            if epochs := [epoch for epoch in found[0] if all(epoch in values for values in found)]:
                rows = [[values[epoch] for epoch in epochs] for values in found]
                style.band(panel, epochs, rows, look[name], name)
        if not panel.has_data():
            known = sorted({key for runs in groups.values() for key in runs[0].history[-1]})
            raise ValueError(f"no run has a column {column!r}; there are {', '.join(known)}")
        panel.set(xlabel="epoch", ylabel=label)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.levels(axes[0], lines)
    style.legend(figure, handlelength=3.2)
    return figure


@style.styled
def losses_by_batch(
    floors: Mapping[str, Mapping[int, float]],
    points: Mapping[str, Mapping[int, Sequence[float]]] = style.NONE,
    *,
    lines: Mapping[str, float] = style.NONE,
) -> Figure:
    """Show losses over the batch size, between guessing and their floors.

    Guessing has the loss ln(batch size), drawn over all sizes that occur. Points have the colour
    of the floor with the same name.

    Args:
        floors: Name → batch size → the least possible loss.
        points: Name → batch size → losses of single batches, or of runs, one per seed.
        lines: Name → loss, drawn as a dotted line, such as a value reported elsewhere.

    Raises:
        ValueError: If there is nothing to draw, or points have a batch size without a loss.
    """
    sizes = sorted({size for curve in (*floors.values(), *points.values()) for size in curve})
    style.require_some(sizes, "expected floors or points over batch sizes; got none")
    look = style.looks([*floors, *points])
    figure, ((axes,),) = style.panels()
    axes.plot(sizes, np.log(sizes), ":", color=style.INK, linewidth=1.4, label="guessing")
    for name, curve in floors.items():
        line = {"ls": "-." if name in points else "--", "color": look[name].colour}
        axes.plot(list(curve), list(curve.values()), linewidth=1.4, label=f"floor, {name}", **line)
    for name, found in points.items():
        for size, losses in found.items():
            style.require_some(losses, f"{name!r} has no loss for batches of {size}")
        x, y = zip(*((size, loss) for size in found for loss in found[size]), strict=True)
        style.dots(axes, x, y, look[name], 26, zorder=3, label=name)
    style.levels(axes, lines, 0.4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="pictures in a batch", ylabel="loss (nats)")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    style.legend(figure, "upper", columns=2)
    return figure


class LiveLoss:
    """Redraw `loss_curves` in place after each epoch: ``fit(…, watch=LiveLoss())``.

    Outside a notebook it does nothing.
    """

    _handle: Any = None  # IPython's handle of the displayed figure

    def __call__(self, run: Run) -> None:
        """Replace the figure by one that includes the latest epoch."""
        if not in_notebook():
            return
        from IPython.display import display  # installed wherever a notebook runs

        figure = loss_curves(run)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this code; IPython in a terminal shows no figures."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _over_epochs(run: Run, ylabel: str, columns: Mapping[str, str]) -> tuple[Figure, Axes]:
    """Draw up to three columns of a run in one panel; `columns` maps each to its legend entry."""
    figure, ((axes,),) = style.panels()
    styles = zip(columns.items(), style.looks(columns).values(), ("-", "--", ":"), strict=False)
    for (column, label), look, line in styles:
        if not (points := _logged(run, column)):
            run.series(column)  # raises a KeyError that lists the columns
        marker = look.marker if len(points) <= 30 else ""
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=look.colour, marker=marker, linestyle=line, label=label)
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _logged(run: Run, column: str) -> list[tuple[float, float]]:
    """Return (epoch, value) for the epochs with this column; raise if the run has no epochs."""
    if not run.history:
        raise ValueError(f"the run {run.name} has no history: no epoch is done yet")
    return [(row["epoch"], row[column]) for row in run.history if column in row]
