"""Contrastive learning: pairs on a circle, and what one setting after another changes."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.plots.fusion import LINES
from cmssf_lib.plots.style import COLOURS, INK, MARKERS, PALE, note, panels, styled


@styled
def pairs_on_circle(
    a: Float[Tensor, "_ _"],
    b: Float[Tensor, "_ _"],
    moves: Float[Tensor, "_ _"] | None = None,
) -> Figure:
    """Show pairs of embeddings in two dimensions, brought to unit length.

    A pair has a colour, a marker and a number; its first view is filled, its second hollow, and a
    thin line joins them.

    Args:
        a: Embeddings of the first views, ``(n, 2)``.
        b: Embeddings of the second views; row i belongs to row i of `a`.
        moves: An arrow for each view, ``(2n, 2)``, those of `a` first. The longest is
            drawn half as long as the radius.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no pair, the shapes differ, or there is not one arrow a view.
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 2 or len(a) == 0:
        raise ValueError(f"expected two sets (n, 2); got {tuple(a.shape)} and {tuple(b.shape)}")
    if moves is not None and moves.shape != (2 * len(a), 2):
        raise ValueError(f"expected {2 * len(a)} arrows, one a view; got {tuple(moves.shape)}")
    units = F.normalize(torch.cat([a, b]).detach(), dim=1)
    figure, ((axes,),) = panels(width=4.2, height=4.2)
    turn = torch.linspace(0, 2 * torch.pi, 200)
    axes.plot(turn.cos(), turn.sin(), color=PALE, linewidth=0.8)
    looks = zip(cycle(LINES), cycle(MARKERS))
    for i, (colour, marker) in zip(range(len(a)), looks, strict=False):
        ends = units[[i, i + len(a)]]
        axes.plot(*ends.T, color=colour, linewidth=0.8, linestyle=":")
        for (x, y), fill in zip(ends.tolist(), (colour, "white"), strict=True):
            axes.scatter(
                x, y, s=60, marker=marker, facecolor=fill, edgecolor=colour, linewidth=1.6, zorder=3
            )
            axes.annotate(
                str(i + 1), (1.13 * x, 1.13 * y), ha="center", va="center", fontsize=9, color=colour
            )
    if moves is not None:
        arrows = moves.detach() * (0.5 / moves.detach().norm(dim=1).max().clamp(min=1e-12))
        axes.quiver(
            *units.T,
            *arrows.T,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.008,
            color=INK,
            zorder=2,
        )
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


@styled
def setting_sweeps(
    sweeps: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    usual: Mapping[str, str] | None = None,
    lines: Mapping[str, float] | None = None,
    bottom: float = 0.0,
) -> Figure:
    """Show how accuracy depends on one setting after another, a panel for each.

    A point is a seed; the line joins the means. Values stand at equal distances, in the order
    given, whatever they are.

    Args:
        sweeps: Setting → its value, in words → accuracies, one a seed. Two panels a row.
        usual: Setting → the value that the other panels have; a square frames its points.
        lines: Name → accuracy, drawn as a dotted line in every panel: raw pixels, say.
        bottom: Where the vertical axis begins.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to draw, a value has no accuracy, or a usual value is
            none of the setting's.
    """
    if not sweeps or not all(sweeps.values()):
        raise ValueError("expected settings with their values; got none, or one without values")
    for setting, values in sweeps.items():
        for value, accuracies in values.items():
            if len(accuracies) == 0:
                raise ValueError(f"{setting} {value} has no accuracy: expected one a seed")
        if usual and usual.get(setting, next(iter(values))) not in values:
            raise ValueError(f"{setting} has no value {usual[setting]}; it has {', '.join(values)}")
    wide = min(2, len(sweeps))
    count = -(-len(sweeps) // wide)
    figure, axes = panels(count, wide, height=2.4 * count + 0.2, sharey=True)
    for panel in axes.flat[len(sweeps) :]:
        panel.set_axis_off()
    for panel, (setting, values) in zip(axes.flat, sweeps.items(), strict=False):
        means = [sum(found) / len(found) for found in values.values()]
        panel.plot(range(len(values)), means, color=COLOURS["blue"], linewidth=1.2)
        for x, (value, found) in enumerate(values.items()):
            panel.scatter([x] * len(found), found, s=24, color=COLOURS["blue"], alpha=0.8, lw=0)
            if usual and usual.get(setting) == value:
                panel.scatter(
                    x, means[x], s=200, marker="s", facecolor="none", edgecolor=INK, linewidth=1.2
                )
        for text, height in (lines or {}).items():
            panel.axhline(height, color=PALE, linestyle=":", linewidth=1.4)
            note(panel, 0.98, height, text, above=False, ha="right", color=PALE)
        panel.set_xticks(range(len(values)), list(values))
        panel.set_xlim(-0.4, len(values) - 0.6)
        panel.set_xlabel(setting)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes[0, 0].set_ylim(bottom, 1.02)
    for row in axes:
        row[0].set_ylabel("right on the test set")
    return figure
