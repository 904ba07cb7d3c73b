"""Where [CLS] looks, picture by picture, with the ink drawn over it."""

import textwrap
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from cmssf_lib.plots.attention import attention_pixels
from cmssf_lib.plots.style import WIDTH, frame, panels, styled


@styled
def cls_attention_grid(
    images: UInt8[Tensor, "n 3 h w"], maps: Mapping[str, Float[Tensor, "_ _"]]
) -> Figure:
    """Show pictures in the first row, and below them where something looks in each.

    Dark blue is where it looks; the line runs round the ink. The most attended place of each
    panel is darkest, so that colour compares places within a panel and not panels.

    Args:
        images: Bright ink on a dark ground.
        maps: Name of a row → attention for each picture, patches row by row.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to show, or not one map for each picture.
    """
    if len(images) == 0 or not maps:
        raise ValueError(f"expected pictures and maps; got {len(images)} and {len(maps)}")
    for name, weights in maps.items():
        if len(weights) != len(images):
            raise ValueError(f"{name!r} has {len(weights)} maps for {len(images)} pictures")
    pixels = images.detach().cpu().permute(0, 2, 3, 1).numpy()  # (n, h, w, 3)
    side = min((WIDTH - 1.1) / len(images), 0.9)
    figure, axes = panels(len(maps) + 1, len(images), height=side * (len(maps) + 1))
    for panel, picture in zip(axes[0], pixels, strict=True):
        panel.imshow(picture)
        frame(panel)
    for row, weights in zip(axes[1:], maps.values(), strict=True):
        spread = attention_pixels(weights.cpu().float(), (pixels.shape[1], pixels.shape[2]))
        for panel, picture, seen in zip(row, pixels, spread.numpy(), strict=True):
            panel.imshow(seen, cmap="Blues", vmin=0, vmax=max(float(seen.max()), 1e-12))
            ink = picture.max(axis=2).astype(np.float32)
            if ink.min() < ink.max():
                panel.contour(ink, levels=[ink.max() / 2], colors="#D55E00", linewidths=1.2)
            frame(panel)
    for panel, name in zip(axes[:, 0], ("picture", *maps), strict=True):
        panel.set_ylabel(
            "\n".join(textwrap.wrap(name, 14)), rotation=0, ha="right", va="center", fontsize=9
        )
    return figure
