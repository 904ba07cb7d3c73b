"""Pictures with something laid over them: where attention looks, and what was masked."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.plots import style
from cmssf_lib.plots.pictures import Images, picture_rows, show
from cmssf_lib.views import as_float

PATCH = 4  # the convolutional stem makes one token of 4×4 pixels
DARKEST = 0.12  # brightness that is left where nothing is looked at
# What hides a patch: a chequerboard of two greys, so that it looks like no part of a picture.
CHEQUERS = (0.42, 0.62)
#: One row of a figure: a title for each map, and the maps.
Row = tuple[Sequence[str], Float[Tensor, "_ _"]]
Hidden = Bool[Tensor, "n rows columns"]


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
def cls_attention_grid(
    images: UInt8[Tensor, "n 3 h w"], maps: Mapping[str, Float[Tensor, "_ _"]]
) -> Figure:
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


def masked_pictures(images: Images, hidden: Hidden) -> Float[Tensor, "n 3 h w"]:
    """Cover the hidden patches with a fine chequerboard of two greys.

    Args:
        images: uint8, or floats in [0, 1].
        hidden: True where a patch is covered.

    Returns:
        The pictures as floats in [0, 1].

    Raises:
        ValueError: If the patches do not tile the pictures, or are of another number of them.
    """
    pixels = as_float(images)
    (n, _, height, width), (masks, rows, columns) = pixels.shape, hidden.shape
    if masks != n or height % rows or width % columns:
        size = f"{n} pictures of {height}×{width} pixels"
        raise ValueError(f"{masks} times {rows}×{columns} patches do not tile {size}")
    covered = hidden.repeat_interleave(height // rows, dim=1)
    covered = covered.repeat_interleave(width // columns, dim=2)  # (n, height, width)
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    chequers = torch.tensor(CHEQUERS)[odd].to(pixels)
    return torch.where(covered[:, None], chequers, pixels)


@style.styled
def reconstructions(
    images: Images, hidden: Hidden, guesses: Mapping[str, Float[Tensor, "n 3 h w"]]
) -> Figure:
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
    if not guesses:
        raise ValueError("expected guesses to show; got none")
    seen = masked_pictures(images, hidden)
    figure, axes = picture_rows({"seen": seen, **guesses, "the picture": as_float(images)}, 0.04)
    height, width = images.shape[2] // hidden.shape[1], images.shape[3] // hidden.shape[2]
    for i, y, x in (~hidden).nonzero().tolist():
        corner, edge = (x * width - 0.5, y * height - 0.5), style.COLOURS["orange"]
        for panel in axes[1:-1, i]:
            panel.add_patch(Rectangle(corner, width, height, fill=False, ec=edge, lw=1.1))
    return figure
