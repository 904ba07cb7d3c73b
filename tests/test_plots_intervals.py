"""The forest plot: that it draws what it was given, and the verdicts of the family."""

import pytest
from drawn import assert_page

from cmssf_lib import plots
from cmssf_lib.evaluate import Comparison, verdicts

FAMILY = {
    "SimCLR less MoCo": Comparison(0.052, 0.03, 0.074, 1e-4),
    "batch 512 less batch 32": Comparison(-0.12, -0.2, -0.04, 0.002),
    "with a queue less without": Comparison(0.004, -0.008, 0.012, 0.5),
    "two layers less one": Comparison(0.02, -0.03, 0.07, 0.4),
}


def test_each_row_has_its_interval_its_number_and_its_verdict():
    (axes,) = plots.forest(FAMILY, margin=0.02).axes
    intervals = [line.get_xdata() for line in axes.lines if len(set(line.get_xdata())) == 2]
    expected = [(100 * c.low, 100 * c.high) for c in FAMILY.values()]
    assert [tuple(x) for x in intervals] == [pytest.approx(e) for e in expected]
    points = [float(dots.get_offsets()[0][0]) for dots in axes.collections]
    assert points == pytest.approx([100 * c.difference for c in FAMILY.values()])
    said = verdicts(FAMILY, 0.02)
    assert list(said.values()) == ["higher", "lower", "equal", "open"]
    written = [text.get_text() for text in axes.texts]
    assert written == ["+5.2  higher", "\N{MINUS SIGN}12.0  lower", "+0.4  equal", "+2.0  open"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(FAMILY)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_verdicts_differ_by_more_than_colour():
    (axes,) = plots.forest(FAMILY, margin=0.02).axes
    shapes = {tuple(map(tuple, dots.get_paths()[0].vertices.round(3))) for dots in axes.collections}
    assert len(shapes) == 4


def test_it_fits_on_the_page():
    assert_page(lambda: plots.forest(FAMILY, margin=0.02, xlabel="linear classifier"))


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="expected comparisons"):
        plots.forest({})
