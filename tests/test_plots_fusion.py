"""Figures that compare models over seeds: that they draw what they were given."""

import matplotlib
import numpy as np
import pytest
from drawn import assert_page, marked_lines

from cmssf_lib import plots

STRENGTHS = (0.0, 20.0, 40.0)
EARLY = [[0.9, 0.6, 0.3], [0.96, 0.7, 0.35], [0.93, 0.65, 0.31]]
LATE = [[0.8, 0.75, 0.7], [0.82, 0.74, 0.72], [0.81, 0.7, 0.71]]


def robustness(**options) -> plots.Picture:
    curves = {
        "without the picture (%)": {"early": (STRENGTHS, EARLY), "late": (STRENGTHS, LATE)},
        "delay (ms)": {"late": (STRENGTHS, LATE)},
        "noise": {"late": (STRENGTHS, LATE), "early": (STRENGTHS, EARLY)},
    }
    return plots.robustness_curves(curves, lines={"chance": 0.1}, **options)


def points() -> plots.Picture:
    groups = {
        "output level": {"mean": [0.9, 0.92, 0.95], "stacked": [0.5, 0.6, 0.7]},
        "data level": {"tokens": [0.8, 0.82, 0.84]},
    }
    return plots.accuracy_points(groups, lines={"ceiling": 0.5}, left=0.25)


def texts(figure) -> list[str]:
    found = figure.findobj(matplotlib.text.Text)
    return [t.get_text() for t in found if t.get_visible() and t.get_text()]


def test_a_line_is_the_mean_and_its_band_reaches_from_worst_to_best():
    panel = robustness().axes[0]
    early, late = marked_lines(panel).values()
    assert np.allclose(early, np.mean(EARLY, axis=0))
    assert np.allclose(late, np.mean(LATE, axis=0))
    for band, rows in zip(panel.collections, (EARLY, LATE), strict=True):
        corners = band.get_paths()[0].vertices
        for i, strength in enumerate(STRENGTHS):
            heights = corners[corners[:, 0] == strength, 1]
            assert {min(heights), max(heights)} == {
                min(r[i] for r in rows),
                max(r[i] for r in rows),
            }


def test_a_model_looks_the_same_in_every_panel_and_no_two_alike():
    first, second, third, unused = robustness().axes
    early, late = marked_lines(first)
    assert list(marked_lines(second)) == [late]
    assert list(marked_lines(third)) == [late, early]
    assert all(a != b for a, b in zip(early, late, strict=True))  # colour, marker and style
    assert not unused.axison


def test_seven_models_have_seven_looks():
    models = {f"model {i}": (STRENGTHS, EARLY) for i in range(7)}
    panel = plots.robustness_curves({"noise": models}).axes[0]
    assert len(marked_lines(panel)) == 7


def test_axes_legend_and_lines_are_named():
    figure = robustness(bottom=0.2)
    written = texts(figure)
    for text in ("without the picture (%)", "delay (ms)", "early", "late", "chance"):
        assert text in written
    for panel in figure.axes[:3]:
        assert [0.1, 0.1] in [list(x.get_ydata()) for x in panel.get_lines()]
    assert figure.axes[0].get_ylim()[0] == 0.2
    assert [p.get_ylim() for p in figure.axes[:3]] == [figure.axes[0].get_ylim()] * 3


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "got 0 in 2 columns"),
        ({"noise": {}}, "got 0 in 2 columns"),
        ({"noise": {"late": (STRENGTHS, [[0.5, 0.4]])}}, "'late' over 'noise': 3 strengths"),
        ({"noise": {"late": (STRENGTHS, [])}}, "rows of no values"),
    ],
)
def test_curves_that_cannot_be_drawn_say_why(curves, message):
    with pytest.raises(ValueError, match=message):
        plots.robustness_curves(curves)


def test_each_seed_is_a_point_and_the_mean_is_written():
    figure = points()
    (axes,) = figure.axes
    drawn = [sorted(x.get_offsets()[:, 0].tolist()) for x in axes.collections]
    assert drawn == [[0.9, 0.92, 0.95], [0.5, 0.6, 0.7], [0.8, 0.82, 0.84]]
    assert [x.get_offsets()[0, 1] for x in axes.collections] == [0, 1, 2]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first stands on top
    assert [t.get_text() for t in axes.get_yticklabels()] == ["mean", "stacked", "tokens"]
    written = texts(figure)
    for text in ("92.3 %", "60.0 %", "82.0 %", "ceiling"):
        assert text in written
    assert written.count("output level") == written.count("data level") == 1
    assert [0.5, 0.5] in [list(x.get_xdata()) for x in axes.get_lines()]
    colours = [x.get_facecolor()[0].tolist() for x in axes.collections]
    assert colours[0] == colours[1] != colours[2]


def test_points_that_cannot_be_drawn_say_why():
    with pytest.raises(ValueError, match="got none"):
        plots.accuracy_points({"late": {}})
    with pytest.raises(ValueError, match="'mean' has no accuracy"):
        plots.accuracy_points({"late": {"mean": []}})


@pytest.mark.parametrize("figure", [robustness, points])
def test_figures_fit_the_column_are_whole_and_repeatable(figure):
    assert_page(figure)
