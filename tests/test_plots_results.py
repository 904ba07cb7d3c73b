"""Figures of finished runs: that they draw what they were given."""

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


def written(figure) -> list[str]:
    found = figure.findobj(matplotlib.text.Text)
    return [t.get_text() for t in found if t.get_visible() and t.get_text()]


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
        ({"a": (PLACES, [[0.1]])}, "'a': 3 places and rows of"),
        ({"a": (PLACES, [])}, "rows of no values"),
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
        [[0.9, 0], [0.91, 0]], [[0.92, 0]], [[0.897, 0]],
        [[0.7, 1], [0.72, 1]], [[0.823, 1]],
    ]  # fmt: skip
    faces = [len(x.get_facecolor()) for x in axes.collections]
    assert faces == [1, 1, 0, 1, 0]
    for text in ("CMSSF", "SimCLR", "all labels", "zero-shot"):
        assert text in written(claims())
    assert written(claims()).count("claimed by the source chapter") == 1
    linear = [axes.collections[i].get_facecolor()[0].tolist() for i in (1, 3)]
    assert linear[0] == linear[1]


def test_claims_that_cannot_be_drawn_say_why():
    with pytest.raises(ValueError, match="got none"):
        plots.claimed_and_measured({}, {})
    with pytest.raises(ValueError, match="'SimCLR', 'linear': no accuracy"):
        plots.claimed_and_measured({"SimCLR": {"linear": []}}, {})


@pytest.mark.parametrize("figure", [matrix, over, claims])
def test_figures_fit_the_column_are_whole_and_repeatable(figure):
    assert_page(figure)
