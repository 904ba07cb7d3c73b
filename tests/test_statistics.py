"""Intervals and comparisons: against SciPy's tests, by hand, and by how often they are right."""

import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats

from cmssf_lib.evaluate import compare, holm, share_interval, verdicts
from cmssf_lib.evaluate.statistics import Comparison


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seeds", [(3, 3), (2, 5)])
def test_trainings_alone_are_compared_by_welchs_test(seeds):
    one, other = draw(seeds[0], 1), draw(seeds[1], 1, seed=1) + 0.5
    got = compare(one, other)
    asked = stats.ttest_ind(one[:, 0].double(), other[:, 0].double(), equal_var=False)
    assert got.p == pytest.approx(asked.pvalue)
    low, high = asked.confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((low, high))


def test_pictures_alone_are_compared_in_pairs():
    one, other = draw(1, 40), draw(1, 40, seed=1)
    got = compare(one, other)
    asked = stats.ttest_rel(one[0].double(), other[0].double())
    assert got.p == pytest.approx(asked.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(asked.confidence_interval(0.95)))


def test_copies_of_a_picture_count_once():
    one, other = draw(1, 20), draw(1, 20, seed=1)
    twice = [scores.repeat_interleave(3, dim=1) for scores in (one, other)]
    clusters = torch.arange(20).repeat_interleave(3) * 7 + 100  # any numbers
    assert compare(*twice, clusters) == pytest.approx(compare(one, other))
    assert compare(*twice).p < compare(one, other).p


def test_pictures_that_share_any_of_two_numbers_belong_together():
    one, other = draw(1, 30), draw(1, 30, seed=1)
    numbers = torch.randint(8, (30, 2), generator=torch.Generator().manual_seed(2))
    apart = (one - other)[0].double()
    off, total = (apart - apart.mean()).tolist(), 0.0
    for i, a in enumerate(numbers.tolist()):
        for j, b in enumerate(numbers.tolist()):
            total += off[i] * off[j] if {*a} & {*b} else 0
    deviation = (total / 30**2 * 8 / 7) ** 0.5
    got = compare(one, other, numbers)
    assert got.high - got.difference == pytest.approx(stats.t.ppf(0.975, 7) * deviation)
    flat = numbers[:, 0]
    assert compare(one, other, flat[:, None].expand(-1, 2)) == compare(one, other, flat)


def test_two_digits_a_scene_widen_the_interval_as_they_should():
    """Each digit is hard or easy: the interval holds the truth in about 95 %, or 70 without."""
    random, hits, naive = torch.Generator().manual_seed(0), 0, 0
    for _ in range(200):
        hardness = torch.randn(60, generator=random)
        shown = torch.randint(60, (300, 2), generator=random)
        apart = hardness[shown].sum(dim=1) + torch.randn(300, generator=random)
        for clusters in (shown, None):
            got = compare(apart[None], torch.zeros(1, 300), clusters)
            held = got.low < 0 < got.high
            hits, naive = (
                hits + (held and clusters is not None),
                naive + (held and clusters is None),
            )
    assert 0.88 < hits / 200 < 0.99
    assert naive / 200 < 0.75


def test_all_three_variances_by_hand():
    one = torch.tensor([[1.0, 0, 1, 1], [1, 0, 0, 1]])
    other = torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    by_one = 0.25**2 / 2 / 2  # means 0.75 and 0.5: variance 0.03125, of two
    by_other = (2 * (0.25 - 1 / 6) ** 2 + (1 / 6) ** 2) / 2 / 3
    apart = torch.tensor([1, -1 / 3, 0.5 - 1 / 3, 1])
    by_pictures = float(apart.var()) / 4
    variance = by_one + by_other + by_pictures
    freedom = variance**2 / (by_one**2 / 1 + by_other**2 / 2 + by_pictures**2 / 3)
    got = compare(one, other)
    assert got.difference == pytest.approx(float(apart.mean()))
    half = stats.t.ppf(0.975, freedom) * variance**0.5
    assert got.high - got.difference == pytest.approx(half)
    assert got.p == pytest.approx(2 * stats.t.sf(got.difference / variance**0.5, freedom))


@pytest.mark.parametrize(("seeds", "n", "of_seed"), [(3, 200, 0.05), (5, 50, 0.0), (3, 400, 0.3)])
def test_the_interval_holds_the_truth_in_95_percent(seeds, n, of_seed):
    """Trainings differ by ``of_seed``, pictures by 1, and each training errs on its own."""
    random, held, times = torch.Generator().manual_seed(1), 0, 1_000

    def normal(*shape):
        return torch.randn(shape, generator=random)

    for _ in range(times):
        easy = normal(1, n)  # pictures are easy for both methods ...
        one, other = (
            easy + normal(1, n) / 2 + of_seed * normal(seeds, 1) + normal(seeds, n) / 2
            for _ in range(2)
        )  # ... or for one of them
        got = compare(one + 0.1, other)
        held += got.low < 0.1 < got.high
    assert 0.935 < held / times < 0.995  # with three seeds it is a little too careful


def test_what_does_not_vary():
    ones = torch.ones(2, 3)
    assert compare(ones, ones) == Comparison(0, 0, 0, 1)
    assert compare(ones, 0 * ones) == Comparison(1, 1, 1, 0)
    with pytest.raises(ValueError, match="cannot vary"):
        compare(ones[:1, :1], ones[:1, :1])
    with pytest.raises(ValueError, match="cannot vary"):
        compare(ones[:1], ones[:1], torch.zeros(3).long())


@pytest.mark.parametrize(
    ("low", "high", "p", "margin", "said"),
    [
        (0.1, 0.3, 0.001, 0, "higher"),
        (-0.3, -0.1, 0.001, 0, "lower"),
        (-0.1, 0.2, 0.5, 0, "open"),
        (-0.1, 0.2, 0.5, 0.15, "open"),
        (-0.1, 0.2, 0.5, 0.25, "equal"),
        (-0.2, 0.1, 0.5, 0.15, "open"),
        (0.1, 0.2, 0.001, 0.25, "higher"),  # small, but a difference
    ],
)
def test_what_a_comparison_says(low, high, p, margin, said):
    assert verdicts({"it": Comparison((low + high) / 2, low, high, p)}, margin) == {"it": said}


def test_a_verdict_answers_for_the_whole_family():
    one = Comparison(0.2, 0.01, 0.39, 0.04)
    assert verdicts({"alone": one}) == {"alone": "higher"}
    assert verdicts({"first": one, "second": Comparison(0, -1, 1, 0.9)})["first"] == "open"
    sure = Comparison(-0.2, -0.3, -0.1, 1e-4)
    assert verdicts({"first": one, "second": sure}) == {"first": "higher", "second": "lower"}
    assert verdicts({}) == {}


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_lies_between_no_correction_and_bonferronis(p):
    raised = holm(p)
    for before, after in zip(p, raised, strict=True):
        assert before <= after <= min(1, len(p) * before) + 1e-12
    assert sorted(range(len(p)), key=lambda i: (p[i], i)) == sorted(
        range(len(p)), key=lambda i: (raised[i], p[i], i)
    )


def test_holm_errs_in_five_percent_of_all_families():
    p = torch.rand(4_000, 8, generator=torch.Generator().manual_seed(0))
    wrong = sum(min(holm(row)) < 0.05 for row in p.tolist()) / 4_000
    assert wrong == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (10, 10), (9_026, 10_000)])
def test_a_shares_interval_is_scipys(right, n):
    low, high = share_interval(torch.arange(n) < right)
    asked = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((asked.low, asked.high), abs=1e-12)
