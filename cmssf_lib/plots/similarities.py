"""Numbers for pairs, and embeddings in the plane: what is similar to what."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from sklearn.manifold import TSNE
from torch import Tensor

from cmssf_lib.plots import style

MOST_PAIRS = 8  # numbers in more cells than this squared cannot be read
PICTURE_INCHES = 0.42


@style.styled
def pair_matrices(
    matrices: Mapping[str, Float[Tensor, "_ _"]],
    captions: Sequence[str],
    images: UInt8[Tensor, "n 3 h w"] | None = None,
) -> Figure:
    """Show every picture against every caption, as numbers in a square; a panel for each matrix.

    A row is a picture, a column a caption. Cells go from white at 0 to dark blue at 1. A thick
    frame marks a picture's own caption, and a dashed one the same text where it belongs to another
    picture.

    Args:
        matrices: What the panel shows → numbers, ``(n, n)``.
        captions: The text of each column; picture i has caption i.
        images: Shown beside the rows; without them the rows are numbered.

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
    count = len(matrices)
    side = min(2.9, (style.WIDTH - 0.6) / count)
    figure, axes = style.panels(1, count, width=side * count + 0.6, height=side + 0.75)
    for panel, (name, values) in zip(axes.flat, matrices.items(), strict=True):
        numbers = values.detach().cpu().double().numpy()
        panel.imshow(numbers, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(numbers):
            colour = "white" if value > 0.6 else style.INK
            style.centred(panel, column, row, f"{value:.2f}", color=colour)
            if captions[row] == captions[column]:
                own: Any = {"ec": style.COLOURS["vermilion"], "ls": "-", "lw": 2.4}
                look = own if row == column else {"ec": style.INK, "ls": "--", "lw": 1.6}
                corner = (column - 0.46, row - 0.46)  # just inside the cell
                panel.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, **look))
        style.frame(panel, width=0)
        panel.set_xticks(range(n), [textwrap.fill(text, max(8, 34 // n)) for text in captions])
        panel.set_yticks(range(n), [str(i + 1) for i in range(n)] if images is None else [""] * n)
        panel.tick_params(length=0)
        panel.xaxis.tick_top()
        panel.set_title(name, fontsize=10, y=-0.05, va="top")
    if images is not None:
        for row, image in enumerate(images.detach().cpu().permute(0, 2, 3, 1).numpy()):
            zoom = PICTURE_INCHES * 72 / image.shape[0]  # a pixel of an image is a point wide
            small = OffsetImage(image, zoom=zoom, interpolation="nearest")
            beside: Any = {"xycoords": axes[0, 0].get_yaxis_transform(), "xybox": (-6, 0)}
            beside |= {"boxcoords": "offset points", "box_alignment": (1, 0.5), "pad": 0}
            axes[0, 0].add_artist(AnnotationBbox(small, (0, row), frameon=False, **beside))
    return figure


@style.styled
def losses_by_batch(
    floors: Mapping[str, Mapping[int, float]],
    points: Mapping[str, Mapping[int, Sequence[float]]] = style.NONE,
    *,
    lines: Mapping[str, float] = style.NONE,
) -> Figure:
    """Show losses over the size of the batch, between what guessing costs and their floors.

    Guessing costs ln(batch size); it is drawn over all sizes that occur. Points that share a name
    with a floor have its colour.

    Args:
        floors: Name → batch size → the least loss.
        points: Name → batch size → losses: of batches, or of runs, one a seed.
        lines: Name → loss, drawn as a dotted line across all sizes: a value reported elsewhere.

    Raises:
        ValueError: If there is nothing to draw, or points have a batch size without a loss.
    """
    sizes = sorted({size for curve in (*floors.values(), *points.values()) for size in curve})
    if not sizes:
        raise ValueError("expected floors or points over batch sizes; got none")
    look = style.looks([*floors, *points])
    figure, ((axes,),) = style.panels()
    axes.plot(sizes, np.log(sizes), ":", color=style.INK, linewidth=1.4, label="guessing")
    for name, curve in floors.items():
        line = {"ls": "-." if name in points else "--", "color": look[name].colour}
        axes.plot(*zip(*curve.items(), strict=True), linewidth=1.4, label=f"floor, {name}", **line)
    for name, found in points.items():
        if empty := [size for size, losses in found.items() if not len(losses)]:
            raise ValueError(f"{name!r} has no loss for batches of {empty[0]}")
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


@style.styled
def tsne(
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    class_names: Sequence[str],
    *,
    seed: int = 0,
    perplexity: float = 30.0,
) -> Figure:
    """Lay embeddings out in the plane so that near ones stay near (van der Maaten, Hinton 2008).

    Distances between clusters, and their sizes, mean little; another seed or perplexity gives
    another picture. Both therefore stand in the figure.

    Args:
        embeddings: A few hundred to a few thousand.
        labels: Their classes, shown by marker and colour.
        class_names: What the labels stand for, at most 80.
        seed: Of the layout.
        perplexity: About how many neighbours each point minds; below the number of points.

    Raises:
        ValueError: If labels do not fit, or the perplexity is not below the number of points.
    """
    n = len(embeddings)
    if labels.shape != (n,) or n == 0:
        raise ValueError(f"{n} embeddings, labels of shape {tuple(labels.shape)}: one each, please")
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise ValueError(f"a label lies outside the {len(class_names)} classes")
    layout = TSNE(perplexity=perplexity, random_state=seed, init="pca", learning_rate="auto")
    points = layout.fit_transform(embeddings.detach().cpu().numpy())  # (n, 2)
    figure, ((axes,),) = style.panels(height=5.2)
    # Eight colours, ten markers: no two of the first forty classes share both.
    looks = zip(class_names, cycle(style.COLOURS.values()), cycle(style.MARKERS), strict=False)
    for label, (name, colour, marker) in enumerate(looks):
        chosen = points[labels.cpu().numpy() == label]
        edge = {"edgecolors": style.INK, "linewidths": 0.3, "alpha": 0.85}
        axes.scatter(*chosen.T, s=22, color=colour, marker=marker, label=name, **edge)
    style.frame(axes)
    axes.set_aspect("equal", "datalim")
    axes.set_title(f"t-SNE of {n} embeddings, perplexity {perplexity:g}, seed {seed}", loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@style.styled
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
    figure, ((axes,),) = style.panels(height=5.2)
    # Errors are few: the root makes them visible beside the diagonal.
    axes.imshow(np.sqrt(percent), cmap="Blues", vmin=0, vmax=10 * 1.25)
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            colour = "white" if value > 45 else style.INK
            weight = "bold" if row == column else "normal"
            style.centred(axes, column, row, f"{value:.0f}", color=colour, fontweight=weight)
    style.frame(axes)
    axes.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    axes.tick_params(length=0)
    axes.set(xlabel="taken for (per cent of the row)", ylabel="is")
    return figure
