"""MAE: patches there and back, what is hidden stays hidden, and exact resuming."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, strategies as st
from settings import MAEConfig, TrainConfig, VisionConfig

from cmssf_lib.build import build, run_config
from cmssf_lib.cli import measure
from cmssf_lib.data import digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.losses import mae_loss, normalise_patches, patchify, unpatchify
from cmssf_lib.methods import MAE
from cmssf_lib.methods.mae import sincos
from cmssf_lib.presets import QUICK
from cmssf_lib.runs import Run
from cmssf_lib.train import fit
from cmssf_lib.views import ViewsConfig

PLAIN = VisionConfig(kind="plain", image_size=16, width=16, depth=1, heads=2)
STEM = dataclasses.replace(PLAIN, kind="conv_stem")
SMALL = MAEConfig(width=8, depth=1, heads=2, views=ViewsConfig(shift=0.1))


@pytest.fixture(scope="module")
def data():
    return digit_scenes("colour", train=48, test=1).train


@pytest.fixture(scope="module")
def batch(data):
    return make_batch(data, torch.arange(8))


def mae(vision: VisionConfig = STEM, **changes) -> MAE:
    torch.manual_seed(0)
    return MAE(ImageEncoder(vision), dataclasses.replace(SMALL, **changes))


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- patches and the loss ---------------------------------------------------------------------


@given(b=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3), p=st.integers(1, 4))
def test_patches_go_there_and_back(b, rows, columns, p):
    images = torch.rand(b, 3, rows * p, columns * p, generator=random(b))
    patches = patchify(images, p)
    assert patches.shape == (b, rows * columns, p * p * 3)
    assert torch.equal(unpatchify(patches, p, rows, columns), images)


def test_a_patch_is_where_it_should_be():
    images = torch.rand(2, 3, 8, 12, generator=random(0))
    patches = patchify(images, 4)
    for row in range(2):
        for column in range(3):
            for y in range(4):
                for x in range(4):
                    pixel = patches[:, row * 3 + column, (y * 4 + x) * 3 :][:, :3]
                    assert torch.equal(pixel, images[:, :, row * 4 + y, column * 4 + x])


def slow_mae(prediction, patches, mask, normalise: bool) -> float:
    errors = []
    for picture, guessed, hidden in zip(
        patches.tolist(), prediction.tolist(), mask.tolist(), strict=True
    ):
        for patch, guess, is_hidden in zip(picture, guessed, hidden, strict=True):
            if not is_hidden:
                continue
            target, v = patch, len(patch)
            if normalise:
                mean = sum(patch) / v
                variance = sum((x - mean) ** 2 for x in patch) / (v - 1)
                target = [(x - mean) / math.sqrt(variance + 1e-6) for x in patch]
            errors.append(sum((g - t) ** 2 for g, t in zip(guess, target, strict=True)) / v)
    return sum(errors) / len(errors)


@pytest.mark.parametrize("normalise", [False, True])
@given(seed=st.integers(0, 999), hidden=st.integers(1, 5))
def test_the_loss_is_the_slow_loop(normalise, seed, hidden):
    prediction, patches = torch.rand(2, 3, 5, 12, generator=random(seed), dtype=torch.float64)
    mask = torch.rand(3, 5, generator=random(seed)).argsort(dim=1) < hidden
    expected = slow_mae(prediction, patches, mask, normalise)
    assert float(mae_loss(prediction, patches, mask, normalise)) == pytest.approx(expected)


def test_what_was_visible_does_not_count():
    patches = torch.rand(2, 4, 12)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    prediction = torch.where(mask[:, :, None], patches, 99.0).requires_grad_(True)
    loss = mae_loss(prediction, patches, mask, normalise=False)
    assert float(loss.detach()) == 0
    mae_loss(prediction, 1 - patches, mask, normalise=True).backward()
    assert not prediction.grad[~mask].any()
    assert prediction.grad[mask].any(dim=1).all()


def test_guessing_zeros_costs_what_the_docstring_says():
    patches = torch.rand(50, 16, 48, generator=random(0))
    mask = torch.ones(50, 16, dtype=torch.bool)
    zeros = torch.zeros_like(patches)
    assert float(mae_loss(zeros, patches, mask, True)) == pytest.approx(47 / 48, abs=1e-3)


def test_a_flat_patch_becomes_zeros():
    assert normalise_patches(torch.full((1, 2, 12), 0.7)).abs().max() < 1e-3


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patchify(torch.rand(1, 3, 9, 8), 4), "patches of 4 pixels do not tile"),
        (lambda: patchify(torch.rand(3, 8, 8), 4), r"expected \(batch, 3"),
        (lambda: unpatchify(torch.rand(1, 5, 48), 4, 2, 2), r"expected \(batch, 4, 48\)"),
        (
            lambda: mae_loss(*torch.rand(2, 1, 4, 12), torch.ones(1, 5).bool(), True),
            r"expected \(batch, n, values\) twice",
        ),
        (
            lambda: mae_loss(*torch.rand(2, 1, 4, 12), torch.zeros(1, 4).bool(), True),
            "no patch is hidden",
        ),
    ],
)
def test_a_loss_of_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the method -------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", [PLAIN, STEM])
def test_the_encoder_sees_the_visible_patches_and_nothing_else(vision, batch):
    """Whatever is painted over the hidden patches, every token stays bit for bit the same."""
    method = mae(vision).train()
    images = batch.images.float() / 255
    keep = torch.rand(8, 16, generator=random(0)).argsort(dim=1)[:, :4]
    hidden = torch.ones(8, 16, dtype=torch.bool).scatter_(1, keep, False)
    noise = torch.rand(8, 16, 48, generator=random(1))
    painted = unpatchify(torch.where(hidden[:, :, None], noise, patchify(images, 4)), 4, 4, 4)
    assert (painted - images).abs().max() > 0.1
    tokens = method.image_encoder.tokens(images, keep=keep)
    assert tokens.shape == (8, 5, 16)
    assert torch.equal(tokens, method.image_encoder.tokens(painted, keep=keep))


def test_an_ordinary_stem_would_see_them_and_is_refused(batch):
    method = mae(STEM)
    method.image_encoder.backbone.patch_embed.apart = False
    with pytest.raises(ValueError, match=r"set encoder\.backbone\.patch_embed\.apart = True"):
        method.loss(batch)


@pytest.mark.parametrize("vision", [PLAIN, STEM])
def test_all_patches_kept_is_no_mask(vision, batch):
    """In any order: a place belongs to its patch, not to its turn."""
    method = mae(vision).eval()
    whole = method.image_encoder.tokens(batch.images)
    keep = torch.rand(8, 16, generator=random(0)).argsort(dim=1)
    some = method.image_encoder.tokens(batch.images, keep=keep)
    torch.testing.assert_close(some[:, 0], whole[:, 0], atol=1e-5, rtol=1e-4)
    places = keep[:, :, None].expand(-1, -1, 16)
    torch.testing.assert_close(some[:, 1:], whole[:, 1:].gather(1, places), atol=1e-5, rtol=1e-4)


def test_features_see_every_patch_and_draw_nothing(batch):
    method = mae().eval()
    out = method.features(batch.images)
    assert torch.equal(out, method.features(batch.images))
    torch.testing.assert_close(out, method.image_encoder.tokens(batch.images)[:, 0])
    for place in range(16):
        patches = patchify(batch.images.float() / 255, 4)
        patches[:, place] = 1 - patches[:, place]
        changed = method.features(unpatchify(patches, 4, 4, 4))
        assert ((out - changed).abs().amax(dim=1) > 1e-6).all(), place


def test_the_loss_is_that_of_its_parts(batch):
    method = mae().eval()
    torch.manual_seed(7)
    out = method.loss(batch)
    assert set(out) == {"loss", "embeddings"}
    noise = torch.rand(8, 16, generator=random(7))
    keep = noise.argsort(dim=1)[:, :4]
    mask = torch.ones(8, 16, dtype=torch.bool).scatter_(1, keep, False)
    guess = method.decode(method.image_encoder.tokens(batch.images, keep=keep), keep)
    by_hand = slow_mae(guess, patchify(batch.images.float() / 255, 4), mask, True)
    assert float(out["loss"].detach()) == pytest.approx(by_hand, rel=1e-4)


def test_every_parameter_learns(batch):
    method = mae().train()
    method.loss(batch)["loss"].backward()
    assert [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_mask_token_stands_in_hidden_places_only(batch):
    method = mae().eval()
    every = torch.arange(16).expand(8, 16)
    guess = method.decode(method.image_encoder.tokens(batch.images, keep=every), every)
    with torch.no_grad():
        method.mask_token.add_(100)
    again = method.decode(method.image_encoder.tokens(batch.images, keep=every), every)
    assert torch.equal(guess, again)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_reconstruction_keeps_what_was_visible(normalise, batch):
    method = mae(normalise=normalise).eval()
    picture, mask = method.reconstruct(batch.images, random(3))
    assert picture.shape == (8, 3, 16, 16)
    assert mask.shape == (8, 4, 4)
    assert (mask.flatten(1).sum(dim=1) == 12).all()
    pixels = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    original = batch.images.float() / 255
    assert torch.equal(picture[~pixels], original[~pixels])
    assert not torch.equal(picture[pixels], original[pixels])
    assert 0 <= picture.min() <= picture.max() <= 1
    again, same = method.reconstruct(batch.images, random(3))
    assert torch.equal(picture, again)
    assert torch.equal(mask, same)
    assert not torch.equal(mask, method.reconstruct(batch.images, random(4))[1])


def test_pictures_of_another_size_are_resized(data):
    big = make_batch(digit_scenes("plain", train=4, test=1, image_size=24).train, torch.arange(4))
    method = mae().train()
    assert method.loss(big)["loss"].isfinite()
    assert method.reconstruct(big.images)[0].shape == (4, 3, 16, 16)


def test_places_have_codes_of_their_own():
    codes = sincos(3, 5, 8)
    assert codes.shape == (15, 8)
    assert len(codes.unique(dim=0)) == 15
    # Row 2, column 1, by hand: the frequencies are 1 and 1/100.
    row = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    column = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    torch.testing.assert_close(codes[2 * 5 + 1], torch.tensor(row + column))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_ratio": 0.0}, "strictly between 0 and 1, got 0.0"),
        ({"mask_ratio": 1.0}, "mask_ratio: .* less than 1, got 1.0"),
        ({"mask_ratio": math.nan}, "mask_ratio: .* finite number, got nan"),
        ({"mask_ratio": 0.97}, "leaves 0 of 16 patches visible"),
        ({"mask_ratio": 1e-9}, "leaves 16 of 16 patches visible"),
        ({"width": 6}, "width: .* multiple of 4, got 6"),
        ({"heads": 3}, "3 heads"),
        ({"depth": 0}, "depth: .* greater than 0, got 0"),
    ],
)
def test_an_mae_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mae(**change)


def test_a_backbone_without_patches_is_refused():
    with pytest.raises(ValueError, match="resnet18 has no patches"):
        mae(VisionConfig(kind="timm", timm_name="resnet18", image_size=32))


def test_a_model_of_timm_can_be_masked(data):
    name = "vit_tiny_patch16_224"
    vision = VisionConfig(kind="timm", timm_name=name, image_size=224, patch_size=16)
    method = mae(vision).eval()
    assert method.grid == (14, 14)
    assert method.loss(make_batch(data, torch.arange(1)))["loss"].isfinite()


def test_a_run_that_was_killed_goes_on_bit_for_bit(data, tmp_path):
    config = TrainConfig(epochs=3, batch_size=16, lr=1e-2, checkpoint_minutes=0.0)
    whole, broken, again = mae(), mae(), mae()
    fit(whole, data, config, run=tmp_path / "whole", progress=False)
    calls = []

    def dies(progress: float) -> None:
        calls.append(progress)
        if len(calls) == 5:
            raise RuntimeError("killed")

    broken.after_step = dies
    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, data, config, run=tmp_path / "broken", progress=False)
    fit(again, data, config, run=tmp_path / "broken", progress=False)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_untrained_baseline_is_fresh_wherever_mae_began(tmp_path, monkeypatch):
    splits = digit_scenes("colour", train=20, test=10, image_size=16)
    preset = dataclasses.replace(QUICK, vision=STEM, mae=SMALL)
    began = Run(tmp_path / "began")
    began.config = run_config(preset, "mae", splits.train)
    learned = mae()
    learned.image_encoder.backbone.cls_token.data += 1
    began.save_weights(learned)
    start = dataclasses.replace(STEM, weights=str(began.path))
    preset = dataclasses.replace(preset, vision=start)
    method = build(preset, "mae", splits.train)
    judged = []

    def judge(method, splits, preset, answers):
        judged.append(method)
        answers["knn"] = torch.zeros(1)
        return {"knn": 0.5}

    monkeypatch.setattr(measure, "_judge_features", judge)
    results, _ = measure.judge(method, splits, preset)
    assert set(results) == {"knn", "untrained_knn"}
    begun = judged[0].image_encoder.backbone.cls_token
    assert torch.equal(begun, learned.image_encoder.backbone.cls_token)
    fresh = dataclasses.replace(preset, vision=STEM)
    expected = build(fresh, "mae", splits.train).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in judged[1].state_dict().items())
