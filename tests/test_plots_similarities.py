"""Figures of image–text contrast: that they draw what they were given, and mark what is equal."""

import math

import numpy as np
import pytest
import torch
from drawn import assert_page
from matplotlib.colors import to_rgb
from matplotlib.offsetbox import AnnotationBbox

from cmssf_lib import data, plots

CAPTIONS = ["a seven", "a two", "a seven"]
SHARES = torch.tensor([[0.5, 0.1, 0.4], [0.0, 0.95, 0.05], [0.25, 0.25, 0.5]])
IMAGES = data.digit_scenes("colour", train=10, test=4).test.images[:3]
FLOORS = {
    "ten captions": {32: 1.317, 128: 2.585},
    "many captions": {32: 0.06, 128: 0.25, 512: 0.8},
}
POINTS = {"ten captions": {32: [1.4, 1.5], 128: [2.6]}, "masked": {128: [0.1, 0.2, 0.3]}}


def numbers(panel) -> list[str]:
    return [text.get_text() for text in panel.texts]


def frames(panel) -> dict[tuple[int, int], str]:
    """Which cell has a frame, and of which style."""
    return {
        (round(p.get_y() + 0.46), round(p.get_x() + 0.46)): p.get_linestyle() for p in panel.patches
    }


def test_each_cell_holds_its_number_and_the_panels_share_their_colours():
    figure = plots.pair_matrices({"rows": SHARES, "columns": SHARES.T}, CAPTIONS)
    for panel, values in zip(figure.axes, (SHARES, SHARES.T), strict=True):
        assert numbers(panel) == [f"{value:.2f}" for value in values.flatten().tolist()]
        assert np.allclose(panel.images[0].get_array(), values)
        assert panel.images[0].get_clim() == (0, 1)
    assert [panel.get_title() for panel in figure.axes] == ["rows", "columns"]
    # Dark cells have light figures.
    assert figure.axes[0].texts[4].get_color() == "white"
    assert figure.axes[0].texts[3].get_color() != "white"


def test_own_captions_and_equal_ones_are_framed_in_two_ways():
    panel = plots.pair_matrices({"": SHARES}, CAPTIONS).axes[0]
    assert frames(panel) == {
        (0, 0): "-",
        (1, 1): "-",
        (2, 2): "-",
        (0, 2): "--",
        (2, 0): "--",
    }
    assert [t.get_text() for t in panel.get_xticklabels()] == CAPTIONS
    assert [t.get_text() for t in panel.get_yticklabels()] == ["1", "2", "3"]


def test_pictures_stand_beside_the_rows_of_the_first_panel():
    figure = plots.pair_matrices({"a": SHARES, "b": SHARES}, CAPTIONS, images=IMAGES)
    first, second = (
        [a for a in panel.artists if isinstance(a, AnnotationBbox)] for panel in figure.axes
    )
    assert [box.xy[1] for box in first] == [0, 1, 2]
    for box, image in zip(first, IMAGES, strict=True):
        assert np.array_equal(box.offsetbox.get_data(), image.permute(1, 2, 0).numpy())
    assert second == []
    assert not any(t.get_text() for panel in figure.axes for t in panel.get_yticklabels())


@pytest.mark.parametrize(
    ("matrices", "captions", "images", "message"),
    [
        ({}, CAPTIONS, None, "got 0 of 3"),
        ({"a": SHARES}, [], None, "got 1 of 0"),
        ({"a": torch.zeros(9, 9)}, ["x"] * 9, None, "1 to 8 pairs; got 1 of 9"),
        ({"a": SHARES[:2]}, CAPTIONS, None, r"'a' is \(2, 3\), but there are 3 captions"),
        ({"a": SHARES}, CAPTIONS, IMAGES[:2], "2 pictures for 3 rows"),
    ],
)
def test_pairs_that_cannot_be_drawn_say_why(matrices, captions, images, message):
    with pytest.raises(ValueError, match=message):
        plots.pair_matrices(matrices, captions, images=images)


def test_losses_stand_between_guessing_and_their_floors():
    panel = plots.losses_by_batch(FLOORS, POINTS, lines={"reported": 0.15}).axes[0]
    guessing, ten, many, reported = panel.get_lines()
    assert np.allclose(guessing.get_ydata(), [math.log(b) for b in (32, 128, 512)])
    assert list(ten.get_xdata()) == [32, 128]
    assert list(many.get_ydata()) == [0.06, 0.25, 0.8]
    assert list(reported.get_ydata()) == [0.15, 0.15]
    first, second = panel.collections
    assert np.allclose(first.get_offsets(), [[32, 1.4], [32, 1.5], [128, 2.6]])
    assert np.allclose(second.get_offsets(), [[128, 0.1], [128, 0.2], [128, 0.3]])
    assert [t.get_text() for t in panel.get_xticklabels()] == ["32", "128", "512"]


def test_points_look_like_their_floor_and_unlike_other_points():
    panel = plots.losses_by_batch(FLOORS, POINTS).axes[0]
    _, ten, many = panel.get_lines()
    first, second = panel.collections
    colours = [tuple(c.get_facecolor()[0][:3]) for c in (first, second)]
    assert colours[0] == pytest.approx(to_rgb(ten.get_color()))
    assert colours[0] != pytest.approx(to_rgb(many.get_color()))
    shapes = [c.get_paths()[0].vertices.tobytes() for c in (first, second)]
    assert colours[0] != colours[1]
    assert shapes[0] != shapes[1]  # no series is known by its colour alone
    assert len({line.get_linestyle() for line in (ten, many)}) == 2


def test_floors_alone_can_be_drawn_and_points_alone():
    assert len(plots.losses_by_batch(FLOORS).axes[0].get_lines()) == 3
    assert len(plots.losses_by_batch({}, POINTS).axes[0].get_lines()) == 1


@pytest.mark.parametrize(
    ("floors", "points", "message"),
    [
        ({}, {}, "got none"),
        ({"a": {}}, {}, "got none"),
        (FLOORS, {"ten captions": {32: []}}, "'ten captions' has no loss for batches of 32"),
    ],
)
def test_losses_that_cannot_be_drawn_say_why(floors, points, message):
    with pytest.raises(ValueError, match=message):
        plots.losses_by_batch(floors, points)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.pair_matrices({"a": SHARES, "b": SHARES}, CAPTIONS, images=IMAGES),
        lambda: plots.losses_by_batch(FLOORS, POINTS, lines={"reported": 0.15}),
    ],
    ids=["pictures", "losses"],
)
def test_the_figure_fits_the_column_is_whole_and_repeatable(draw):
    assert_page(draw)
