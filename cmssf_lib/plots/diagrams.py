"""Diagrams of methods as boxes and arrows, and of embeddings as points in the plane."""

from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.plots import style

Pair = tuple[float, float]
Points = Float[Tensor, "_ _"]
#: Centre and width of each box of CMSSF on the x axis, which runs from 0 to 12.
INPUT, ENCODER, HEAD = (0.95, 1.4), (3.8, 1.8), (6.75, 1.5)
SPACE, LOSS = (9.35, 1.5), (11.3, 1.0)


@style.styled
def co_attention_diagram() -> Figure:
    """Draw one co-attention layer: two streams, each with queries to the other."""
    figure, axes = _sheet(3.9, xlim=(0, 10), ylim=(-0.3, 7))
    streams = ((2.4, "picture: 32 patches", "blue"), (7.6, "question: its words", "green"))
    for x, name, colour in streams:
        style.centred(axes, x, 0.15, name, fontsize=10)
        for y, text in ((2.2, "cross-attention"), (4.0, "self-attention"), (5.6, "feed-forward")):
            _box(axes, (x, 2.6), (y, 0.7), text, colour, fontsize=10)
        for low, high in ((0.45, 1.75), (2.65, 3.55), (4.45, 5.15), (6.05, 6.7)):
            _arrow(axes, (x, low), (x, high))
        # Keys and values go to the other stream; the queries stay in their own.
        side = 1 if x < 5 else -1
        _arrow(axes, (x, 0.75), (x + 3.8 * side, 2.0), color=style.COLOURS[colour], linestyle="--")
        style.centred(axes, 5 - 2.75 * side, 1.25, "queries", ha="right" if x < 5 else "left")
    style.centred(axes, 5.0, 2.25, "keys and values")
    return figure


@style.styled
def cmssf_diagram(image: Sequence[str], text: Sequence[str]) -> Figure:
    """Draw CMSSF: two encoders, two projection heads, the shared space and the loss.

    It is Figure 1 of the source chapter, labelled with the shapes of a particular model.

    Args:
        image: Labels of the three arrows in the picture row: into the encoder, out of the
            encoder, and out of the head. Each is a shape such as "3×16×16", on one or two lines.
        text: Labels of the three arrows in the caption row.

    Raises:
        ValueError: If a row does not have exactly three labels.
    """
    for name, labels in (("image", image), ("text", text)):
        if len(labels) != 3:
            raise ValueError(f"{name} has {len(labels)} labels; expected three, one per arrow")
    figure, axes = _sheet(2.5, xlim=(0, 12), ylim=(-0.1, 4.6))
    rows = ((3.35, "picture", "vision", "blue", image), (1.0, "caption", "text", "green", text))
    for y, name, kind, colour, labels in rows:
        _box(axes, INPUT, (y, 1.25), name, style.PALE)
        _box(axes, ENCODER, (y, 1.25), f"{kind}\ntransformer", colour)
        _box(axes, HEAD, (y, 1.25), "projection\nhead", colour)
        for ends, label in zip(pairwise((INPUT, ENCODER, HEAD, SPACE)), labels, strict=True):
            style.centred(axes, _arrow_between(axes, *ends, y), y + 0.16, label, va="bottom")
    _box(axes, SPACE, (2.175, 3.4), "shared\nspace,\nlength 1", "purple")
    _box(axes, LOSS, (2.175, 1.25), "loss", "vermilion")
    _arrow_between(axes, SPACE, LOSS, 2.175)
    return figure


