"""The source chapter's Figure 1, with the sizes of the model that it is drawn for."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cmssf_lib.plots.style import COLOURS, INK, PALE, panels, styled

#: Middle and width of each box; a row of the drawing is 12 wide.
INPUT, ENCODER, HEAD = (0.95, 1.4), (3.8, 1.8), (6.75, 1.5)
SPACE, LOSS = (9.35, 1.5), (11.3, 1.0)


@styled
def cmssf_diagram(image: Sequence[str], text: Sequence[str], *, frozen: bool = False) -> Figure:
    """Draw CMSSF: two encoders, two heads, one space, one loss, and what passes between them.

    Args:
        image: What passes along the three arrows of the pictures' row: into the encoder, out of
            it, and out of the head. A shape such as "3×16×16", on one line or two.
        text: Likewise for the captions' row.
        frozen: Whether the image encoder is drawn as one that does not learn.

    Returns:
        The figure.

    Raises:
        ValueError: If a row has not three labels.
    """
    for name, labels in (("image", image), ("text", text)):
        if len(labels) != 3:
            raise ValueError(f"{name} has {len(labels)} labels: a row has three arrows, one each")
    figure, ((axes,),) = panels(height=2.5)
    axes.set(xlim=(0, 12), ylim=(-0.1, 4.6))
    axes.set_axis_off()
    rows = (
        (3.35, "picture", "vision\ntransformer", COLOURS["blue"], image),
        (1.0, "caption", "text\ntransformer", COLOURS["green"], text),
    )
    for y, name, encoder, colour, labels in rows:
        still = frozen and name == "picture"
        _box(axes, INPUT, y, name, PALE)
        _box(axes, ENCODER, y, encoder, colour, style="--" if still else "-")
        _box(axes, HEAD, y, "projection\nhead", colour)
        for (left, right), label in zip(
            ((INPUT, ENCODER), (ENCODER, HEAD), (HEAD, SPACE)), labels, strict=True
        ):
            _arrow(axes, left, right, y)
            middle = (left[0] + left[1] / 2 + right[0] - right[1] / 2) / 2
            axes.text(middle, y + 0.16, label, ha="center", va="bottom", fontsize=9)
        if still:
            axes.text(ENCODER[0], y - 0.95, "frozen", ha="center", va="top", fontsize=9)
    _box(axes, SPACE, 2.175, "shared\nspace,\nlength 1", COLOURS["purple"], height=3.4)
    _box(axes, LOSS, 2.175, "loss", COLOURS["vermilion"])
    _arrow(axes, SPACE, LOSS, 2.175)
    return figure


def _box(
    axes: Axes,
    place: tuple[float, float],
    y: float,
    text: str,
    colour: str,
    *,
    height: float = 1.25,
    style: str = "-",
) -> None:
    x, width = place
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.08",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.6,
            linestyle=style,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Axes, left: tuple[float, float], right: tuple[float, float], y: float) -> None:
    start, end = left[0] + left[1] / 2 + 0.12, right[0] - right[1] / 2 - 0.12
    look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3}
    axes.annotate("", (end, y), (start, y), arrowprops=look)
