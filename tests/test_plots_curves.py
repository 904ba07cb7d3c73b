"""Trainings side by side: that the figure draws what the histories hold."""

import matplotlib
import pytest
from drawn import assert_page, marked_lines

from cmssf_lib import plots
from cmssf_lib.runs import Run

COLUMNS = {"loss": "loss", "kl": "divergence", "feature_std": "spread"}


def made(losses, kl=None) -> Run:
    run = Run()
    for epoch, loss in enumerate(losses, start=1):
        row = {"epoch": float(epoch), "loss": loss, "feature_std": loss / 4}
        run.history.append(row if kl is None else row | {"kl": kl})
    return run


GROUPS = {
    "with a centre": [made([4.0, 3.0, 2.0], kl=0.5), made([5.0, 3.5, 2.5], kl=0.7)],
    "without": [made([4.5, 4.6, 4.7])],
}


def figure(**options) -> plots.Picture:
    return plots.run_curves(GROUPS, COLUMNS, lines={"chance": 4.9}, **options)


def test_a_line_is_the_mean_over_seeds_and_its_band_reaches_from_lowest_to_highest():
    panel = figure().axes[0]
    two, one = marked_lines(panel).values()
    assert two == [4.5, 3.25, 2.25]
    assert one == [4.5, 4.6, 4.7]
    corners = panel.collections[0].get_paths()[0].vertices
    for epoch, low, high in ((1, 4, 5), (2, 3, 3.5), (3, 2, 2.5)):
        heights = corners[corners[:, 0] == epoch, 1]
        assert (min(heights), max(heights)) == (low, high)


def test_a_group_looks_the_same_everywhere_and_is_missing_where_it_logs_nothing():
    first, second, third, unused = figure().axes
    two, one = marked_lines(first)
    assert list(marked_lines(second)) == [two]
    assert list(marked_lines(third)) == [two, one]
    assert all(a != b for a, b in zip(two, one, strict=True))  # colour, marker and style
    assert not unused.axison


def test_axes_legend_and_lines_are_named():
    drawn = figure()
    written = [t.get_text() for t in drawn.findobj(matplotlib.text.Text)]
    for text in ("loss", "divergence", "spread", "epoch", "with a centre", "without", "chance"):
        assert text in written
    dotted = [[4.9, 4.9] in [list(x.get_ydata()) for x in p.get_lines()] for p in drawn.axes]
    assert dotted == [True, False, False, False]  # another column has another scale


def test_a_run_that_is_not_done_ends_its_group():
    groups = {"both": [made([4.0, 3.0, 2.0]), made([5.0, 3.0])]}
    (panel,) = plots.run_curves(groups, {"loss": "loss"}).axes
    assert list(marked_lines(panel).values()) == [[4.5, 3.0]]


def test_long_histories_carry_few_markers():
    (panel,) = plots.run_curves({"long": [made([1.0] * 60)]}, {"loss": "loss"}).axes
    assert panel.get_lines()[0].get_markevery() == 6


@pytest.mark.parametrize(
    ("groups", "columns", "message"),
    [
        ({}, COLUMNS, "expected groups and columns; got 0 and 3"),
        (GROUPS, {}, "got 2 and 0"),
        ({"none": []}, COLUMNS, "'none' has no run"),
        ({"new": [Run()]}, COLUMNS, "in memory has no history"),
        ({"without": GROUPS["without"]}, COLUMNS, "no run has a column 'kl'; there are epoch"),
    ],
)
def test_curves_that_cannot_be_drawn_say_why(groups, columns, message):
    with pytest.raises(ValueError, match=message):
        plots.run_curves(groups, columns)


def test_the_figure_fits_the_column_is_whole_and_repeatable():
    assert_page(figure)
