"""How a run went: losses, similarities, retrieval, and the loss while it is falling."""

import math
import sys
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cmssf_lib.plots.style import COLOURS, PALE, note, panels, styled
from cmssf_lib.runs import Run

#: Losses whose least value is not the floor that equal captions set, but zero.
WITHOUT_FLOOR = ("masked", "excess")


@styled
def loss_curves(run: Run) -> Figure:
    """Draw training and validation loss, between guessing and the floor.

    Guessing costs ln(batch size). The floor is what equal captions in a batch leave of the
    one-hot loss, however good the model is; the masked and the excess loss can reach zero.

    Args:
        run: With "loss" in its history; "floor" and "validation_loss" are drawn if there.

    Returns:
        The figure.

    Raises:
        ValueError: If no epoch is done yet, or the run does not say its batch size.
    """
    figure, axes = _empty(run, "loss (nats)")
    batch = run.config.get("train", {}).get("batch_size")
    if batch is None:
        raise ValueError(f"the run {run.name} does not record train.batch_size: ln B is unknown")
    _line(axes, run, "loss", "training", COLOURS["blue"], "o", "-")
    _line(axes, run, "validation_loss", "validation", COLOURS["vermilion"], "s", "--")
    guessing = math.log(batch)
    axes.axhline(guessing, color=PALE, linestyle=":", linewidth=1.4)
    note(axes, 0.99, guessing, f"guessing: ln {batch} = {guessing:.2f}", ha="right", color=PALE)
    if "floor" in run.history[-1]:
        floor = run.series("floor")
        zero = run.config.get("cmssf", {}).get("loss") in WITHOUT_FLOOR
        what = (
            "the one-hot loss's floor; this loss can reach 0" if zero else "floor: equal captions"
        )
        axes.plot(run.series("epoch"), floor, color=COLOURS["black"], linestyle="-.", linewidth=1.4)
        note(axes, 0.01, floor[0], f"{what} ({floor[-1]:.2f})")
    axes.set_ylim(bottom=min(0.0, *run.series("loss")))
    axes.margins(y=0.12)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


@styled
def similarity_curves(run: Run) -> Figure:
    """Draw the mean cosine similarity of pictures with right and with wrong captions.

    Two curves of wrong captions: those of *other classes*, and those of all other pictures,
    as drawn at random. The second is contaminated: some of its captions are right.

    Args:
        run: With the three ``validation_…_similarity`` columns of `evaluate.monitor`, or with
            the ``positive_similarity`` and ``negative_similarity`` of the training batches.

    Returns:
        The figure.

    Raises:
        ValueError: If no epoch is done yet.
        KeyError: If the history holds neither set of columns.
    """
    figure, axes = _empty(run, "mean cosine similarity")
    first, *others = (
        ("positive_similarity", "own caption", COLOURS["blue"], "o", "-"),
        (
            "different_class_similarity",
            "captions of other classes",
            COLOURS["vermilion"],
            "s",
            "--",
        ),
        (
            "contaminated_similarity",
            "all other captions (contaminated)",
            COLOURS["green"],
            "^",
            ":",
        ),
    )
    if f"validation_{first[0]}" in run.history[-1]:
        for column, *look in (first, *others):
            run.series(f"validation_{column}")  # says which column is missing
            _line(axes, run, f"validation_{column}", *look)
        axes.set_title("on held-out pictures", loc="left")
    else:
        run.series("positive_similarity")
        _line(axes, run, *first)
        _line(
            axes, run, "negative_similarity", "different captions", COLOURS["vermilion"], "s", "--"
        )
        axes.set_title("on the training batches", loc="left")
    axes.axhline(0, color=PALE, linewidth=1)
    axes.set_ylim(top=1.02)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


@styled
def retrieval_curve(run: Run, *, classes: int) -> Figure:
    """Draw how often the first caption found is of the right class, and zero-shot accuracy.

    Args:
        run: With ``validation_retrieval_at_1`` and ``validation_zero_shot`` in its history
            (see `evaluate.monitor`).
        classes: Of the data: chance is one in this many.

    Returns:
        The figure.

    Raises:
        ValueError: If no epoch is done yet, or there are fewer than two classes.
        KeyError: If the history holds no such column.
    """
    if classes < 2:
        raise ValueError(f"with {classes} class(es) every answer is right: expected two or more")
    figure, axes = _empty(run, "right on held-out pictures")
    run.series("validation_retrieval_at_1")  # says which column is missing
    name = "first caption found is of the right class (R@1)"
    _line(axes, run, "validation_retrieval_at_1", name, COLOURS["blue"], "o", "-")
    _line(axes, run, "validation_zero_shot", "zero-shot", COLOURS["vermilion"], "s", "--")
    # Curves rise from chance to the ceiling: each label stands where they are not.
    for height, x, side, text in (
        (1.0, 0.01, "left", "ceiling: 100 %"),
        (1 / classes, 0.99, "right", f"chance: one in {classes}"),
    ):
        axes.axhline(height, color=PALE, linestyle=":", linewidth=1.4)
        note(axes, x, height, text, above=height < 1, ha=side, color=PALE)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


class LiveLoss:
    """Draws `loss_curves` anew after each epoch, in one place: ``fit(…, watch=LiveLoss())``.

    Outside a notebook there is no place to draw, and nothing happens.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def __call__(self, run: Run) -> None:
        """Replace the figure by one with the newest epoch."""
        if not in_notebook():
            return
        from IPython.display import display  # there wherever a notebook runs

        figure = loss_curves(run)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code (IPython in a terminal cannot show pictures)."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def _empty(run: Run, ylabel: str) -> tuple[Figure, Axes]:
    """One panel over epochs, for a run that has some."""
    if not run.history:
        raise ValueError(f"the run {run.name} has no history: no epoch is done yet")
    figure, ((axes,),) = panels()
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _line(
    axes: Axes, run: Run, column: str, label: str, colour: str, marker: str, style: str
) -> None:
    """Draw a column over the epochs that have it; none, if no epoch does."""
    points = [(row["epoch"], row[column]) for row in run.history if column in row]
    if points:
        x, y = zip(*points, strict=True)
        marker = marker if len(points) <= 30 else ""
        axes.plot(x, y, color=colour, marker=marker, linestyle=style, label=label)
