"""Draw differences with their intervals: a forest plot."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from cmssf_lib.evaluate import Comparison, verdicts
from cmssf_lib.plots import style

#: A colour and a marker for each verdict.
LOOKS = {
    "higher": style.Look(style.COLOURS["blue"], "o", "-"),
    "lower": style.Look(style.COLOURS["vermilion"], "s", "-"),
    "equal": style.Look(style.COLOURS["green"], "D", "-"),
    "open": style.Look(style.PALE, "X", "-"),
}


@style.styled
def forest(
    comparisons: Mapping[str, Comparison],
    *,
    margin: float = 0.0,
    said: Mapping[str, str] | None = None,
    xlabel: str = "difference",
) -> Figure:
    """Draw each difference as a point with its 95 % interval, and write the verdict beside it.

    Args:
        comparisons: What is compared, such as "SimCLR − MoCo" → the difference of two shares.
        margin: Drawn as a band around 0, within which two are called equal.
        said: The `verdicts`, where more was compared than is drawn.
        xlabel: What differs; the axis counts percentage points.

    Raises:
        ValueError: If there is no comparison.
    """
    style.require_some(comparisons, "expected comparisons to draw; got none")
    said = said or verdicts(comparisons, margin)
    figure, ((axes,),) = style.panels(height=0.32 * len(comparisons) + 1.3)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    if margin:
        axes.axvspan(-100 * margin, 100 * margin, color=style.PALE, alpha=0.15, lw=0)
    for y, (name, c) in enumerate(comparisons.items()):
        look = LOOKS[said[name]]
        axes.plot([100 * c.low, 100 * c.high], [y, y], color=look.colour, linewidth=1.6)
        style.dots(axes, 100 * c.difference, y, look, 40, label=said[name])
        text = f"{100 * c.difference:+.1f}  {said[name]}".replace("-", "\N{MINUS SIGN}")
        right = axes.get_yaxis_transform()
        style.centred(axes, 1.01, y, text, ha="left", transform=right)
    axes.set_yticks(range(len(comparisons)), list(comparisons))
    axes.set(ylim=(len(comparisons) - 0.4, -0.6), xlabel=f"{xlabel} (percentage points)")
    axes.grid(axis="y", visible=False)
    return figure
