"""Figures that compare finished models: that they draw what they were given."""

import matplotlib
import numpy as np
import pytest
import torch
from drawn import assert_page, marked_lines

from cmssf_lib import plots

NAMES = ["aeroplane", "automobile", "bird"]
COUNTS = torch.tensor([[900, 99, 1], [250, 500, 250], [0, 10, 30]])
PLACES = (0.01, 0.1, 1.0)
SIMCLR = [[0.4, 0.6, 0.7], [0.42, 0.64, 0.72]]
STRENGTHS = (0.0, 20.0, 40.0)
EARLY = [[0.9, 0.6, 0.3], [0.96, 0.7, 0.35], [0.93, 0.65, 0.31]]
LATE = [[0.8, 0.75, 0.7], [0.82, 0.74, 0.72], [0.81, 0.7, 0.71]]
SWEEPS = {
    "temperature": {"0.1": [0.7, 0.8, 0.9], "0.2": [0.8, 0.82, 0.9], "1": [0.5, 0.4, 0.6]},
    "batch": {"32": [0.6, 0.65], "256": [0.8, 0.82]},
    "queue": {"128": [0.6]},
}


def matrix() -> plots.Picture:
    return plots.confusion_matrix(COUNTS, NAMES)


def over(**options) -> plots.Picture:
    curves = {"SimCLR": (PLACES, SIMCLR), "pixels": (PLACES, [[0.2, 0.3, 0.35]])}
    published = {"SimCLR, 200 epochs": (0.9, 0.91)}
    return plots.accuracy_over(
        curves, "labels", published=published, lines={"chance": 0.1}, **options
    )


def claims() -> plots.Picture:
    measured = {
        "CMSSF": {"zero-shot": [0.9, 0.91], "linear": [0.92]},
        "SimCLR": {"linear": [0.7, 0.72]},
    }
    return plots.claimed_and_measured(
        measured, {"CMSSF": 0.897, "SimCLR": 0.823}, beside={"CMSSF": "all labels"}
    )


def robustness() -> plots.Picture:
    curves = {
        "without the picture (%)": {"early": (STRENGTHS, EARLY), "late": (STRENGTHS, LATE)},
        "delay (ms)": {"late": (STRENGTHS, LATE)},
        "noise": {"late": (STRENGTHS, LATE), "early": (STRENGTHS, EARLY)},
    }
    return plots.robustness_curves(curves, lines={"chance": 0.1})


def points() -> plots.Picture:
    groups = {
        "output level": {"mean": [0.9, 0.92, 0.95], "stacked": [0.5, 0.6, 0.7]},
        "data level": {"tokens": [0.8, 0.82, 0.84]},
    }
    return plots.accuracy_points(groups, lines={"ceiling": 0.5}, left=0.25)


def written(figure) -> list[str]:
    found = figure.findobj(matplotlib.text.Text)
    return [t.get_text() for t in found if t.get_visible() and t.get_text()]


def offsets(panel) -> np.ndarray:
    return np.concatenate([np.asarray(found.get_offsets()) for found in panel.collections])


# --- accuracy over compute or labels, claims, confusion ---


def test_a_cell_is_a_per_cent_of_its_row_and_small_ones_are_empty():
    (axes,) = matrix().axes
    cells = {tuple(map(int, t.get_position())): t.get_text() for t in axes.texts}
    assert cells == {
        (0, 0): "90", (1, 0): "10",
        (0, 1): "25", (1, 1): "50", (2, 1): "25",
        (1, 2): "25", (2, 2): "75",
    }  # fmt: skip
    assert [t.get_text() for t in axes.get_yticklabels()] == NAMES
    shades = axes.images[0].get_array()
    assert shades[0, 0] > shades[2, 2] > shades[1, 1] > shades[1, 0] > shades[2, 0] == 0


