"""Pictures: with captions, with their views, and as the answers to a search."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cmssf_lib.data import ImageTextData
from cmssf_lib.plots.style import COLOURS, WIDTH, frame, panels, styled

Images = UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"]
# Anything that has as many pictures as it has: views and galleries need not match the queries.
Others = UInt8[Tensor, "_ 3 _ _"] | Float[Tensor, "_ 3 _ _"]
RIGHT, WRONG = ("✓", COLOURS["blue"], "-"), ("✗", COLOURS["vermilion"], "--")


def caption_grid(data: ImageTextData, indices: Sequence[int], columns: int = 4) -> Figure:
    """Show pictures with their captions under them.

    Args:
        data: Where they are.
        indices: Which, row by row.
        columns: Pictures a row.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no picture to show.
        IndexError: If an index lies outside the data.
    """
    outside = [i for i in indices if not -len(data) <= i < len(data)]
    if outside:
        raise IndexError(f"{data.name} has {len(data)} pictures; there is none at {outside[0]}")
    chosen = data.subset(indices)
    return image_grid(chosen.images, chosen.captions, columns)


@styled
def image_grid(images: Images, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Show pictures in rows.

    Args:
        images: uint8, or floats in [0, 1].
        titles: A text under each.
        columns: Pictures a row.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no picture, or not one title for each.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"expected pictures to show; got {len(images)} in {columns} columns")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(images)} pictures but {len(titles)} titles; each needs one")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = min(WIDTH, 1.9 * columns)
    side = width / columns
    # About 13 characters an inch at 9 points.
    texts = ["\n".join(textwrap.wrap(t, max(8, int(13 * side) - 2))) for t in titles or ()]
    lines = max((text.count("\n") + 1 for text in texts), default=0)
    figure, axes = panels(rows, columns, width=width, height=rows * (side + 0.16 * lines))
    for i, panel in enumerate(axes.flat):
        if i >= len(images):
            panel.set_axis_off()
            continue
        _show(panel, images[i])
        if texts:
            panel.set_xlabel(texts[i], fontsize=9)
    return figure


@styled
def views_grid(images: Images, views: Mapping[str, Others]) -> Figure:
    """Show pictures in the first row and views of the same pictures below them.

    Args:
        images: The originals.
        views: Name → the same pictures, viewed.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to show, or a view has another number of pictures.
    """
    if len(images) == 0 or not views:
        raise ValueError(f"expected pictures and views; got {len(images)} and {len(views)}")
    for name, viewed in views.items():
        if len(viewed) != len(images):
            raise ValueError(f"the view {name!r} shows {len(viewed)} of {len(images)} pictures")
    rows = {"as it is": images, **views}
    side = (WIDTH - 1.1) / len(images)
    figure, axes = panels(len(rows), len(images), height=min(side, 0.9) * len(rows))
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        for panel, picture in zip(row, pictures, strict=True):
            _show(panel, picture)
        row[0].set_ylabel(
            "\n".join(textwrap.wrap(name, 14)), rotation=0, ha="right", va="center", fontsize=9
        )
    return figure


@styled
def retrieval_gallery(
    queries: Sequence[str] | Others,
    gallery: Others,
    ranked: Int[Tensor, "q k"],
    right: Bool[Tensor, "q k"],
) -> Figure:
    """Show what was found for each query, the best answer first.

    A right answer has a tick and a whole frame, a wrong one a cross and a broken frame.

    Args:
        queries: Texts, or pictures.
        gallery: All pictures that could be found.
        ranked: For each query, places in the gallery from the most similar down.
        right: Whether each answer is right.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no query, or numbers do not fit together.
    """
    if len(queries) == 0 or len(ranked) != len(queries) or ranked.shape != right.shape:
        raise ValueError(
            f"{len(queries)} queries, ranked {tuple(ranked.shape)}, right {tuple(right.shape)}: "
            "expected a row of answers for each query"
        )
    if int(ranked.min()) < 0 or int(ranked.max()) >= len(gallery):
        raise ValueError(f"an answer lies outside the gallery of {len(gallery)} pictures")
    k = ranked.shape[1]
    texts = not isinstance(queries, Tensor)
    first = 2.4 if texts else 1.0  # widths relative to a picture
    side = min(0.85, WIDTH / (k + first))
    figure, axes = panels(
        len(queries),
        k + 1,
        width=side * (k + first),
        height=(side + 0.22) * len(queries),
        gridspec_kw={"width_ratios": [first, *[1] * k]},
    )
    for row, query, places, marks in zip(axes, queries, ranked, right, strict=True):
        if isinstance(query, str):
            row[0].set_axis_off()
            text = "\n".join(textwrap.wrap(query, 22))
            row[0].text(0, 0.5, text, va="center", fontsize=9, transform=row[0].transAxes)
        else:
            _show(row[0], query)
            row[0].set_xlabel("query", fontsize=9)
        for panel, place, mark in zip(row[1:], places.tolist(), marks.tolist(), strict=True):
            symbol, colour, line = RIGHT if mark else WRONG
            _show(panel, gallery[place])
            frame(panel, colour, 2.2, line)
            panel.set_title(symbol, color=colour, fontsize=11, fontweight="bold", pad=2)
    return figure


def _show(axes: Axes, image: UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"]) -> None:
    """Draw one picture, its channels last as matplotlib wants them."""
    pixels: np.ndarray = image.detach().cpu().permute(1, 2, 0).numpy()
    axes.imshow(pixels, vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
    frame(axes)
