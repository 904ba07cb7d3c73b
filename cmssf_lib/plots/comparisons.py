"""Compare the accuracies of finished models, with a point per seed or a band over the seeds."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmssf_lib.plots import style

#: One curve: its positions on the x axis, and for each seed the accuracies at these positions.
Curve = tuple[Sequence[float], Sequence[Sequence[float]]]
#: Name → accuracies, one per seed.
Seeds = Mapping[str, Sequence[float]]
#: Name → accuracy.
Levels = Mapping[str, float]


@style.styled
def accuracy_points(
    groups: Mapping[str, Seeds], *, lines: Levels = style.NONE, left: float = 0.0
) -> Figure:
    """Show the accuracy of each model as a point per seed, and write the mean beside them.

    Args:
        groups: Group, such as a level of fusion → model → accuracies, one per seed.
        lines: Name → accuracy, drawn as a dotted line, such as a ceiling or chance. The names
            are written side by side, so lines too close together overlap.
        left: Lower end of the accuracy axis.

    Raises:
        ValueError: If there is no model, or a model has no accuracies.
    """
    rows = [(model, {group: seeds}) for group, m in groups.items() for model, seeds in m.items()]
    figure, axes = _rows(rows, 0.3 * len(rows) + 1.3, left)
    look = style.looks(group for _, found in rows for group in found)  # as `_rows` assigns them
    for y, (_, found) in enumerate(rows):
        for group, seeds in found.items():
            axes.plot([min(seeds), max(seeds)], [y, y], color=look[group].colour, linewidth=1.2)
            _write_beside(axes, y, f"{100 * fmean(seeds):.1f} %")
    for text, place in lines.items():
        axes.axvline(place, color=style.PALE, linestyle=":", linewidth=1.4)
        above = axes.get_xaxis_transform()
        style.centred(axes, place, 1.01, text, va="bottom", color=style.PALE, transform=above)
    axes.set_xlabel("right on the test set; a point is a seed, the number their mean")
    style.legend(figure, columns=4)
    return figure


@style.styled
def claimed_and_measured(
    measured: Mapping[str, Seeds],
    claimed: Levels,
    *,
    beside: Mapping[str, str] = style.NONE,
    left: float = 0.0,
) -> Figure:
    """Compare the claimed accuracy of each method with the measured ones, one row per method.

    Args:
        measured: Method → protocol, such as "linear, all labels" → accuracies, one per seed.
        claimed: Method → accuracy, drawn as a hollow diamond.
        beside: Method → note at the right of its row, such as the labels it used or its cost.
        left: Lower end of the accuracy axis.

    Raises:
        ValueError: If there is no method, or a protocol has no accuracies.
    """
    figure, axes = _rows(list(measured.items()), 0.42 * len(measured) + 1.6, left)
    for y, method in enumerate(measured):
        axes.axhline(y, color="#E4E4E4", linewidth=0.8, zorder=0)
        if method in claimed:
            style.hollow(axes, claimed[method], y, "D", 60, label="claimed by the source chapter")
        _write_beside(axes, y, beside.get(method, ""))
    axes.set_xlabel("right on the test set; a point is a seed")
    axes.grid(axis="y", visible=False)
    style.legend(figure, columns=2)
    return figure


@style.styled
def setting_sweeps(
    sweeps: Mapping[str, Seeds],
    *,
    usual: Mapping[str, str] = style.NONE,
    lines: Levels = style.NONE,
) -> Figure:
    """Show how accuracy depends on several settings, with one panel per setting, two in a row.

    A point is a seed; the line joins the means. The values of a setting are spaced evenly along
    the axis, in the order given.

    Args:
        sweeps: Setting → value, as text → accuracies, one per seed.
        usual: Setting → its value in the other panels' runs; a square marks the mean there.
        lines: Name → accuracy, drawn as a dotted line in every panel, such as that of raw pixels.

    Raises:
        ValueError: If there is nothing to draw, a value has no accuracies, or the sweep of a
            setting lacks its usual value.
    """
    style.require_some(sweeps, "expected settings with their values; got none")
    look = style.Look(style.COLOURS["blue"], "o", "-")
    figure, axes = _upright(len(sweeps), 2, 0.0)
    for panel, (setting, values) in zip(axes, sweeps.items(), strict=True):
        style.require_some(values, f"{setting} is a setting without values")
        for value, found in values.items():
            style.require_some(found, f"{setting} {value} has no accuracy: expected one a seed")
            style.dots(panel, value, found, look, 24)
        means = {value: fmean(found) for value, found in values.items()}
        panel.plot(list(means), list(means.values()), color=look.colour, linewidth=1.2)
        if framed := usual.get(setting):
            if framed not in means:
                raise ValueError(f"{setting} has no value {framed}; it has {', '.join(values)}")
            style.hollow(panel, framed, means[framed], "s", 200)
        style.levels(panel, lines, above=False)
        panel.set(xlim=(-0.4, len(values) - 0.6), xlabel=setting)
    return figure


@style.styled
def robustness_curves(
    curves: Mapping[str, Mapping[str, Curve]], *, columns: int = 2, lines: Levels = style.NONE
) -> Figure:
    """Draw accuracy over the strength of a corruption, with one panel per kind of corruption.

    A line is the mean over seeds; the band behind it runs from the worst seed to the best. A
    model looks the same in every panel.

    Args:
        curves: Label of the x axis → model → (strengths, a row of accuracies per seed).
        columns: Number of panels in a row.
        lines: Name → accuracy, drawn as a dotted line in every panel, such as chance or a ceiling.

    Raises:
        ValueError: If there is nothing to draw, or a row does not have one value per strength.
    """
    look = style.looks(model for models in curves.values() for model in models)
    if not look or columns < 1:
        raise ValueError(f"expected curves to draw; got {len(look)} in {columns} columns")
    figure, axes = _upright(len(curves), columns, 0.6)
    for panel, (axis, models) in zip(axes, curves.items(), strict=True):
        panel.set_xlabel(axis)
        for name, (strengths, rows) in models.items():
            style.band(panel, strengths, rows, look[name], name)
        style.levels(panel, lines, 0.02)
    style.legend(figure, handlelength=3.2)
    return figure


@style.styled
def accuracy_over(
    curves: Mapping[str, Curve],
    xlabel: str,
    ylabel: str = "right on the test set",
    *,
    published: Mapping[str, tuple[float, float]] = style.NONE,
    lines: Levels = style.NONE,
    ticks: Mapping[Any, str] = style.NONE,
    bottom: float = 0.0,
) -> Figure:
    """Draw accuracy over a quantity on a logarithmic axis, such as compute or number of labels.

    A line is the mean over seeds; the band behind it runs from the worst seed to the best.

    Args:
        curves: Method → (positions on the x axis, a row of accuracies per seed).
        xlabel: Label of the x axis.
        ylabel: Label of the y axis: which accuracy, on which pictures.
        published: Name → (position, accuracy) of published results, drawn as hollow diamonds.
            Those at the same position share one label, the highest accuracy first.
        lines: Name → accuracy, drawn as a dotted line, such as chance or that of raw pixels.
        ticks: Position → tick label on the x axis; by default powers of ten.
        bottom: Lower end of the accuracy axis.

    Raises:
        ValueError: If there is no curve, a curve has no seed, a row does not have one value per
            position, or a position is not positive.
    """
    style.require_some(curves, "expected curves to draw; got none")
    figure, ((axes,),) = style.panels(height=3.9)
    look = style.looks(curves)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log", ylim=(bottom, 1.0))
    for name, (places, rows) in curves.items():
        style.band(axes, places, rows, look[name], name)
        if min(places) <= 0:
            raise ValueError(f"{name!r}: the axis is logarithmic and {min(places)} is not positive")
    by_height = sorted(published, key=published.__getitem__, reverse=True)
    for place in {x for x, _ in published.values()}:
        names = [name for name in by_height if published[name][0] == place]
        heights = [published[name][1] for name in names]
        style.hollow(axes, [place] * len(names), heights, "D", 42, facecolors="white", zorder=3)
        at_left: Any = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 9}
        axes.annotate("\n".join(names), (place, fmean(heights)), (-7, 0), **at_left)
    style.levels(axes, lines)
    if ticks:
        axes.minorticks_off()
        axes.set_xticks(list(ticks), list(ticks.values()))
    else:
        axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter(style.percent)
    style.legend(figure, handlelength=3.2)
    return figure


def _upright(count: int, columns: int, over: float) -> tuple[Figure, list[Axes]]:
    """Make panels whose y axis shows accuracy, all on one scale."""
    figure, axes = style.tiles(count, columns, 2.5, over, sharey=True)
    axes[0].set_ylim(0.0, 1.02)
    axes[0].yaxis.set_major_formatter(style.percent)
    for panel in axes[::columns]:  # the first of each row
        panel.set_ylabel("right on the test set")
    return figure, axes


def _rows(rows: Sequence[tuple[str, Seeds]], height: float, left: float) -> tuple[Figure, Axes]:
    """Draw one row per name, the first on top, from series → accuracies, with a point per seed."""
    style.require_some(rows, "expected something to compare; got none")
    look = style.looks(series for _, found in rows for series in found)
    figure, ((axes,),) = style.panels(height=height)
    for y, (name, found) in enumerate(rows):
        for series, accuracies in found.items():
            style.require_some(accuracies, f"{name!r} ({series}) has no accuracy")
            style.dots(axes, accuracies, y, look[series], label=series)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set(xlim=(left, 1.0), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(style.percent)
    return figure, axes


def _write_beside(axes: Axes, y: float, text: str) -> None:
    """Write a text at the right of the row at height `y`."""
    style.centred(axes, 1.01, y, text, ha="left", transform=axes.get_yaxis_transform())