def test_the_axis_says_which_pictures_were_asked():
    assert "right on the test set" in written(over())
    held_out = written(over(ylabel="right on held-out pictures"))
    assert "right on held-out pictures" in held_out
    assert "right on the test set" not in held_out


def test_what_was_published_at_one_place_shares_a_label():
    points = {"low": (0.9, 0.5), "high": (0.9, 0.9), "elsewhere": (0.5, 0.7)}
    figure = plots.accuracy_over({"SimCLR": (PLACES, SIMCLR)}, "labels", published=points)
    assert {"high\nlow", "elsewhere"} <= set(written(figure))


@pytest.mark.parametrize(
    ("counts", "names", "message"),
    [
        (COUNTS, NAMES[:2], "2 classes need as many"),
        (torch.zeros(0, 0, dtype=torch.long), [], "0 classes need"),
        (torch.tensor([[1, 0], [0, 0]]), NAMES[:2], "no example of 'automobile'"),
    ],
)
def test_counts_that_cannot_be_drawn_say_why(counts, names, message):
    with pytest.raises(ValueError, match=message):
        plots.confusion_matrix(counts, names)


def test_a_line_is_the_mean_of_seeds_on_a_logarithmic_axis():
    (axes,) = over(bottom=0.05).axes
    simclr, pixels = marked_lines(axes).values()
    assert np.allclose(simclr, np.mean(SIMCLR, axis=0))
    assert np.allclose(pixels, [0.2, 0.3, 0.35])
    assert axes.get_xscale() == "log"
    assert axes.get_ylim() == (0.05, 1.0)
    corners = axes.collections[0].get_paths()[0].vertices
    assert {0.4, 0.42} <= set(corners[corners[:, 0] == 0.01, 1])
    diamond = axes.collections[-1].get_offsets()[0].tolist()
    assert diamond == [0.9, 0.91]
    assert [0.1, 0.1] in [list(x.get_ydata()) for x in axes.get_lines()]


def test_the_axis_says_what_it_is_told_to():
    figure = over(ticks={0.01: "1 %", 0.1: "10 %", 1.0: "all"})
    figure._repr_png_()
    for text in ("labels", "1 %", "10 %", "all", "SimCLR, 200 epochs", "chance", "SimCLR"):
        assert text in written(figure)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "got none"),
        (
            {"a": (PLACES, [[0.1]])},
            r"'a' over 'labels': expected rows of 3 values; got lengths \[1\]",
        ),
        ({"a": (PLACES, [])}, r"got lengths \[\]"),
        ({"a": ((0.0, 1.0), [[0.1, 0.2]])}, "0.0 is not positive"),
    ],
)
def test_curves_that_cannot_be_drawn_say_why(curves, message):
    with pytest.raises(ValueError, match=message):
        plots.accuracy_over(curves, "labels")


def test_claims_are_hollow_and_measurements_full():
    (axes,) = claims().axes
    drawn = [x.get_offsets().tolist() for x in axes.collections]
    assert drawn == [
        [[0.9, 0], [0.91, 0]], [[0.92, 0]], [[0.7, 1], [0.72, 1]],
        [[0.897, 0]], [[0.823, 1]],
    ]  # fmt: skip
    faces = [len(x.get_facecolor()) for x in axes.collections]
    assert faces == [1, 1, 1, 0, 0]
    for text in ("CMSSF", "SimCLR", "all labels", "zero-shot"):
        assert text in written(claims())
    assert written(claims()).count("claimed by the source chapter") == 1
    linear = [axes.collections[i].get_facecolor()[0].tolist() for i in (1, 2)]
    assert linear[0] == linear[1]


def test_claims_that_cannot_be_drawn_say_why():
    with pytest.raises(ValueError, match="got none"):
        plots.claimed_and_measured({}, {})
    with pytest.raises(ValueError, match=r"'SimCLR' \(linear\) has no accuracy"):
        plots.claimed_and_measured({"SimCLR": {"linear": []}}, {})


# --- damage, and models seed by seed ---


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


