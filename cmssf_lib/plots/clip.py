"""Images against texts: the matrix of all pairs, and losses between guessing and the floor."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from torch import Tensor

from cmssf_lib.plots.fusion import LINES
from cmssf_lib.plots.style import COLOURS, INK, MARKERS, PALE, WIDTH, note, panels, styled

MOST_PAIRS = 8  # numbers in more cells than this squared cannot be read
PICTURE_INCHES = 0.42


@styled
def pair_matrices(
    matrices: Mapping[str, Float[Tensor, "_ _"]],
    captions: Sequence[str],
    *,
    images: UInt8[Tensor, "n 3 h w"] | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Figure:
    """Show every picture against every caption, as numbers in a square; a panel for each matrix.

    A row is a picture, a column a caption. A thick frame marks a picture's own caption, and a
    dashed one the same text where it belongs to another picture.

    Args:
        matrices: What the panel shows → numbers, ``(n, n)``.
        captions: The text of each column; picture i has caption i.
        images: Shown beside the rows; without them the rows are numbered.
        low: The number that is white.
        high: The number that is dark blue.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no matrix, one has not a row and a column a caption, there is not
            one picture a row, or there are more pairs than can be read.
    """
    n = len(captions)
    if not matrices or not 0 < n <= MOST_PAIRS:
        raise ValueError(
            f"expected matrices of 1 to {MOST_PAIRS} pairs; got {len(matrices)} of {n}"
        )
    for name, values in matrices.items():
        if values.shape != (n, n):
            raise ValueError(f"{name!r} is {tuple(values.shape)}, but there are {n} captions")
    if images is not None and len(images) != n:
        raise ValueError(f"{len(images)} pictures for {n} rows: each row needs one")
    side = min(2.9, (WIDTH - 0.6) / len(matrices))
    figure, axes = panels(1, len(matrices), width=side * len(matrices) + 0.6, height=side + 0.75)
    for panel, (name, values) in zip(axes.flat, matrices.items(), strict=True):
        numbers = values.detach().cpu().double().numpy()
        panel.imshow(numbers, cmap="Blues", vmin=low, vmax=high)
        for row in range(n):
            for column in range(n):
                value = numbers[row, column]
                dark = (value - low) > 0.6 * (high - low)
                panel.text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if dark else INK,
                )
                if row == column:
                    _mark(panel, row, column, linewidth=2.4, edgecolor=COLOURS["vermilion"])
                elif captions[row] == captions[column]:
                    _mark(panel, row, column, linewidth=1.6, edgecolor=INK, dashed=True)
        letters = max(8, 34 // n)
        words = ["\n".join(textwrap.wrap(text, letters)) for text in captions]
        panel.set_xticks(range(n), words)
        panel.set_yticks(range(n), [str(i + 1) for i in range(n)] if images is None else [""] * n)
        panel.tick_params(length=0)
        panel.xaxis.tick_top()
        panel.set_title(name, fontsize=10, y=-0.05, va="top")
        panel.grid(False)
        panel.spines[:].set_visible(False)
        if images is not None and panel is axes[0, 0]:
            for row, image in enumerate(images.detach().cpu().permute(0, 2, 3, 1).numpy()):
                zoom = PICTURE_INCHES * 72 / image.shape[0]  # a pixel of an image is a point wide
                box = AnnotationBbox(
                    OffsetImage(image, zoom=zoom, interpolation="nearest"),
                    (0, row),
                    xycoords=panel.get_yaxis_transform(),
                    xybox=(-6, 0),
                    boxcoords="offset points",
                    box_alignment=(1, 0.5),
                    frameon=False,
                    pad=0,
                )
                panel.add_artist(box)
    return figure


def _mark(
    panel: Axes, row: int, column: int, *, linewidth: float, edgecolor: str, dashed: bool = False
) -> None:
    """Frame one cell, just inside its border."""
    panel.add_patch(
        Rectangle(
            (column - 0.46, row - 0.46),
            0.92,
            0.92,
            fill=False,
            linewidth=linewidth,
            edgecolor=edgecolor,
            linestyle="--" if dashed else "-",
        )
    )


@styled
def losses_by_batch(
    floors: Mapping[str, Mapping[int, float]],
    points: Mapping[str, Mapping[int, Sequence[float]]] | None = None,
    *,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Show losses over the size of the batch, between what guessing costs and their floors.

    Guessing costs ln(batch size); it is drawn over all sizes that occur. Points that share a name
    with a floor have its colour.

    Args:
        floors: Name → batch size → the least loss.
        points: Name → batch size → losses: of batches, or of runs, one a seed.
        lines: Name → loss, drawn as a dotted line across all sizes: a value reported elsewhere.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to draw, or points have a batch size without a loss.
    """
    points = points or {}
    curves = [*floors.values(), *points.values()]
    sizes = sorted({size for curve in curves for size in curve})
    if not sizes:
        raise ValueError("expected floors or points over batch sizes; got none")
    for name, found in points.items():
        for size, losses in found.items():
            if len(losses) == 0:
                raise ValueError(f"{name!r} has no loss for batches of {size}")
    names = list(dict.fromkeys([*floors, *points]))
    looks = dict(zip(names, zip(cycle(LINES), cycle(MARKERS)), strict=False))
    figure, ((axes,),) = panels()
    axes.plot(
        sizes, [math.log(size) for size in sizes], ":", color=INK, linewidth=1.4, label="guessing"
    )
    for name, curve in floors.items():
        style = "-." if name in points else "--"
        axes.plot(
            list(curve),
            list(curve.values()),
            style,
            color=looks[name][0],
            linewidth=1.4,
            label=f"floor, {name}",
        )
    for name, found in points.items():
        colour, marker = looks[name]
        axes.scatter(
            [size for size, losses in found.items() for _ in losses],
            [loss for losses in found.values() for loss in losses],
            s=26,
            marker=marker,
            color=colour,
            alpha=0.8,
            linewidths=0,
            zorder=3,
            label=name,
        )
    for text, height in (lines or {}).items():
        axes.axhline(height, color=PALE, linestyle=":", linewidth=1.4)
        note(axes, 0.4, height, text, ha="center", color=PALE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="pictures in a batch", ylabel="loss (nats)")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
