"""How every figure looks, without touching how anybody else's figures look."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

#: Okabe and Ito's palette: told apart with any kind of colour vision.
COLOURS: Mapping[str, str] = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "black": "#000000",
    "yellow": "#F0E442",
}
#: Beside the colours, so that no class is known by its colour alone.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
INK, PALE = "#222222", "#595959"
WIDTH = 6.0  # inches: a text column, where 9-point type keeps 12 pixels or more
DPI = 120

STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "font.family": "DejaVu Sans",  # matplotlib brings it: the same figure on any machine
    "font.size": 10,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "image.interpolation": "nearest",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}
#: Decorates a function that draws: the style holds while it runs, and no longer.
styled = matplotlib.rc_context(STYLE)


class Picture(Figure):
    """A matplotlib figure that is drawn in the book's style and shows itself in a notebook.

    It is not known to ``pyplot``: nothing keeps it alive, and no cell shows it twice.
    """

    @styled
    def draw(self, renderer: RendererBase) -> None:
        """Draw; ticks are made only now, so the style must hold now as well."""
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        """What Jupyter shows."""
        file = io.BytesIO()
        self.savefig(file, format="png", metadata={"Software": None})  # same bytes, same figure
        return file.getvalue()


@styled
def panels(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = 3.6, **options: Any
) -> tuple[Picture, np.ndarray]:
    """Make an empty figure in the book's style.

    Args:
        rows: Of panels.
        columns: Of panels.
        width: Of the whole figure in inches.
        height: Likewise.
        **options: For ``Figure.subplots``, such as ``sharex=True``.

    Returns:
        The figure and its axes, always an array of shape ``(rows, columns)``.

    Raises:
        ValueError: If there would be no panel.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"a figure has at least one panel; got {rows} × {columns}")
    figure = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def frame(axes: Axes, colour: str = "#BBBBBB", width: float = 0.8, style: str = "-") -> None:
    """Leave of a panel nothing but a frame around its picture."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor=colour, linewidth=width, linestyle=style)


def note(axes: Axes, x: float, y: float, text: str, *, above: bool = True, **options: Any) -> None:
    """Write a label just above or below a horizontal line.

    Args:
        axes: The panel.
        x: From 0 at its left edge to 1 at its right.
        y: Of the line, in the units of the data.
        text: A few words.
        above: Or below.
        **options: For ``Axes.annotate``, such as ``ha="right"``.
    """
    axes.annotate(
        text,
        (x, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 3 if above else -3),
        textcoords="offset points",
        va="bottom" if above else "top",
        fontsize=9,
        **options,
    )
