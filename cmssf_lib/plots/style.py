"""How every figure looks, without touching how anybody else's figures look.

What several figures need is written here once: panels, looks that differ by more than colour,
bands over seeds, named levels, legends.
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
# Yellow is too pale for a thin line on white.
LINES = [colour for name, colour in COLOURS.items() if name != "yellow"]
STYLES = ("-", "--", "-.", (0, (5, 1.2, 1, 1.2, 1, 1.2)), (0, (1, 1.2)))
WIDTH = 6.0  # inches: a text column, where 9-point type keeps 12 pixels or more
SHEET = Path(__file__).with_name("book.mplstyle")
STYLE: dict[Any, Any] = {**rc_params_from_file(SHEET, use_default_template=False)}
INK, PALE, DPI = STYLE["text.color"], STYLE["axes.edgecolor"], STYLE["figure.dpi"]

#: Decorates a function that draws: the style holds while it runs, and no longer. A reader's own
#: settings do not reach in, so that a figure is the same on any machine.
styled = style.context(["default", STYLE])
#: No lines, no texts: what an option of a figure has by default.
NONE: Mapping[str, Any] = MappingProxyType({})


class Picture(Figure):
    """A matplotlib figure that is drawn in the book's style and shows itself in a notebook.

    It is not known to ``pyplot``: nothing keeps it alive, and no cell shows it twice.
    """

    @styled
    def draw(self, renderer: RendererBase) -> None:
        """Draw; ticks are made only now, so the style must hold now as well."""
        super().draw(renderer)

    @styled
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
    figure = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def tiles(
    count: int, columns: int, row_height: float, over: float = 0.0, **options: Any
) -> tuple[Picture, list[Axes]]:
    """Make `count` panels, at most `columns` a row, and switch off what the last row has too many.

    The figure is `over` inches higher than its rows: room for a legend. Options are for `panels`.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = panels(rows, columns, height=row_height * rows + over, **options)
    for unused in axes.flat[count:]:
        unused.set_axis_off()
    return figure, list(axes.flat[:count])


class Look(NamedTuple):
    """What tells a curve or a set of points from others, beside its name."""

    colour: str
    marker: str
    line: Any  # a line style of matplotlib


def looks(names: Iterable[Any]) -> dict[Any, Look]:
    """Give each name a look of its own, the same whenever the names are the same."""
    each = map(Look, cycle(LINES), cycle(MARKERS), cycle(STYLES))
    return dict(zip(dict.fromkeys(names), each, strict=False))


def require_some(found: Sized, message: str) -> None:
    """Refuse to draw what is not there."""
    if len(found) == 0:
        raise ValueError(message)


def band(axes: Axes, x: Sequence[float], rows: Any, look: Look, label: str) -> None:
    """Draw the mean over seeds as a line, and a band from the lowest seed to the highest.

    Args:
        axes: The panel.
        x: Places of the points.
        rows: Values, ``(seeds, len(x))``.
        look: Of the line; about ten points of a long one carry the marker.
        label: For the legend.

    Raises:
        ValueError: If there is no seed, or one that does not have a value for each place.
    """
    lengths = sorted({len(row) for row in rows})
    if lengths != [len(x)] or not lengths[0]:
        where = f"{label!r} over {axes.get_xlabel()!r}"
        raise ValueError(f"{where}: {len(x)} places and rows of {lengths or 'no'} values")
    values = np.asarray(rows, dtype=float)
    low, high = values.min(axis=0), values.max(axis=0)
    axes.fill_between(x, low, high, color=look.colour, alpha=0.15, lw=0)
    line = {"color": look.colour, "marker": look.marker, "linestyle": look.line}
    axes.plot(x, values.mean(axis=0), markevery=max(1, len(x) // 10), label=label, **line)


def dots(axes: Axes, x: Any, y: Any, look: Look, size: float = 30, **options: Any) -> None:
    """Draw a point for each seed; where one of `x` and `y` is a single number, all have it."""
    x, y = np.broadcast_arrays(x, y)
    axes.scatter(x, y, size, color=look.colour, marker=look.marker, alpha=0.8, lw=0, **options)


def hollow(axes: Axes, x: Any, y: Any, marker: str, size: float, **options: Any) -> None:
    """Draw an empty symbol at each point: what was published, what a point is compared with."""
    options = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.2, **options}
    axes.scatter(x, y, size, marker=marker, **options)


def levels(axes: Axes, lines: Mapping[str, float], x: float = 0.98, *, above: bool = True) -> None:
    """Draw dotted lines across a panel (name → height): chance, a ceiling.

    Names stand above their lines, or below, at x from 0 at the left edge to 1 at the right.
    """
    for name, height in lines.items():
        axes.axhline(height, color=PALE, linestyle=":", linewidth=1.4)
        side = "left" if x < 0.3 else "right" if x > 0.7 else "center"
        note(axes, x, height, name, above=above, ha=side, color=PALE)


def percent(share: float, _: Any = None) -> str:
    """Return a share of one as per cent: what writes the numbers along an axis of accuracies."""
    return f"{100 * share:.0f} %"


def legend(figure: Figure, place: str = "lower", columns: int = 3, **options: Any) -> None:
    """Name everything that has a label, each name once, in a legend outside the panels.

    Args:
        figure: With its panels drawn.
        place: Its "lower" or "upper" edge.
        columns: Of the legend.
        **options: For ``Figure.legend``.
    """
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        found |= zip(names, handles, strict=True)
    options |= {"loc": f"outside {place} center", "ncols": columns}
    figure.legend(found.values(), found, **options)


def centred(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Write small type, its middle at a point; ``options`` for ``Axes.text`` may change that."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": 9, **options})


def frame(axes: Axes, colour: str = "#BBBBBB", width: float = 0.8, line: str = "-") -> None:
    """Leave of a panel nothing but a frame around its picture."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, edgecolor=colour, linewidth=width, linestyle=line)


def note(axes: Axes, x: float, y: float, text: str, *, above: bool = True, **look: Any) -> None:
    """Write a few words just above (or below) a horizontal line at height y.

    `x` goes from 0 at the panel's left edge to 1 at its right; ``look`` is for ``Axes.annotate``.
    """
    look |= {"xytext": (0, 3 if above else -3), "va": "bottom" if above else "top"}
    look |= {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 9}
    axes.annotate(text, (x, y), **look)
