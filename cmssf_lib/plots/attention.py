"""Where attention looks, laid over the picture; and co-attention as a drawing."""

from collections.abc import Sequence

from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.plots.style import COLOURS, INK, WIDTH, frame, panels, styled

PATCH = 4  # the convolutional stem makes one token of 4×4 pixels
DARKEST = 0.12  # brightness that is left where nothing is looked at
#: One row of a figure: a title for each map, and the maps.
Row = tuple[Sequence[str], Float[Tensor, "_ _"]]


def attention_pixels(
    weights: Float[Tensor, "n patches"], size: tuple[int, int]
) -> Float[Tensor, "n height width"]:
    """Spread attention over patches out over the pixels of the picture.

    The token of the convolutional stem in row r and column c has its centre on pixel (4r, 4c):
    the upper left corner of its block, not the middle. A plain enlargement would move every map
    down and to the right by a pixel and a half. Here each token's weight stands on the pixel it
    belongs to, and between tokens it is interpolated; beyond the last token it stays the same.

    Args:
        weights: One row a map, patches row by row.
        size: Height and width of the picture in pixels.

    Returns:
        The maps; pixel (4r, 4c) has the weight of its token.

    Raises:
        ValueError: If the picture does not have that many patches.
    """
    rows, columns = size[0] // PATCH, size[1] // PATCH
    if weights.shape[1] != rows * columns:
        raise ValueError(
            f"a picture of {size[0]}×{size[1]} pixels has {rows * columns} patches; got weights of "
            f"{weights.shape[1]}"
        )
    between = F.interpolate(
        weights.detach().reshape(-1, 1, rows, columns),
        (PATCH * (rows - 1) + 1, PATCH * (columns - 1) + 1),
        mode="bilinear",
        align_corners=True,
    )
    return F.pad(between, (0, PATCH - 1, 0, PATCH - 1), mode="replicate")[:, 0]


@styled
def attention_maps(image: UInt8[Tensor, "3 height width"], rows: Sequence[Row]) -> Figure:
    """Show a picture as attention sees it: bright where it looks, dark where it does not.

    The first panel of each row is the picture. In each map the most attended place has full
    brightness, so that brightness compares places within a map and not maps with each other.

    Args:
        image: The picture.
        rows: For each row of the figure titles and maps ``(maps, patches)``, such as the words
            of a question and where each of them looks.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no map, not one title for each, or another number of patches.
    """
    if not rows or not all(len(names) == len(maps) > 0 for names, maps in rows):
        found = [(len(names), len(maps)) for names, maps in rows]
        raise ValueError(f"expected rows with one title a map; got (titles, maps) {found}")
    size = (image.shape[1], image.shape[2])
    columns = 1 + max(len(names) for names, _ in rows)
    side = WIDTH / columns * size[0] / size[1]
    figure, axes = panels(len(rows), columns, height=(side + 0.27) * len(rows) + 0.1)
    pixels = image.detach().cpu().permute(1, 2, 0).float() / 255  # (height, width, 3)
    for row, (names, maps) in zip(axes, rows, strict=True):
        row[0].imshow(pixels.numpy())
        frame(row[0])
        spread = attention_pixels(maps.cpu().float(), size)
        for panel, name, weights in zip(row[1:], names, spread, strict=False):
            light = DARKEST + (1 - DARKEST) * weights / weights.max().clamp(min=1e-12)
            panel.imshow((pixels * light[:, :, None]).clamp(0, 1).numpy())
            panel.set_title(name, fontsize=9, pad=2)
            frame(panel)
        for panel in row[1 + len(names) :]:
            panel.set_axis_off()
    return figure


@styled
def co_attention_diagram() -> Figure:
    """Draw one layer of co-attention: two streams, and what each asks the other.

    Returns:
        The figure.
    """
    figure, ((axes,),) = panels(height=3.9)
    axes.set(xlim=(0, 10), ylim=(-0.3, 7))
    axes.set_axis_off()
    for x, name, colour in ((2.4, "picture", COLOURS["blue"]), (7.6, "question", COLOURS["green"])):
        tokens = "32 patches" if name == "picture" else "its words"
        axes.text(x, 0.15, f"{name}: {tokens}", ha="center", va="center")
        for y, text in (
            (2.2, "cross-attention"),
            (4.0, "self-attention"),
            (5.6, "feed-forward"),
        ):
            _box(axes, x, y, text, colour)
        for low, high in ((0.45, 1.75), (2.65, 3.55), (4.45, 5.15), (6.05, 6.7)):
            _arrow(axes, (x, low), (x, high), INK, "-")
    # Keys and values cross over; the queries come straight from below.
    _arrow(axes, (2.4, 0.75), (6.2, 2.0), COLOURS["blue"], "--")
    _arrow(axes, (7.6, 0.75), (3.8, 2.0), COLOURS["green"], "--")
    for x, side in ((2.25, "right"), (7.75, "left")):
        axes.text(x, 1.25, "queries", ha=side, va="center", fontsize=9)
    axes.text(5.0, 2.25, "keys and values", ha="center", va="center", fontsize=9)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - 1.3, y - 0.35),
            2.6,
            0.7,
            boxstyle="round,pad=0.08",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.6,
        )
    )
    axes.text(x, y, text, ha="center", va="center")


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style: str
) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "linewidth": 1.4}
    axes.annotate("", end, start, arrowprops=look)
