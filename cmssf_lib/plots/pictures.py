"""Figures of pictures with captions, views or masks, of retrieval results, and of sounds."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.data import ImageTextData
from cmssf_lib.data.scenes import DTMF_HERTZ, SAMPLE_RATE
from cmssf_lib.plots import style
from cmssf_lib.views import as_float

Images = UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"]
# Pictures whose number and size may differ from those of other arguments: views, a gallery.
Others = UInt8[Tensor, "_ 3 _ _"] | Float[Tensor, "_ 3 _ _"]
Shown = UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"] | Float[Tensor, "h w"]
Hidden = Bool[Tensor, "n rows columns"]
# Greys of the chequerboard that covers a patch, so that it cannot be mistaken for image content.
CHEQUERS = (0.42, 0.62)
HIGHEST_HERTZ = 1800  # above all frequencies of telephone keys
RIGHT, WRONG = ("✓", style.COLOURS["blue"], "-"), ("✗", style.COLOURS["vermilion"], "--")


def caption_grid(data: ImageTextData, indices: Sequence[int], columns: int = 4) -> Figure:
    """Show pictures with their captions below them; of several, the first.

    Args:
        data: The data set that holds the pictures.
        indices: Indices of the pictures to show, row by row.
        columns: Number of pictures in a row.

    Raises:
        ValueError: If there is no picture to show.
        IndexError: If an index is out of range.
    """
    outside = [i for i in indices if not -len(data) <= i < len(data)]
    if outside:
        raise IndexError(f"index {outside[0]} is outside the {len(data)} pictures of {data.name}")
    chosen = data.subset(indices)
    return image_grid(chosen.images[:], [texts[0] for texts in chosen.caption_sets], columns)


@style.styled
def image_grid(images: Images, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Show pictures in rows.

    Args:
        images: uint8, or floats in [0, 1].
        titles: The text below each picture, if any.
        columns: Number of pictures in a row.

    Raises:
        ValueError: If there is no picture, no column, or not one title per picture.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"expected pictures to show; got {len(images)} in {columns} columns")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(images)} pictures but {len(titles)} titles; each needs one")
    columns = min(columns, len(images))
    width = min(style.WIDTH, 1.9 * columns)
    side = width / columns
    # At 9 points, about 13 characters fit in an inch.
    texts = [textwrap.fill(t, max(8, int(13 * side) - 2)) for t in titles or [""] * len(images)]
    lines = max(text.count("\n") + 1 for text in texts) if titles else 0
    figure, axes = style.tiles(len(images), columns, side + 0.17 * lines, width=width)
    for panel, image, text in zip(axes, images, texts, strict=True):
        show(panel, image, text)
    return figure


@style.styled
def views_grid(images: Images, views: Mapping[str, Others]) -> Figure:
    """Show pictures in the first row and views of them below.

    Args:
        images: The originals.
        views: Name of a row → a view of each picture.

    Raises:
        ValueError: If there is nothing to show, or not one view per picture.
    """
    return picture_rows({"as it is": images, **views})[0]


@style.styled
def retrieval_gallery(
    queries: Sequence[str] | Others,
    gallery: Others,
    ranked: Int[Tensor, "q k"],
    right: Bool[Tensor, "q k"],
) -> Figure:
    """Show the pictures retrieved for each query, the best match first.

    A right answer has a tick and a solid frame, a wrong one a cross and a dashed frame.

    Args:
        queries: Texts, or pictures.
        gallery: The pictures that were searched.
        ranked: For each query, indices into the gallery, the most similar first.
        right: Whether each answer is right.

    Raises:
        ValueError: If there is no query, there is not one row of answers per query, or an index
            is outside the gallery.
    """
    if len(queries) == 0 or len(ranked) != len(queries) or ranked.shape != right.shape:
        answers = f"ranked {tuple(ranked.shape)}, right {tuple(right.shape)}"
        raise ValueError(f"{len(queries)} queries need a row of answers each; got {answers}")
    if int(ranked.min()) < 0 or int(ranked.max()) >= len(gallery):
        raise ValueError(f"an index is outside the gallery of {len(gallery)} pictures")
    k = ranked.shape[1]
    widths = [1.0 if isinstance(queries, Tensor) else 2.4, *[1.0] * k]  # relative to a picture
    side = min(0.85, style.WIDTH / sum(widths))
    size: Any = {"width": side * sum(widths), "height": (side + 0.22) * len(queries)}
    figure, axes = style.panels(len(queries), k + 1, width_ratios=widths, **size)
    for row, query, places, marks in zip(axes, queries, ranked, right, strict=True):
        if isinstance(query, str):
            row[0].set_axis_off()
            text = textwrap.fill(query, 22)
            style.centred(row[0], 0, 0.5, text, ha="left", transform=row[0].transAxes)
        else:
            show(row[0], query, "query")
        for panel, place, mark in zip(row[1:], places.tolist(), marks.tolist(), strict=True):
            symbol, colour, line = RIGHT if mark else WRONG
            show(panel, gallery[place])
            style.frame(panel, colour, 2.2, line)
            panel.set_title(symbol, color=colour, fontsize=11, fontweight="bold", pad=2)
    return figure


def masked_pictures(images: Images, hidden: Hidden) -> Float[Tensor, "n 3 h w"]:
    """Cover the hidden patches of pictures with a fine chequerboard of two greys.

    Args:
        images: uint8, or floats in [0, 1].
        hidden: True where a patch is hidden.

    Returns:
        The pictures as floats in [0, 1].

    Raises:
        ValueError: If there is not one mask per picture, or the patches do not tile the pictures.
    """
    pixels = as_float(images)
    (n, _, height, width), (masks, rows, columns) = pixels.shape, hidden.shape
    if masks != n or height % rows or width % columns:
        size = f"{n} pictures of {height}×{width} pixels"
        raise ValueError(f"{masks} masks of {rows}×{columns} patches do not fit {size}")
    covered = F.interpolate(hidden[:, None].float(), (height, width)) > 0  # (n, 1, height, width)
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    chequers = torch.tensor(CHEQUERS)[odd].to(pixels)
    return torch.where(covered, chequers, pixels)


@style.styled
def tone_panels(
    sounds: Float[Tensor, "n samples"], titles: Sequence[str], *, milliseconds: float = 25.0
) -> Figure:
    """Show each sound as a waveform over time and as a spectrum of amplitudes.

    Dotted lines mark the seven frequencies of the telephone keys.

    Args:
        sounds: Waveforms at `data.scenes.SAMPLE_RATE`.
        titles: One title per sound.
        milliseconds: Length of the waveform that is drawn; the spectrum is of the whole sound.

    Raises:
        ValueError: If there is no sound, or not one title per sound.
    """
    if len(sounds) == 0 or len(titles) != len(sounds):
        raise ValueError(f"{len(sounds)} sounds and {len(titles)} titles; each needs one")
    samples = sounds.shape[1]
    time = 1000 * torch.arange(samples) / SAMPLE_RATE  # ms
    hertz = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    # Scaled so that a sine of amplitude a has height a.
    strength = torch.fft.rfft(sounds.cpu()).abs() * 2 / samples  # (n, samples // 2 + 1)
    figure, axes = style.panels(len(sounds), 2, height=1.6 * len(sounds) + 0.4, sharex="col")
    for (wave, spectrum), sound, heights, title in zip(axes, sounds, strength, titles, strict=True):
        early = time <= milliseconds
        wave.plot(time[early], sound.cpu()[early], color=style.COLOURS["blue"], linewidth=1.2)
        wave.set_title(title, loc="left")
        wave.set_ylabel("pressure")
        for key in np.unique(DTMF_HERTZ):
            spectrum.axvline(key, color=style.PALE, linestyle=":", linewidth=1)
        low = hertz <= HIGHEST_HERTZ
        spectrum.plot(hertz[low], heights[low], color=style.COLOURS["vermilion"], linewidth=1.4)
        spectrum.set_ylabel("strength")
        spectrum.grid(False)
    axes[-1, 0].set_xlabel("time (ms)")
    axes[-1, 1].set_xlabel("frequency (Hz)")
    return figure


def picture_rows(rows: Mapping[str, Tensor], gap: float = 0.0) -> tuple[style.Picture, np.ndarray]:
    """Show rows of pictures or of two-dimensional maps, with each row's name at its left.

    Args:
        rows: Name → pictures or maps, as `show` takes them: first the originals, then at least one
            row with one picture or map per original.
        gap: Extra height of each row, in inches.

    Returns:
        The figure and its panels, ``(len(rows), pictures)``.

    Raises:
        ValueError: If there is nothing to show, or the lengths of the rows differ.
    """
    count = len(next(iter(rows.values())))
    if count == 0 or len(rows) < 2:
        raise ValueError(f"expected pictures and rows below them; got {count} and {len(rows) - 1}")
    side = min((style.WIDTH - 1.1) / count, 0.9)
    figure, axes = style.panels(len(rows), count, height=(side + gap) * len(rows))
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        if len(pictures) != count:
            raise ValueError(f"{name!r} has {len(pictures)} pictures; expected {count}")
        row[0].set_ylabel(textwrap.fill(name, 14), fontsize=9, rotation=0, ha="right", va="center")
        for panel, picture in zip(row, pictures, strict=True):
            show(panel, picture)
    return figure, axes


def show(axes: Axes, image: Shown, below: str = "") -> None:
    """Draw one picture (uint8, or floats, which are clamped to [0, 1]), or one map.

    A map is two-dimensional. It is drawn in blue, darkest at its maximum.
    """
    pixels = image.detach().cpu()
    if pixels.ndim == 2:
        axes.imshow(pixels.numpy(), cmap="Blues", vmin=0, vmax=max(float(pixels.max()), 1e-12))
    else:
        shown = pixels.clamp(0, 1) if pixels.is_floating_point() else pixels
        axes.imshow(shown.permute(1, 2, 0).numpy())
    style.frame(axes)
    axes.set_xlabel(below, fontsize=9)
