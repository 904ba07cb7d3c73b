"""What is laid over something: attention and masks over pictures, numbers over coloured cells."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.plots import style
from cmssf_lib.plots.pictures import Hidden, Images, masked_pictures, picture_rows, show
from cmssf_lib.views import as_float

PATCH = 4  # the convolutional stem makes one token of 4×4 pixels
DARKEST = 0.12  # brightness that is left where nothing is looked at
MOST_PAIRS = 8  # numbers in more cells than this squared cannot be read
PICTURE_INCHES = 0.42  # beside a row of numbers
#: Frames of a picture's own caption, and of equal ones.
OWN: Any = {"ec": style.COLOURS["vermilion"], "ls": "-", "lw": 2.4}
EQUAL: Any = {"ec": style.INK, "ls": "--", "lw": 1.6}
Matrix = Float[Tensor, "_ _"]
#: One row of a figure: a title for each map, and the maps.
Row = tuple[Sequence[str], Matrix]


def attention_pixels(
    weights: Float[Tensor, "n patches"], size: Sequence[int]
) -> Float[Tensor, "n height width"]:
    """Spread attention over patches out over the pixels of the picture.

    The token of the convolutional stem in row r and column c has its centre on pixel (4r, 4c):
    the upper left corner of its block, not the middle. A plain enlargement would move every map
    down and to the right by a pixel and a half. Here each token's weight stands on the pixel it
    belongs to, and between tokens it is interpolated; beyond the last token it stays the same.

    Args:
        weights: One row a map, patches row by row.
        size: Height and width of the picture in pixels.

    Returns:
        The maps; pixel (4r, 4c) has the weight of its token.

    Raises:
        ValueError: If the picture does not have that many patches.
    """
    rows, columns = size[0] // PATCH, size[1] // PATCH
    if (got := weights.shape[1]) != (n := rows * columns):
        raise ValueError(f"a picture {size[0]}×{size[1]} has {n} patches; got weights of {got}")
    tokens = weights.detach().reshape(-1, 1, rows, columns)
    shape = (PATCH * (rows - 1) + 1, PATCH * (columns - 1) + 1)
    between = F.interpolate(tokens, shape, mode="bilinear", align_corners=True)
    return F.pad(between, (0, PATCH - 1, 0, PATCH - 1), mode="replicate")[:, 0]


@style.styled
def attention_maps(image: UInt8[Tensor, "3 height width"], rows: Sequence[Row]) -> Figure:
    """Show a picture as attention sees it: bright where it looks, dark where it does not.

    The first panel of each row is the picture. In each map the most attended place has full
    brightness, so that brightness compares places within a map and not maps with each other.

    Args:
        image: The picture.
        rows: For each row of the figure titles and maps ``(maps, patches)``, such as the words
            of a question and where each of them looks.

    Raises:
        ValueError: If there is no map, not one title for each, or another number of patches.
    """
    if not rows or not all(len(names) == len(maps) > 0 for names, maps in rows):
        found = [(len(names), len(maps)) for names, maps in rows]
        raise ValueError(f"expected rows with one title a map; got (titles, maps) {found}")
    columns = 1 + max(len(names) for names, _ in rows)
    side = style.WIDTH / columns * image.shape[1] / image.shape[2]
    figure, axes = style.panels(len(rows), columns, height=(side + 0.27) * len(rows) + 0.1)
    pixels = image.detach().cpu().float() / 255  # (3, height, width)
    for row, (names, maps) in zip(axes, rows, strict=True):
        show(row[0], pixels)
        seen = attention_pixels(maps.cpu().float(), image.shape[1:])
        for panel, name, weights in zip(row[1:], names, seen, strict=False):
            light = DARKEST + (1 - DARKEST) * weights / weights.max().clamp(min=1e-12)
            show(panel, pixels * light)
            panel.set_title(name, fontsize=9, pad=2)
        for panel in row[1 + len(names) :]:
            panel.set_axis_off()
    return figure


@style.styled
def cls_attention_grid(images: Images, maps: Mapping[str, Matrix]) -> Figure:
    """Show pictures in the first row, and below them where something looks in each.

    Dark blue is where it looks; the line runs round the ink. The most attended place of each
    panel is darkest, so that colour compares places within a panel and not panels.

    Args:
        images: Bright ink on a dark ground.
        maps: Name of a row → attention for each picture, patches row by row.

    Raises:
        ValueError: If there is nothing to show, or not one map for each picture.
    """
    seen = {n: attention_pixels(w.cpu().float(), images.shape[2:]) for n, w in maps.items()}
    figure, axes = picture_rows({"picture": images, **seen})
    inks = images.detach().cpu().amax(dim=1).float().numpy()  # (n, h, w)
    for ink, column in zip(inks, axes[1:].T, strict=True):
        if ink.min() < ink.max():
            look: Any = {"colors": style.COLOURS["vermilion"], "linewidths": 1.2}
            for panel in column:
                panel.contour(ink, levels=[ink.max() / 2], **look)
    return figure


@style.styled
def reconstructions(images: Images, hidden: Hidden, guesses: Mapping[str, Images]) -> Figure:
    """Show what an encoder saw of each picture, what was guessed, and what it is.

    A column a picture: on top the picture with its hidden patches covered, then a row for each
    way to fill them, and the picture itself at the bottom. In the rows of guesses the patches
    that were visible, and so are no guess, have a thin frame.

    Args:
        images: uint8, or floats in [0, 1].
        hidden: Which patches were hidden, as `MAE.reconstruct` returns them.
        guesses: Name → the pictures with their hidden patches filled.

    Raises:
        ValueError: If there is nothing to show, numbers differ, or patches do not tile.
    """
    style.require_some(guesses, "expected guesses to show; got none")
    seen = masked_pictures(images, hidden)
    figure, axes = picture_rows({"seen": seen, **guesses, "the picture": as_float(images)}, 0.04)
    height, width = images.shape[2] // hidden.shape[1], images.shape[3] // hidden.shape[2]
    for i, y, x in (~hidden).nonzero().tolist():
        corner, edge = (x * width - 0.5, y * height - 0.5), style.COLOURS["orange"]
        for panel in axes[1:-1, i]:
            panel.add_patch(Rectangle(corner, width, height, fill=False, ec=edge, lw=1.1))
    return figure


@style.styled
def pair_matrices(
    matrices: Mapping[str, Matrix],
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
        found = f"{len(matrices)} of {n}"
        raise ValueError(f"expected matrices of 1 to {MOST_PAIRS} pairs; got {found}")
    if images is not None and len(images) != n:
        raise ValueError(f"{len(images)} pictures for {n} rows: each row needs one")
    count = len(matrices)
    side = min(2.9, (style.WIDTH - 0.6) / count)
    figure, axes = style.panels(1, count, width=side * count + 0.6, height=side + 0.75)
    for panel, (name, values) in zip(axes.flat, matrices.items(), strict=True):
        if values.shape != (n, n):
            raise ValueError(f"{name!r} is {tuple(values.shape)}, but there are {n} captions")
        numbers = values.detach().cpu().double().numpy()
        panel.imshow(numbers, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(numbers):
            colour = "white" if value > 0.6 else style.INK
            style.centred(panel, column, row, f"{value:.2f}", color=colour)
            if captions[row] == captions[column]:
                look = OWN if row == column else EQUAL
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
            small = OffsetImage(image, zoom=PICTURE_INCHES * 72 / len(image))  # a pixel: a point
            beside: Any = {"xycoords": axes[0, 0].get_yaxis_transform(), "xybox": (-6, 0)}
            beside |= {"boxcoords": "offset points", "box_alignment": (1, 0.5), "pad": 0}
            axes[0, 0].add_artist(AnnotationBbox(small, (0, row), frameon=False, **beside))
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
