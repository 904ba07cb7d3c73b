"""The style of the book's figures, applied without changing the reader's matplotlib settings.

The helpers that several figures share are here: panels, looks that differ by more than colour,
bands over seeds, named horizontal lines, legends.
"""

import io
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_params_from_file, style
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

#: The palette of Okabe and Ito (2008), distinguishable with any kind of colour vision.
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
#: Used along with the colours, so that no class depends on its colour alone.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
STYLES = ("-", "--", "-.", (0, (5, 1.2, 1, 1.2, 1, 1.2)), (0, (1, 1.2)))
WIDTH = 6.0  # inches: a text column, where 9-point type keeps 12 pixels or more
SHEET = Path(__file__).with_name("book.mplstyle")
STYLE: dict[Any, Any] = {**rc_params_from_file(SHEET, use_default_template=False)}
INK, PALE, DPI = STYLE["text.color"], STYLE["axes.edgecolor"], STYLE["figure.dpi"]
# Yellow is too pale for a thin line on white; grey is the eighth.
LINES = [*(colour for name, colour in COLOURS.items() if name != "yellow"), PALE]

#: Decorates a function that draws, and applies the style only while it runs. It overrides the
#: reader's own settings, so that a figure looks the same on every machine.
styled = style.context(["default", STYLE])
#: The default of options that map names to lines or texts: an empty mapping.
NONE: Mapping[str, Any] = MappingProxyType({})


class Picture(Figure):
    """A matplotlib figure in the book's style that a notebook displays as a PNG.

    It is not registered with ``pyplot``, so it is freed when it is no longer used and no cell
    shows it twice.
    """

    @styled
    def draw(self, renderer: RendererBase) -> None:
        """Draw in the book's style, because matplotlib creates the ticks only now."""
        super().draw(renderer)

    @styled
    def _repr_png_(self) -> bytes:
        """Return the PNG that Jupyter displays."""
        file = io.BytesIO()
        self.savefig(file, format="png", metadata={"Software": None})  # reproducible bytes
        return file.getvalue()


@styled
def panels(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = 3.6, **options: Any
) -> tuple[Picture, np.ndarray]:
    """Make an empty figure in the book's style.

    Args:
        rows: Number of rows of panels.
        columns: Number of columns of panels.
        width: Width of the whole figure in inches.
        height: Height of the whole figure in inches.
        **options: Passed to ``Figure.subplots``, such as ``sharex=True``.

    Returns:
        The figure, and its axes as an array of shape ``(rows, columns)``.

    Raises:
        ValueError: If `rows` or `columns` is less than 1.
    """
    figure = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def tiles(
    count: int, columns: int, row_height: float, over: float = 0.0, **options: Any
) -> tuple[Picture, list[Axes]]:
    """Make `count` panels with at most `columns` per row, and hide the unused ones of the last row.

    `row_height` and `over` are in inches; `over` is extra height, such as for a legend. The
    options are passed to `panels`.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = panels(rows, columns, height=row_height * rows + over, **options)
    for unused in axes.flat[count:]:
        unused.set_axis_off()
    return figure, list(axes.flat[:count])


class Look(NamedTuple):
    """The colour, marker and line style that identify a curve or a set of points."""

    colour: str
    marker: str
    line: Any  # a matplotlib line style


def looks(names: Iterable[Any]) -> dict[Any, Look]:
    """Assign a look to each distinct name; the same names always get the same looks."""
    each = map(Look, cycle(LINES), cycle(MARKERS), cycle(STYLES))
    return dict(zip(dict.fromkeys(names), each, strict=False))


def require_some(found: Sized, message: str) -> None:
    """Raise a ValueError with this message if there is nothing to draw."""
    if len(found) == 0:
        raise ValueError(message)


def band(axes: Axes, x: Sequence[float], rows: Any, look: Look, label: str) -> None:
    """Draw the mean over seeds as a line, and a band from the lowest seed to the highest.

    Args:
        axes: The panel.
        x: Positions of the points.
        rows: Values, ``(seeds, len(x))``.
        look: Look of the line; on a long line only about ten points have a marker.
        label: Name in the legend.

    Raises:
        ValueError: If there is no seed, or a seed does not have one value per position.
    """
    lengths = sorted({len(row) for row in rows})
    if lengths != [len(x)] or not lengths[0]:
        where = f"{label!r} over {axes.get_xlabel()!r}"
        raise ValueError(f"{where}: expected rows of {len(x)} values; got lengths {lengths}")
    values = np.asarray(rows, dtype=float)
    low, high = values.min(axis=0), values.max(axis=0)
    axes.fill_between(x, low, high, color=look.colour, alpha=0.15, lw=0)
    line = {"color": look.colour, "marker": look.marker, "linestyle": look.line}
    axes.plot(x, values.mean(axis=0), markevery=max(1, len(x) // 10), label=label, **line)


def dots(axes: Axes, x: Any, y: Any, look: Look, size: float = 30, **options: Any) -> None:
    """Draw one point per seed; a single number as `x` or `y` applies to all points."""
    x, y = np.broadcast_arrays(x, y)
    axes.scatter(x, y, size, color=look.colour, marker=look.marker, alpha=0.8, lw=0, **options)


def hollow(axes: Axes, x: Any, y: Any, marker: str, size: float, **options: Any) -> None:
    """Draw an unfilled marker at each point, such as a published value to compare with."""
    options = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.2, **options}
    axes.scatter(x, y, size, marker=marker, **options)


def levels(axes: Axes, lines: Mapping[str, float], x: float = 0.98, *, above: bool = True) -> None:
    """Draw named dotted lines across a panel (name → height), such as chance or a ceiling.

    A name is written above its line (or below it) at `x`, from 0 at the panel's left edge to 1 at
    its right edge.
    """
    for name, height in lines.items():
        axes.axhline(height, color=PALE, linestyle=":", linewidth=1.4)
        side = "left" if x < 0.3 else "right" if x > 0.7 else "center"
        note(axes, x, height, name, above=above, ha=side, color=PALE)


def percent(share: float, _: Any = None) -> str:
    """Format a fraction as a percentage; matplotlib calls it for the ticks of an accuracy axis."""
    return f"{100 * share:.0f} %"


def legend(figure: Figure, place: str = "lower", columns: int = 3, **options: Any) -> None:
    """Add a legend outside the panels that lists each label of the figure once.

    Args:
        figure: A figure whose panels are already drawn.
        place: Edge of the figure, "lower" or "upper".
        columns: Number of columns of the legend.
        **options: Passed to ``Figure.legend``.
    """
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        found |= zip(names, handles, strict=True)
    options |= {"loc": f"outside {place} center", "ncols": columns}
    figure.legend(found.values(), found, **options)


def centred(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Write text centred on a point, at 9 points; ``options`` for ``Axes.text`` override both."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": 9, **options})


def frame(axes: Axes, colour: str = "#BBBBBB", width: float = 0.8, line: str = "-") -> None:
    """Remove ticks and grid from a panel and draw a frame around it."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, edgecolor=colour, linewidth=width, linestyle=line)


def note(axes: Axes, x: float, y: float, text: str, *, above: bool = True, **look: Any) -> None:
    """Write a short text just above (or below) a horizontal line at height `y`.

    `x` runs from 0 at the panel's left edge to 1 at its right edge; ``look`` is passed to
    ``Axes.annotate``.
    """
    look |= {"xytext": (0, 3 if above else -3), "va": "bottom" if above else "top"}
    look |= {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 9}
    axes.annotate(text, (x, y), **look)
