"""A masked autoencoder: what is hidden, what is guessed, and the method as a drawing."""

import textwrap
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from cmssf_lib.plots.style import COLOURS, INK, WIDTH, frame, panels, styled
from cmssf_lib.views import as_float

# What hides a patch: a chequerboard of two greys, so that it looks like no part of a picture.
CHEQUERS = (0.42, 0.62)
COVER = "#9E9E9E"


def masked_pictures(
    images: UInt8[Tensor, "n 3 height width"] | Float[Tensor, "n 3 height width"],
    hidden: Bool[Tensor, "n rows columns"],
) -> Float[Tensor, "n 3 height width"]:
    """Cover the hidden patches with a fine chequerboard of two greys.

    Args:
        images: uint8, or floats in [0, 1].
        hidden: True where a patch is covered.

    Returns:
        The pictures as floats in [0, 1].

    Raises:
        ValueError: If the patches do not tile the pictures.
    """
    pixels = as_float(images)
    (height, width), (rows, columns) = pixels.shape[2:], hidden.shape[1:]
    if height % rows or width % columns:
        raise ValueError(
            f"{rows}×{columns} patches do not tile pictures of {height}×{width} pixels"
        )
    covered = hidden.repeat_interleave(height // rows, dim=1)
    covered = covered.repeat_interleave(width // columns, dim=2)  # (n, height, width)
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    chequers = torch.tensor(CHEQUERS)[odd].to(pixels)
    return torch.where(covered[:, None], chequers, pixels)


@styled
def reconstructions(
    images: UInt8[Tensor, "n 3 height width"] | Float[Tensor, "n 3 height width"],
    hidden: Bool[Tensor, "n rows columns"],
    guesses: Mapping[str, Float[Tensor, "n 3 height width"]],
) -> Figure:
    """Show what an encoder saw of each picture, what was guessed, and what it is.

    A column a picture: on top the picture with its hidden patches covered, then a row for each
    way to fill them, and the picture itself at the bottom. In the rows of guesses the patches
    that were visible, and so are no guess, have a thin frame.

    Args:
        images: uint8, or floats in [0, 1].
        hidden: Which patches were hidden, as `MAE.reconstruct` returns them.
        guesses: Name → the pictures with their hidden patches filled.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to show, numbers differ, or patches do not tile.
    """
    lengths = {"hidden": len(hidden), **{name: len(filled) for name, filled in guesses.items()}}
    if len(images) == 0 or not guesses:
        raise ValueError(f"expected pictures and guesses; got {len(images)} and {len(guesses)}")
    for name, length in lengths.items():
        if length != len(images):
            raise ValueError(f"{name!r} is about {length} pictures, and there are {len(images)}")
    rows = {"seen": masked_pictures(images, hidden), **guesses, "the picture": as_float(images)}
    side = min(0.9, (WIDTH - 1.1) / len(images))
    figure, axes = panels(
        len(rows), len(images), width=side * len(images) + 1.1, height=(side + 0.04) * len(rows)
    )
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        for panel, picture, covered in zip(row, pictures, hidden, strict=True):
            panel.imshow(picture.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy())
            frame(panel)
            if name in guesses:
                _frame_visible(panel, covered, (picture.shape[1], picture.shape[2]))
        row[0].set_ylabel(
            "\n".join(textwrap.wrap(name, 14)), rotation=0, ha="right", va="center", fontsize=9
        )
    return figure


def _frame_visible(
    panel: Axes, covered: Bool[Tensor, "rows columns"], size: tuple[int, int]
) -> None:
    """Draw a frame around each patch that was not covered."""
    height, width = size[0] / covered.shape[0], size[1] / covered.shape[1]
    for row, column in (~covered).nonzero().tolist():
        corner = (column * width - 0.5, row * height - 0.5)
        edge = COLOURS["orange"]
        panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=edge, linewidth=1.1))


@styled
def masked_autoencoder_diagram() -> Figure:
    """Draw a masked autoencoder: sixteen patches, four of which the encoder sees.

    Returns:
        The figure.
    """
    figure, ((axes,),) = panels(height=2.4)
    axes.set(xlim=(0, 17), ylim=(-1.2, 4.9), aspect="equal")
    axes.set_axis_off()
    seen = (1, 6, 11, 12)
    _grid(axes, 0.1, 1.0, seen, COLOURS["orange"])
    _tokens(axes, 4.4, 4, COLOURS["orange"])
    _box(axes, 6.5, 2.6, "encoder", COLOURS["blue"], 2.8)
    _grid(axes, 8.6, 1.0, seen, COLOURS["orange"], rest="m")
    _box(axes, 13.7, 2.6, "decoder", COLOURS["green"], 2.0)
    axes.text(16.2, 2.6, "pixels", ha="center", va="center", fontsize=9)
    for x, text in (
        (1.7, "16 patches,\n4 visible"),
        (6.5, "sees 4 tokens\nand [CLS]"),
        (10.2, "12 times the same\nmask token m"),
        (13.7, "thrown away\nafterwards"),
        (16.2, "12 count"),
    ):
        axes.text(x, 0.5, text, ha="center", va="top", fontsize=9)
    for low, high in ((3.4, 4.1), (4.7, 5.4), (7.6, 8.4), (11.9, 12.6), (14.8, 15.5)):
        arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3}
        axes.annotate("", (high, 2.6), (low, 2.6), arrowprops=arrow)
    return figure


def _grid(
    axes: Axes, x: float, y: float, seen: tuple[int, ...], colour: str, rest: str = ""
) -> None:
    """Draw 4×4 patches, the seen ones in colour, the others hatched or with a letter."""
    for place in range(16):
        row, column = divmod(place, 4)
        corner = (x + 0.8 * column, y + 0.8 * (3 - row))
        face = colour if place in seen else "white"
        hatch = None if place in seen or rest else "/////"
        axes.add_patch(Rectangle(corner, 0.76, 0.76, edgecolor=COVER, facecolor=face, hatch=hatch))
        if rest and place not in seen:
            middle = (corner[0] + 0.38, corner[1] + 0.36)
            axes.text(*middle, rest, ha="center", va="center", fontsize=9)


def _tokens(axes: Axes, x: float, count: int, colour: str) -> None:
    for i in range(count):
        axes.add_patch(
            Rectangle((x - 0.2, 1.0 + 0.8 * i), 0.4, 0.76, facecolor=colour, edgecolor=COVER)
        )


def _box(axes: Axes, x: float, y: float, text: str, colour: str, height: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.9, y - height / 2),
            1.8,
            height,
            boxstyle="round,pad=0.1",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.6,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=9)
