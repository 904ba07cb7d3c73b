"""Where [CLS] looks, over pictures: that each map lies under its own picture."""

import numpy as np
import pytest
import torch
from drawn import assert_page

from cmssf_lib import data, plots

PICTURES = data.digit_scenes("plain", train=10, test=4).test.images[:3]
CORNER = torch.zeros(3, 16)
CORNER[0, 0] = CORNER[1, 5] = CORNER[2, 15] = 0.5
MAPS = {"trained, head 1": CORNER, "untrained": torch.full((3, 16), 1 / 16)}


def figure() -> plots.Picture:
    return plots.cls_attention_grid(PICTURES, MAPS)


def test_the_pictures_stand_on_top_and_each_map_below_its_own():
    drawn = figure()
    panels = np.array(drawn.axes).reshape(3, 3)
    for panel, picture in zip(panels[0], PICTURES, strict=True):
        assert np.array_equal(panel.images[0].get_array(), picture.permute(1, 2, 0).numpy())
    for panel, (y, x) in zip(panels[1], ((0, 0), (4, 4), (12, 12)), strict=True):
        seen = panel.images[0].get_array()
        assert seen.argmax() == 16 * y + x
        assert seen.max() == panel.images[0].get_clim()[1] == 0.5
        assert panel.collections  # the ink's outline
    labels = [panel.get_ylabel().replace("\n", " ") for panel in panels[:, 0]]
    assert labels == ["picture", *MAPS]


def test_an_empty_picture_has_no_outline():
    drawn = plots.cls_attention_grid(torch.zeros_like(PICTURES), MAPS)
    assert not any(panel.collections for panel in drawn.axes)


@pytest.mark.parametrize(
    ("images", "maps", "message"),
    [
        (PICTURES, {}, "got 3 and 0"),
        (PICTURES[:0], MAPS, "got 0 and 2"),
        (PICTURES, {"two": CORNER[:2]}, "'two' has 2 maps for 3 pictures"),
        (PICTURES, {"nine": torch.rand(3, 9)}, "has 16 patches; got weights of 9"),
    ],
)
def test_maps_that_cannot_be_drawn_say_why(images, maps, message):
    with pytest.raises(ValueError, match=message):
        plots.cls_attention_grid(images, maps)


def test_the_figure_fits_the_column_is_whole_and_repeatable():
    assert_page(figure)