def test_axes_legend_and_lines_of_damage_are_named():
    figure = robustness()
    found = written(figure)
    for text in ("without the picture (%)", "delay (ms)", "early", "late", "chance"):
        assert text in found
    for panel in figure.axes[:3]:
        assert [0.1, 0.1] in [list(x.get_ydata()) for x in panel.get_lines()]
    assert figure.axes[0].get_ylim() == (0, 1.02)
    assert [p.get_ylim() for p in figure.axes[:3]] == [figure.axes[0].get_ylim()] * 3


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "got 0 in 2 columns"),
        ({"noise": {}}, "got 0 in 2 columns"),
        (
            {"noise": {"late": (STRENGTHS, [[0.5, 0.4]])}},
            r"'late' over 'noise': .* 3 values; got lengths \[2\]",
        ),
        ({"noise": {"late": (STRENGTHS, [])}}, r"got lengths \[\]"),
    ],
)
def test_damage_that_cannot_be_drawn_says_why(curves, message):
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
    found = written(figure)
    for text in ("92.3 %", "60.0 %", "82.0 %", "ceiling"):
        assert text in found
    assert found.count("output level") == found.count("data level") == 1
    assert [0.5, 0.5] in [list(x.get_xdata()) for x in axes.get_lines()]
    colours = [x.get_facecolor()[0].tolist() for x in axes.collections]
    assert colours[0] == colours[1] != colours[2]


def test_points_that_cannot_be_drawn_say_why():
    with pytest.raises(ValueError, match="got none"):
        plots.accuracy_points({"late": {}})
    with pytest.raises(ValueError, match=r"'mean' \(late\) has no accuracy"):
        plots.accuracy_points({"late": {"mean": []}})


# --- sweeps ---


def test_a_point_is_a_seed_and_the_line_joins_the_means():
    figure = plots.setting_sweeps(SWEEPS, lines={"pixels": 0.2})
    for panel, (setting, values) in zip(figure.axes, SWEEPS.items(), strict=False):
        assert panel.get_xlabel() == setting
        assert [t.get_text() for t in panel.get_xticklabels()] == list(values)
        expected = [(x, y) for x, found in enumerate(values.values()) for y in found]
        assert np.allclose(offsets(panel), expected)
        means = [np.mean(found) for found in values.values()]
        assert np.allclose(panel.get_lines()[0].get_ydata(), means)
        assert np.allclose(panel.get_lines()[1].get_ydata(), 0.2)
        assert panel.get_ylim() == (0, 1.02)
    assert not figure.axes[3].axison


def test_the_usual_value_is_framed():
    figure = plots.setting_sweeps(SWEEPS, usual={"temperature": "0.2", "queue": "128"})
    framed = [offsets(panel)[-1] for panel in figure.axes[:3]]
    counts = [len(offsets(panel)) for panel in figure.axes[:3]]
    assert counts == [10, 4, 2]
    with_frames = [panel.collections[-1] for panel in figure.axes[:1]]
    assert np.allclose(with_frames[0].get_offsets(), [[1, np.mean(SWEEPS["temperature"]["0.2"])]])
    assert np.allclose(framed[2], [0, 0.6])


@pytest.mark.parametrize(
    ("sweeps", "options", "message"),
    [
        ({}, {}, "got none"),
        ({"batch": {}}, {}, "without values"),
        ({"batch": {"32": []}}, {}, "batch 32 has no accuracy"),
        (SWEEPS, {"usual": {"batch": "64"}}, "no value 64; it has 32, 256"),
    ],
)
def test_sweeps_that_cannot_be_drawn_are_refused(sweeps, options, message):
    with pytest.raises(ValueError, match=message):
        plots.setting_sweeps(sweeps, **options)


@pytest.mark.parametrize("figure", [matrix, over, claims, robustness, points])
def test_figures_fit_the_column_are_whole_and_repeatable(figure):
    assert_page(figure)
