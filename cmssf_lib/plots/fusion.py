"""Comparisons over seeds: accuracy of models, and how it falls as the data gets worse."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cmssf_lib.plots.style import COLOURS, INK, MARKERS, PALE, WIDTH, note, panels, styled

#: One model in one panel: the strengths, and for each seed a row of accuracies, one a strength.
Curve = tuple[Sequence[float], Sequence[Sequence[float]]]

# Yellow is too pale for a thin line on white.
LINES = [colour for name, colour in COLOURS.items() if name != "yellow"]
STYLES = ("-", "--", "-.", (0, (5, 1.2, 1, 1.2, 1, 1.2)), (0, (1, 1.2)))


@styled
def robustness_curves(
    curves: Mapping[str, Mapping[str, Curve]],
    *,
    columns: int = 2,
    lines: Mapping[str, float] | None = None,
    bottom: float = 0.0,
) -> Figure:
    """Draw how accuracy changes with the strength of some damage, a panel for each kind.

    A line is the mean over seeds; the band behind it runs from the worst seed to the best. A
    model looks the same in every panel.

    Args:
        curves: What the horizontal axis shows → model → (strengths, a row of accuracies for
            each seed).
        columns: Panels a row.
        lines: Name → accuracy, drawn as a dotted line in every panel: chance, or a ceiling.
        bottom: Where the vertical axis begins.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to draw, or a row does not have one value a strength.
    """
    for axis, models in curves.items():
        for model, (strengths, rows) in models.items():
            lengths = sorted({len(row) for row in rows})
            if lengths != [len(strengths)] or not lengths[0]:
                raise ValueError(
                    f"{model!r} over {axis!r}: {len(strengths)} strengths and rows of "
                    f"{lengths or 'no'} values; each seed needs one value a strength"
                )
    names = list(dict.fromkeys(model for models in curves.values() for model in models))
    if not names or columns < 1:
        raise ValueError(f"expected curves to draw; got {len(names)} in {columns} columns")
    looks = dict(zip(names, zip(cycle(LINES), cycle(MARKERS), cycle(STYLES)), strict=False))
    columns = min(columns, len(curves))
    count = -(-len(curves) // columns)
    figure, axes = panels(count, columns, height=2.5 * count + 0.6, sharey=True)
    handles = {}
    for i, panel in enumerate(axes.flat):
        if i >= len(curves):
            panel.set_axis_off()
            continue
        axis, models = list(curves.items())[i]
        for name, (strengths, rows) in models.items():
            colour, marker, style = looks[name]
            values = np.asarray(rows, dtype=float)  # (seeds, strengths)
            panel.fill_between(
                strengths, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0
            )
            (handles[name],) = panel.plot(
                strengths, values.mean(axis=0), color=colour, marker=marker, linestyle=style
            )
        for text, height in (lines or {}).items():
            panel.axhline(height, color=PALE, linestyle=":", linewidth=1.4)
            note(panel, 0.02, height, text, ha="left", color=PALE)
        panel.set_xlabel(axis)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes[0, 0].set_ylim(bottom, 1.02)
    for row in axes:
        row[0].set_ylabel("right on the test set")
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=min(3, len(names)),
        frameon=False,
        handlelength=3.2,
    )
    return figure


@styled
def accuracy_points(
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    lines: Mapping[str, float] | None = None,
    left: float = 0.0,
) -> Figure:
    """Show the accuracy of models, each seed as a point, with the mean in figures.

    Args:
        groups: What the models have in common, such as a level of fusion → model → accuracies,
            one a seed.
        lines: Name → accuracy, drawn as a dotted line: a ceiling, or chance. Keep them far
            enough apart for their names to stand side by side.
        left: Where the horizontal axis begins.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no model, or one without any accuracy.
    """
    rows = [(group, m, values) for group, models in groups.items() for m, values in models.items()]
    if not rows:
        raise ValueError("expected models to compare; got none")
    for _, model, values in rows:
        if len(values) == 0:
            raise ValueError(f"{model!r} has no accuracy: expected one a seed")
    looks = dict(zip(groups, zip(cycle(LINES), cycle(MARKERS)), strict=False))
    figure, ((axes,),) = panels(width=WIDTH, height=0.3 * len(rows) + 1.3)
    named = set()
    for y, (group, _, values) in enumerate(rows):
        colour, marker = looks[group]
        axes.plot([min(values), max(values)], [y, y], color=colour, linewidth=1.2)
        axes.scatter(
            values,
            [y] * len(values),
            s=30,
            color=colour,
            marker=marker,
            alpha=0.8,
            linewidths=0,
            label="_" if group in named else group,
        )
        named.add(group)
        mean = sum(values) / len(values)
        axes.annotate(
            f"{mean:.1%}".replace("%", " %"),
            (1.01, y),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=INK,
        )
    for text, place in (lines or {}).items():
        axes.axvline(place, color=PALE, linestyle=":", linewidth=1.4)
        axes.annotate(
            text,
            (place, 1.01),
            xycoords=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=9,
            color=PALE,
        )
    axes.set_yticks(range(len(rows)), [model for _, model, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left, 1.0)
    axes.set_xlabel("right on the test set; a point is a seed, the number their mean")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    figure.legend(loc="outside lower center", ncols=min(4, len(groups)), frameon=False)
    return figure
