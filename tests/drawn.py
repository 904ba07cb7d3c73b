"""What tests of figures ask of every figure, and read off it."""

import io
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from cmssf_lib import plots


def assert_page(draw: Callable[[], plots.Picture]) -> None:
    """The figure fits the site's column, is whole and legible, small, and the same every time."""
    png = draw()._repr_png_()
    assert png == draw()._repr_png_()
    assert len(png) < 150_000
    with Image.open(io.BytesIO(png)) as image:
        assert image.size[0] <= plots.style.WIDTH * plots.style.DPI + 1
        pixels = np.asarray(image.convert("RGB"))
    edge = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((side == 255).all() for side in edge), "something is cut off"
    sizes = [t.get_fontsize() for t in draw().findobj(matplotlib.text.Text) if t.get_text()]
    assert min(sizes, default=9) >= 9


def marked_lines(panel: Axes) -> dict[tuple, list[float]]:
    """Look → heights, of the lines that have a marker."""
    return {
        (x.get_color(), x.get_marker(), x.get_linestyle()): list(x.get_ydata())
        for x in panel.get_lines()
        if x.get_marker() != "None"
    }
