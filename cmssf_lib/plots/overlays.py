"""Figures with overlays: attention and masks over pictures, numbers over coloured cells."""

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

PATCH = 4  # the convolutional stem makes one token per 4×4 pixels
DARKEST = 0.12  # brightness factor where attention is zero
MOST_PAIRS = 8  # in a larger square the numbers would be illegible
PICTURE_INCHES = 0.42  # height of the picture beside a row of numbers
#: Frames of the cells of a picture's own caption, and of captions with the same text.
OWN: Any = {"ec": style.COLOURS["vermilion"], "ls": "-", "lw": 2.4}
EQUAL: Any = {"ec": style.INK, "ls": "--", "lw": 1.6}
Matrix = Float[Tensor, "_ _"]
#: One row of a figure: the titles of the maps, and the maps.
Row = tuple[Sequence[str], Matrix]


def attention_pixels(
    weights: Float[Tensor, "n patches"], size: Sequence[int]
) -> Float[Tensor, "n height width"]:
    """Interpolate attention weights of patches to the pixels of the picture.

    The receptive field of the convolutional stem's token in row r and column c is centred on pixel
    (4r, 4c), the upper left corner of its patch. Ordinary upsampling would centre the weight on the
    patch instead, and so shift every map down and to the right by a pixel and a half. Here pixel
    (4r, 4c) has the weight of its token. Pixels between tokens are interpolated bilinearly, and
    those beyond the last token repeat its weight.

    Args:
        weights: One row per map, with the patches in row-major order.
        size: Height and width of the picture in pixels.

    Returns:
        One map per row of `weights`, as large as the picture.

    Raises:
        ValueError: If the number of weights does not match the picture's patches.
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
    """Show attention maps over a picture: bright where the attention is high, dark where it is low.

    The first panel of each row is the picture itself. Each map is scaled to its own maximum, so
    compare places within a map, but not maps with each other.

    Args:
        image: The picture.
        rows: For each row of the figure, the titles and maps ``(maps, patches)``, such as the
            words of a question and the attention of each.

    Raises:
        ValueError: If there is no map, the numbers of titles and maps differ, or the number of
            weights does not match the picture's patches.
    """
    if not rows or not all(len(names) == len(maps) > 0 for names, maps in rows):
        found = [(len(names), len(maps)) for names, maps in rows]
        raise ValueError(f"expected rows with one title per map; got (titles, maps) {found}")
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
    """Show pictures in the first row, and rows of their attention maps below.

    Dark blue is high attention; a contour outlines the ink of the picture. Each map is scaled to
    its own maximum, so compare places within a panel, but not panels with each other.

    Args:
        images: Pictures of bright ink on a dark background.
        maps: Name of a row → attention of each picture, ``(pictures, patches)``, with the patches
            in row-major order.

    Raises:
        ValueError: If there is nothing to show, there is not one map per picture, or the number
            of weights does not match the pictures' patches.
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
    """Show masked pictures, their reconstructions, and the original pictures.

    There is one column per picture. The top row shows the picture with its hidden patches covered,
    each row below it one kind of reconstruction, and the bottom row the original. A thin frame
    marks the visible patches in the reconstructions, because these were not predicted.

    Args:
        images: The originals, as uint8 or floats in [0, 1].
        hidden: True where a patch is hidden, as `MAE.reconstruct` returns it.
        guesses: Name → the pictures with their hidden patches filled in.

    Raises:
        ValueError: If there is nothing to show, the numbers of pictures differ, or the patches do
            not tile the pictures.
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
    """Show matrices of pictures (rows) against captions (columns), with one panel per matrix.

    Each cell shows its number, on a scale from white at 0 to dark blue at 1. A thick frame marks a
    picture's own caption, and a dashed frame a caption of another picture with the same text.

    Args:
        matrices: Title of the panel → numbers, ``(n, n)``.
        captions: The ``n`` captions; caption i belongs to picture i.
        images: The ``n`` pictures, shown beside the rows; without them the rows are numbered.

    Raises:
        ValueError: If there is no matrix, a matrix is not ``(n, n)``, the number of pictures is
            not ``n``, or ``n`` is not from 1 to 8.
    """
    n, count = len(captions), len(matrices)
    if not matrices or not 0 < n <= MOST_PAIRS:
        raise ValueError(f"expected matrices of 1 to {MOST_PAIRS} pairs; got {count} of {n}")
    if images is not None and len(images) != n:
        raise ValueError(f"{len(images)} pictures for {n} rows: each row needs one")
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
            small = OffsetImage(image, zoom=PICTURE_INCHES * 72 / len(image))  # points per pixel
            beside: Any = {"xycoords": axes[0, 0].get_yaxis_transform(), "xybox": (-6, 0)}
            beside |= {"boxcoords": "offset points", "box_alignment": (1, 0.5), "pad": 0}
            axes[0, 0].add_artist(AnnotationBbox(small, (0, row), frameon=False, **beside))
    return figure


@style.styled
def confusion_matrix(counts: Int[Tensor, "classes classes"], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: true classes as rows, predicted ones as columns.

    A cell shows the percentage of its row, and is empty below half a per cent.

    Args:
        counts: The counts, as `evaluate.confusion` returns them.
        class_names: Names of the classes.

    Raises:
        ValueError: If there is not one name per class, or a class has no examples.
    """
    if counts.shape != (len(class_names),) * 2 or not len(class_names):
        raise ValueError(f"{len(class_names)} classes need as many rows and columns of counts")
    of_row = counts.sum(dim=1, keepdim=True)
    if int(of_row.min()) == 0:
        raise ValueError(f"no example of {class_names[int(of_row.argmin())]!r} was counted")
    percent = (100 * counts / of_row).cpu().numpy()  # (classes, classes)
    figure, ((axes,),) = style.panels(height=5.2)
    # Errors are rare: the square root makes them visible beside the diagonal.
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
