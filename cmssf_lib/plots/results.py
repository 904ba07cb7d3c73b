"""Figures of finished runs: which classes are confused, and what accuracy costs."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from torch import Tensor

from cmssf_lib.plots.fusion import LINES, STYLES, Curve
from cmssf_lib.plots.style import INK, MARKERS, PALE, frame, note, panels, styled


@styled
def confusion_matrix(counts: Int[Tensor, "classes classes"], class_names: Sequence[str]) -> Figure:
    """Draw which class (row) was taken for which (column), in per cent of the row.

    Args:
        counts: As `evaluate.confusion` returns them.
        class_names: What the classes are called.

    Returns:
        The figure. Cells under half a per cent are left empty.

    Raises:
        ValueError: If names and counts do not fit, or a class has no example.
    """
    if counts.shape != (len(class_names),) * 2 or not len(class_names):
        raise ValueError(f"{len(class_names)} classes need as many rows and columns of counts")
    of_row = counts.sum(dim=1, keepdim=True)
    if int(of_row.min()) == 0:
        raise ValueError(f"no example of {class_names[int(of_row.argmin())]!r} was counted")
    percent = (100 * counts / of_row).cpu().numpy()  # (classes, classes)
    figure, ((axes,),) = panels(height=5.2)
    # Errors are few: the root makes them visible beside the diagonal.
    axes.imshow(np.sqrt(percent), cmap="Blues", vmin=0, vmax=10 * 1.25)
    for row, values in enumerate(percent):
        for column, value in enumerate(values):
            if value >= 0.5:
                axes.text(
                    column,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if value > 45 else INK,
                    fontweight="bold" if row == column else "normal",
                )
    frame(axes)
    axes.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    axes.tick_params(length=0)
    axes.set(xlabel="taken for (per cent of the row)", ylabel="is")
    return figure


@styled
def accuracy_over(
    curves: Mapping[str, Curve],
    xlabel: str,
    ylabel: str = "right on the test set",
    *,
    published: Mapping[str, tuple[float, float]] | None = None,
    lines: Mapping[str, float] | None = None,
    ticks: Mapping[float, str] | None = None,
    bottom: float = 0.0,
) -> Figure:
    """Draw accuracy over something that grows in steps of a factor: compute, or labels.

    The horizontal axis is logarithmic. A line is the mean over seeds; the band behind it runs from
    the worst seed to the best.

    Args:
        curves: Method → (places, a row of accuracies for each seed).
        xlabel: What the places are.
        ylabel: Which accuracy it is, on which pictures.
        published: Name → (place, accuracy), as hollow diamonds: what others reached with more.
            Those at one place share a label, the highest first.
        lines: Name → accuracy, drawn as a dotted line: chance, or what pixels are worth.
        ticks: Place → what is written there; else powers of ten.
        bottom: Where the vertical axis begins.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, a row does not have one value a place, or a place is not
            positive.
    """
    if not curves:
        raise ValueError("expected curves to draw; got none")
    for name, (places, rows) in curves.items():
        lengths = sorted({len(row) for row in rows})
        if lengths != [len(places)] or not lengths[0]:
            raise ValueError(
                f"{name!r}: {len(places)} places and rows of {lengths or 'no'} values; each seed "
                "needs one value a place"
            )
        if min(places) <= 0:
            raise ValueError(f"{name!r}: the axis is logarithmic and {min(places)} is not positive")
    figure, ((axes,),) = panels(height=3.9)
    looks = zip(cycle(LINES), cycle(MARKERS), cycle(STYLES))
    for (name, (places, rows)), (colour, marker, style) in zip(curves.items(), looks, strict=False):
        values = np.asarray(rows, dtype=float)  # (seeds, places)
        axes.fill_between(
            places, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0
        )
        axes.plot(
            places,
            values.mean(axis=0),
            color=colour,
            marker=marker,
            markevery=max(1, len(places) // 10),
            linestyle=style,
            label=name,
        )
    axes.set_xscale("log")
    together: dict[float, list[tuple[float, str]]] = {}
    for name, (place, height) in (published or {}).items():
        together.setdefault(place, []).append((height, name))
    for place, found in together.items():
        heights, names = zip(*sorted(found, reverse=True), strict=True)
        axes.scatter(
            [place] * len(found), heights, s=42, marker="D",
            facecolors="white", edgecolors=INK, zorder=3,
        )  # fmt: skip
        axes.annotate(  # one label, its lines in the order of the points
            "\n".join(names),
            (place, sum(heights) / len(heights)),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            color=INK,
        )
    for text, height in (lines or {}).items():
        axes.axhline(height, color=PALE, linestyle=":", linewidth=1.4)
        note(axes, 0.98, height, text, ha="right", color=PALE)
    if ticks:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(list(ticks), list(ticks.values()))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    figure.legend(
        loc="outside lower center", ncols=min(3, len(curves)), frameon=False, handlelength=3.2
    )
    return figure


@styled
def claimed_and_measured(
    measured: Mapping[str, Mapping[str, Sequence[float]]],
    claimed: Mapping[str, float],
    *,
    beside: Mapping[str, str] | None = None,
    left: float = 0.0,
) -> Figure:
    """Put what was claimed of methods beside what was measured, one row a method.

    Args:
        measured: Method → protocol, such as "linear, all labels" → accuracies, one a seed.
        claimed: Method → accuracy, as a hollow diamond.
        beside: Method → what is written at the right: which labels it used, what it cost.
        left: Where the horizontal axis begins.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no method, or a protocol without any accuracy.
    """
    if not measured:
        raise ValueError("expected methods to compare; got none")
    protocols = list(dict.fromkeys(name for found in measured.values() for name in found))
    looks = dict(zip(protocols, zip(cycle(LINES), cycle(MARKERS)), strict=False))
    figure, ((axes,),) = panels(height=0.42 * len(measured) + 1.6)
    named: set[str] = set()
    for y, (method, found) in enumerate(measured.items()):
        axes.axhline(y, color="#E4E4E4", linewidth=0.8, zorder=0)
        for protocol, values in found.items():
            if not len(values):
                raise ValueError(f"{method!r}, {protocol!r}: no accuracy; expected one a seed")
            colour, marker = looks[protocol]
            axes.scatter(
                values,
                [y] * len(values),
                s=34,
                color=colour,
                marker=marker,
                alpha=0.85,
                linewidths=0,
                label="_" if protocol in named else protocol,
            )
            named.add(protocol)
        if method in claimed:
            axes.scatter(
                [claimed[method]],
                [y],
                s=60,
                marker="D",
                facecolors="none",
                edgecolors=INK,
                linewidths=1.2,
                label="_" if "claimed" in named else "claimed by the source chapter",
            )
            named.add("claimed")
        axes.annotate(
            (beside or {}).get(method, ""),
            (1.01, y),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set_yticks(range(len(measured)), list(measured))
    axes.set_ylim(len(measured) - 0.4, -0.6)
    axes.set_xlim(left, 1.0)
    axes.set_xlabel("right on the test set; a point is a seed")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
