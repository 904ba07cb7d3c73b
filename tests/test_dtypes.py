"""Precisions beside float32: half and double models, and a default dtype of float64."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from card.everything import VARIANTS, measured, small, tried

from cmssf_lib import data, evaluate
from cmssf_lib.build import build
from cmssf_lib.data import Batch
from cmssf_lib.methods import CMSSF, DINO, MAE, Method

MORE = {
    "channels": ("fusion", small("fusion", fusion={"kind": "early", "rule": "channels"})),
    "sounds": (
        "fusion",
        small(
            "fusion",
            data={"sound": "same"},
            fusion={"kind": "early", "rule": "tokens", "modalities": ("image", "text", "sound")},
        ),
    ),
}
EVERY = {**VARIANTS, **MORE}
DTYPES = (torch.float16, torch.bfloat16, torch.float64)


@pytest.fixture
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def made(name: str) -> tuple[Method, data.ImageTextData, Batch]:
    """An untrained model, some pictures, and a batch of them."""
    method, chosen = EVERY[name]
    scenes = data.load(chosen.data).train
    few = scenes.subset(range(16))
    return build(chosen, method, scenes).eval(), few, next(data.batches(few, 16))


@torch.no_grad()
def loss(method: Method, batch: Batch) -> float:
    torch.manual_seed(0)  # of the views
    return float(method.loss(batch)["loss"])


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_a_model_in_another_precision_gives_the_same(name):
    method, few, batch = made(name)
    right = loss(method, batch)
    pictures = few.images.float() / 255
    for dtype in DTYPES:
        other = copy.deepcopy(method).to(dtype)
        assert loss(other, batch) == pytest.approx(right, rel=1e-6 if dtype == DTYPES[2] else 0.01)
        if not hasattr(method, "image_encoder"):
            continue
        expected = method.features(few.images)
        for given in (few.images, pictures, pictures.to(dtype)):
            found = other.features(given)
            assert found.dtype == dtype
            assert torch.cosine_similarity(found.double(), expected.double()).min() >= 0.999
        if isinstance(method, CMSSF):
            found, expected = other.encode_text(few.captions), method.encode_text(few.captions)
            assert torch.cosine_similarity(found.double(), expected.double()).min() >= 0.999
            found, expected = other.encode_image(few.images), method.encode_image(few.images)
            assert torch.cosine_similarity(found.double(), expected.double()).min() >= 0.999
            assert evaluate.embed(other, few).image.dtype == torch.float32
        if isinstance(method, MAE):
            other.reconstruct(few.images)
        if isinstance(method, DINO):
            other.attention(few.images, size=24)


@pytest.mark.parametrize("name", EVERY)
def test_a_default_of_float64_changes_no_loss(name, double):
    """Whether it is set before or after a model is built: weights keep the precision they have."""
    torch.set_default_dtype(torch.float32)
    method, _, batch = made(name)
    right = loss(method, batch)
    torch.set_default_dtype(torch.float64)
    assert loss(method, batch) == pytest.approx(right, rel=1e-6)
    built, _, same = made(name)
    for field in ("images", "sounds"):
        if getattr(batch, field, None) is not None:
            assert torch.equal(getattr(batch, field), getattr(same, field))
    floats = [x for x in built.state_dict().values() if x.is_floating_point()]
    assert {x.dtype for x in floats} == {torch.float64}
    built.load_state_dict(method.state_dict())
    assert loss(built, same) == pytest.approx(right, rel=1e-4)


# What the others compute beside these, the losses above hold.
@pytest.mark.parametrize(
    "name", ["cmssf", "frozen", "simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised"]
)
def test_all_is_trained_and_measured_with_a_default_of_float64(name, double):
    method, chosen = EVERY[name]
    found = tried(method, replace(chosen, data=replace(chosen.data, train=180)))
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values()), found


def test_every_measure_works_with_a_default_of_float64(double):
    found = measured()
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values()), found
