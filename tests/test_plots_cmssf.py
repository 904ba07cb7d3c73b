"""The drawing of CMSSF: that it shows the sizes it is given, and what is frozen."""

import pytest
from drawn import assert_page

from cmssf_lib.plots.cmssf import cmssf_diagram

IMAGE = ("16×16\npixels", "[CLS]\n64", "256")
TEXT = ("14\ntokens", "[CLS]\n64 ", "256 ")


def written(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_both_rows_carry_their_labels_in_order():
    figure = cmssf_diagram(IMAGE, TEXT)
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    for labels in (IMAGE, TEXT):
        across = [places[label][0] for label in labels]
        assert across == sorted(across)
        assert len({places[label][1] for label in labels}) == 1
    assert all(places[a][1] > places[b][1] for a, b in zip(IMAGE, TEXT, strict=True))


def test_each_part_is_there_once_a_row():
    found = written(cmssf_diagram(IMAGE, TEXT))
    assert found.count("projection\nhead") == 2
    for part in ("picture", "caption", "vision\ntransformer", "text\ntransformer", "loss"):
        assert found.count(part) == 1
    assert "frozen" not in found


def test_only_a_frozen_encoder_is_dashed_and_says_so():
    def dashed(figure) -> list[bool]:
        return [patch.get_linestyle() == "--" for patch in figure.axes[0].patches]

    assert not any(dashed(cmssf_diagram(IMAGE, TEXT)))
    frozen = cmssf_diagram(IMAGE, TEXT, frozen=True)
    assert sum(dashed(frozen)) == 1
    assert written(frozen).count("frozen") == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_the_drawing_fits_the_column_and_nothing_is_cut_off(frozen):
    assert_page(lambda: cmssf_diagram(IMAGE, TEXT, frozen=frozen))


def test_a_row_needs_three_labels():
    with pytest.raises(ValueError, match="image has 2 labels"):
        cmssf_diagram(IMAGE[:2], TEXT)
    with pytest.raises(ValueError, match="text has 4 labels"):
        cmssf_diagram(IMAGE, (*TEXT, "more"))