@style.styled
def masked_autoencoder_diagram() -> Figure:
    """Draw a masked autoencoder with sixteen patches, of which the encoder sees four."""
    figure, axes = _sheet(2.4, xlim=(0, 17), ylim=(-1.2, 4.9), aspect="equal")

    def patch(x: float, y: float, colour: str, width: float = 0.76, hatch: str = "") -> None:
        axes.add_patch(Rectangle((x, y), width, 0.76, ec="#9E9E9E", fc=colour, hatch=hatch))

    for place in range(16):  # 4×4 patches twice: the masked picture, and the decoder's input
        x, y = 0.8 * (place % 4), 1.0 + 0.8 * (3 - place // 4)
        seen = place in (1, 6, 11, 12)
        colour = style.COLOURS["orange"] if seen else "white"
        patch(0.1 + x, y, colour, hatch="" if seen else "/////")
        patch(8.6 + x, y, colour)
        if not seen:
            style.centred(axes, 8.98 + x, y + 0.36, "m")
    for i in range(4):
        patch(4.2, 1.0 + 0.8 * i, style.COLOURS["orange"], width=0.4)
    _box(axes, (6.5, 1.8), (2.6, 2.8), "encoder", "blue")
    _box(axes, (13.7, 1.8), (2.6, 2.0), "decoder", "green")
    style.centred(axes, 16.2, 2.6, "pixels")
    for x, text in (
        (1.7, "16 patches,\n4 visible"),
        (6.5, "sees 4 tokens\nand [CLS]"),
        (10.2, "12 times the same\nmask token m"),
        (13.7, "thrown away\nafterwards"),
        (16.2, "12 count"),
    ):
        style.centred(axes, x, 0.5, text, va="top")
    for left, right in ((3.4, 4.1), (4.7, 5.4), (7.6, 8.4), (11.9, 12.6), (14.8, 15.5)):
        _arrow(axes, (left, 2.6), (right, 2.6))
    return figure


@style.styled
def pairs_on_circle(a: Points, b: Points, moves: Points | None = None) -> Figure:
    """Show pairs of two-dimensional embeddings, normalised to unit length, on the circle.

    Each pair has a colour, a marker and a number. Its first view is filled, its second hollow, and
    a thin line joins the two.

    Args:
        a: Embeddings of the first views, ``(n, 2)``.
        b: Embeddings of the second views; row i belongs to row i of `a`.
        moves: An arrow for each view, ``(2n, 2)``, those of `a` first. They are scaled so that
            the longest is half as long as the radius.

    Raises:
        ValueError: If there is no pair, the shapes differ, or there is not one arrow per view.
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 2 or len(a) == 0:
        raise ValueError(f"expected two sets (n, 2); got {tuple(a.shape)} and {tuple(b.shape)}")
    if moves is not None and moves.shape != (2 * len(a), 2):
        raise ValueError(f"expected {2 * len(a)} arrows, one per view; got {tuple(moves.shape)}")
    units = F.normalize(torch.cat([a, b]).detach(), dim=1)
    figure, ((axes,),) = style.panels(width=4.2, height=4.2)
    turn = torch.linspace(0, 2 * torch.pi, 200)
    axes.plot(turn.cos(), turn.sin(), color=style.PALE, linewidth=0.8)
    for i, look in style.looks(range(len(a))).items():
        ends = units[[i, i + len(a)]]
        axes.plot(*ends.T, color=look.colour, linewidth=0.8, linestyle=":")
        for (x, y), fill in zip(ends.tolist(), (look.colour, "white"), strict=True):
            edge = {"edgecolor": look.colour, "linewidth": 1.6}
            axes.scatter(x, y, s=60, marker=look.marker, facecolor=fill, zorder=3, **edge)
            style.centred(axes, 1.13 * x, 1.13 * y, str(i + 1), color=look.colour)
    if moves is not None:
        arrows = moves.detach() * (0.5 / moves.detach().norm(dim=1).max().clamp(min=1e-12))
        to_scale = {"angles": "xy", "scale_units": "xy", "scale": 1}
        axes.quiver(*units.T, *arrows.T, width=0.008, color=style.INK, zorder=2, **to_scale)
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    style.frame(axes, width=0)
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
    """Map embeddings to the plane with t-SNE, which keeps neighbours close together.

    Distances between clusters and sizes of clusters mean little. Another seed or perplexity gives
    another layout, so both are written in the figure.

    Args:
        embeddings: A few hundred to a few thousand of them.
        labels: The class of each embedding, shown by marker and colour.
        class_names: Names of the classes; more than 40 repeat marker and colour.
        seed: Random seed of the layout.
        perplexity: Roughly the number of neighbours considered for each point; it must be less
            than the number of points.

    Raises:
        ValueError: If there are no embeddings, the labels do not fit the embeddings or the class
            names, or the perplexity is too large.

    References:
        van der Maaten, Hinton: Visualizing Data using t-SNE. JMLR 9 (2008).
    """
    n = len(embeddings)
    if labels.shape != (n,) or n == 0:
        raise ValueError(f"{n} embeddings need one label each; got labels {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise ValueError(f"a label is outside the {len(class_names)} classes")
    layout = TSNE(perplexity=perplexity, random_state=seed, init="pca", learning_rate="auto")
    points = layout.fit_transform(embeddings.detach().cpu().numpy())  # (n, 2)
    figure, ((axes,),) = style.panels(height=5.2)
    # With eight colours and ten markers, no two of the first forty classes share both.
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


def _sheet(height: float, **limits: Any) -> tuple[style.Picture, Axes]:
    """Make a figure with one panel that has no axes, to draw a diagram on."""
    figure, ((axes,),) = style.panels(height=height)
    axes.set(**limits)
    axes.set_axis_off()
    return figure, axes


def _box(axes: Axes, across: Pair, up: Pair, text: str, colour: str, **options: Any) -> None:
    """Draw a rounded box with a text in it, given its centre and size `across` and `up`."""
    corner = (across[0] - across[1] / 2, up[0] - up[1] / 2)
    look: Any = {"fc": "white", "ec": style.COLOURS.get(colour, colour), "lw": 1.6}
    axes.add_patch(FancyBboxPatch(corner, across[1], up[1], boxstyle="round,pad=0.08", **look))
    style.centred(axes, across[0], up[0], text, **options)


def _arrow(axes: Axes, start: Pair, end: Pair, **look: Any) -> None:
    look = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.3, **look}
    axes.annotate("", end, start, arrowprops=look)


def _arrow_between(axes: Axes, left: Pair, right: Pair, y: float) -> float:
    """Draw an arrow between two boxes, given by centre and width; return the centre of the gap."""
    start, end = left[0] + left[1] / 2, right[0] - right[1] / 2
    _arrow(axes, (start + 0.12, y), (end - 0.12, y))
    return (start + end) / 2
