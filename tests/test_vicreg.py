"""VICReg: the loss against a slow loop and at its extremes, and what a step does."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, strategies as st
from settings import TrainConfig, VICRegConfig, VisionConfig

from cmssf_lib.data import digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.losses import vicreg_loss
from cmssf_lib.methods import VICReg
from cmssf_lib.train import diagnose, fit
from cmssf_lib.views import ViewsConfig

VISION = VisionConfig(image_size=16, width=32, depth=1, heads=2, norm="group")
VIEWS = ViewsConfig(area=(0.6, 1.5), turn=0.3, shift=0.1)
VICREG = VICRegConfig(hidden=24, dim=16, views=VIEWS)


def draw(seed: int, b: int, dim: int) -> list[torch.Tensor]:
    return list(torch.randn(2, b, dim, generator=torch.Generator().manual_seed(seed)))


def slow(a: list, b: list, invariance: float, variance: float, covariance: float) -> float:
    """The three terms number by number."""
    n, dim = len(a), len(a[0])
    apart = sum((x - y) ** 2 for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True))
    total = invariance * apart / (n * dim)
    for z in (a, b):
        mean = [sum(row[j] for row in z) / n for j in range(dim)]
        c = [
            [sum((r[i] - mean[i]) * (r[j] - mean[j]) for r in z) / (n - 1) for j in range(dim)]
            for i in range(dim)
        ]
        short = sum(max(0.0, 1 - math.sqrt(c[j][j] + 1e-4)) for j in range(dim)) / dim
        alike = sum(c[i][j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim
        total += variance * short / 2 + covariance * alike
    return total


@given(
    seed=st.integers(0, 2**31),
    b=st.integers(2, 6),
    dim=st.integers(1, 5),
    weights=st.tuples(*[st.floats(0, 30)] * 3),
)
def test_the_loss_is_its_three_sums(seed, b, dim, weights):
    x, y = (z.double() for z in draw(seed, b, dim))
    named = dict(zip(("invariance", "variance", "covariance"), weights, strict=True))
    expected = slow(x.tolist(), y.tolist(), *weights)
    assert float(vicreg_loss(x, y, **named)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_equal_embeddings_pay_for_the_spread_alone():
    same = torch.ones(8, 4)
    assert float(vicreg_loss(same, same)) == pytest.approx(25 * 0.99)


def test_spread_and_independent_dimensions_cost_nothing():
    """The corners of a square: each dimension has the variance 4/3, and no covariance."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert float(vicreg_loss(corners, corners)) == 0


def test_a_dimension_that_says_the_same_twice_is_charged():
    alone = torch.tensor([[1.0], [-1], [1], [-1]])
    twice = alone.expand(4, 2)
    assert float(vicreg_loss(alone, alone)) == 0
    # Covariance 4/3, in two places, squared, for each of two dimensions, in both views.
    assert float(vicreg_loss(twice, twice)) == pytest.approx(2 * (4 / 3) ** 2)


@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_the_order_of_pictures_and_the_place_of_the_cloud_do_not_matter(seed, scale):
    a, b = (z.double() for z in draw(seed, 6, 3))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    expected = float(vicreg_loss(a, b))
    assert float(vicreg_loss(a[order], b[order])) == pytest.approx(expected)
    assert float(vicreg_loss(b, a)) == pytest.approx(expected)
    assert float(vicreg_loss(a + scale, b + scale)) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_finite_even_where_nothing_varies():
    same = torch.ones(8, 4, requires_grad=True)
    vicreg_loss(same, same.detach()).backward()
    assert same.grad.isfinite().all()


def test_a_single_pair_is_refused():
    with pytest.raises(ValueError, match="at least two pairs"):
        vicreg_loss(torch.ones(1, 4), torch.ones(1, 4))


def new(seed: int = 0, **changes) -> VICReg:
    torch.manual_seed(seed)
    return VICReg(ImageEncoder(VISION), dataclasses.replace(VICREG, **changes))


@pytest.fixture(scope="module")
def scenes():
    return digit_scenes("plain", train=240, test=1).train


def test_a_step_is_the_loss_of_two_views(scenes):
    batch = make_batch(scenes, torch.arange(8))
    method = new(invariance=3.0, variance=2.0, covariance=0.5).train()
    torch.manual_seed(1)
    losses = method.loss(batch)
    torch.manual_seed(1)
    both = method.views(batch.images.repeat(2, 1, 1, 1))
    a, b = method.expander(method.image_encoder.encode(both)).chunk(2)
    expected = vicreg_loss(a, b, invariance=3.0, variance=2.0, covariance=0.5)
    torch.testing.assert_close(losses["loss"], expected)
    assert set(losses) == {
        "loss", "positive_similarity", "negative_similarity", "embeddings", "chance"
    }  # fmt: skip
    assert losses["embeddings"].shape == (8, 16)
    assert not losses["embeddings"].requires_grad
    assert float(losses["chance"]) == pytest.approx(2 * 0.99)


def test_every_weight_gets_a_gradient_and_features_end_before_the_expander(scenes):
    method = new().train()
    method.loss(make_batch(scenes, torch.arange(8)))["loss"].backward()
    idle = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    assert method.features(scenes.images[:5]).shape == (5, 32)


def test_a_batch_of_one_is_refused(scenes):
    with pytest.raises(ValueError, match="variance and batch norm"):
        new().loss(make_batch(scenes, torch.tensor([0])))


def test_it_learns_and_without_the_spread_it_collapses(scenes):
    config = TrainConfig(epochs=12, batch_size=40, lr=3e-3)
    spread = []
    for variance in (25.0, 0.0):
        run = fit(new(variance=variance, covariance=0.0), scenes, config, progress=False)
        spread.append(run.history[-1])
    assert spread[0]["loss"] < 0.8 * spread[0]["chance"]
    assert diagnose(spread[0]) is None
    assert spread[1]["feature_std"] < spread[0]["feature_std"] / 2
    assert "chance" not in spread[1]  # without that term, equal embeddings cost nothing
