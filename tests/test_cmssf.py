"""CMSSF: the loss it says, unit vectors, views in training alone, and that it learns."""

import dataclasses
import math

import pytest
import torch
from settings import CMSSFConfig, TextConfig, TrainConfig, VisionConfig, new_cmssf
from torch.nn import functional as F

from cmssf_lib.data import Batch, ImageTextData, digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.losses import (
    duplicate_floor,
    excess_loss,
    image_text_loss,
    masked_loss,
    multi_positive_loss,
)
from cmssf_lib.methods import CMSSF
from cmssf_lib.methods.cmssf import GROUPED, MAX_SCALE
from cmssf_lib.train import make_optimizer
from cmssf_lib.views import ViewsConfig

LOSSES = ("one_hot", *GROUPED)

VISION = VisionConfig(kind="plain", image_size=16, patch_size=4, width=32, depth=1, heads=2)
TEXT = TextConfig(width=32, depth=1, heads=2, max_length=16)
CONFIG = CMSSFConfig(dim=24, hidden=40)
LOGGED = {"loss", "floor", "positive_similarity", "negative_similarity", "logit_scale"}


@pytest.fixture(scope="module")
def scenes() -> ImageTextData:
    return digit_scenes(train=400, test=1, image_size=16).train


def model(data: ImageTextData, seed: int = 0, **changes: object) -> CMSSF:
    torch.manual_seed(seed)
    config = dataclasses.replace(CONFIG, **changes)
    return new_cmssf(VISION, TEXT, config, data.unique_captions)


def repeating(data: ImageTextData, pictures: int = 12, captions: int = 5) -> Batch:
    """A batch in which captions repeat, some more often than others."""
    index = [[], [], [], [], []]
    for i, caption in enumerate(data.caption_index.tolist()):
        if caption < captions:
            index[caption].append(i)
    chosen = [places[i % len(places)] for i in range(3) for places in index]
    return make_batch(data, torch.tensor(sorted(chosen[:pictures])))


# --- the shared space -------------------------------------------------------------------------


def test_both_sides_end_in_the_same_space_with_length_one(scenes):
    method = model(scenes).eval()
    image = method.encode_image(scenes.images[:6])
    text = method.encode_text(scenes.unique_captions[:4])
    assert image.shape == (6, 24)
    assert text.shape == (4, 24)
    for vectors in (image, text):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_features_are_the_encoders_with_no_head(scenes):
    method = model(scenes).eval()
    features = method.features(scenes.images[:6])
    assert torch.equal(features, method.image_encoder(scenes.images[:6]))
    assert features.shape == (6, 32)
    projected = F.normalize(method.image_head(features), dim=1)
    torch.testing.assert_close(method.encode_image(scenes.images[:6]), projected)


def test_each_side_has_a_head_of_its_own(scenes):
    method = model(scenes)
    for head in (method.image_head, method.text_head):
        assert [tuple(p.shape) for p in head.parameters()] == [(40, 32), (40,), (24, 40), (24,)]
    assert not torch.equal(method.image_head[0].weight, method.text_head[0].weight)


def test_equal_seeds_build_equal_models(scenes):
    first, second, other = model(scenes), model(scenes), model(scenes, seed=1)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert not all(map(torch.equal, first.state_dict().values(), other.state_dict().values()))


# --- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_comes_with_what_is_logged(scenes, kind):
    method = model(scenes, loss=kind)
    batch = repeating(scenes)
    out = method.loss(batch)
    assert out.keys() == LOGGED
    assert all(value.shape == () and value.isfinite() for value in out.values())
    assert [name for name, value in out.items() if value.requires_grad] == ["loss"]
    assert torch.equal(out["floor"], duplicate_floor(batch.caption_index))
    assert out["floor"] > 0
    torch.manual_seed(0)
    assert torch.equal(method(batch)["loss"], out["loss"])  # what PyTorch's wrappers call


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_is_the_pure_loss_of_all_captions(scenes, kind):
    """Encoding each caption once must change neither the value nor any gradient."""
    method = model(scenes, loss=kind).double()
    batch = repeating(scenes)
    captions = [scenes.captions[i] for i in batch.index.tolist()]
    assert len(batch.captions) < len(captions)
    groups = torch.tensor([captions.index(caption) for caption in captions])

    def by_hand() -> torch.Tensor:
        image, text = method.encode_image(batch.images), method.encode_text(captions)
        scale = method.log_scale.exp()
        if kind == "one_hot":
            return image_text_loss(image, text, scale)
        pure = {"multi_positive": multi_positive_loss, "masked": masked_loss}
        return pure.get(kind, excess_loss)(image, text, groups, scale)

    results = []
    for function in (lambda: method.loss(batch)["loss"], by_hand):
        method.zero_grad()
        value = function()
        value.backward()
        gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        results.append((value.detach(), gradients))
    (value, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(value, expected)
    assert gradients.keys() == expected_gradients.keys()
    assert gradients["log_scale"].abs() > 1e-6
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], msg=name)


def test_the_four_losses_in_one_batch(scenes):
    """Equal captions have equal vectors here, and then two of the losses are one number.

    Spreading a target evenly over equal columns changes nothing: one-hot and multi-positive agree.
    """
    batch = repeating(scenes)
    with torch.no_grad():
        values = {kind: float(model(scenes, loss=kind).loss(batch)["loss"]) for kind in LOSSES}
    floor = float(duplicate_floor(batch.caption_index))
    assert floor > 0.5
    assert values["one_hot"] == pytest.approx(values["multi_positive"], abs=1e-5)
    assert values["multi_positive"] - values["excess"] == pytest.approx(floor, abs=1e-5)
    assert values["masked"] < values["one_hot"] - 0.1
    assert abs(values["masked"] - values["excess"]) > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_in_chunks_trains_alike(scenes, loss):
    batch, found = repeating(scenes), []
    for chunk in (0, 5):
        method = model(scenes, loss=loss, chunk=chunk)
        out = method.loss(batch)
        out["loss"].backward()
        found.append((out["loss"], *(p.grad for p in method.parameters())))
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["chunk", "micro_batch"])
def test_a_negative_chunk_is_refused_before_any_work(scenes, name):
    with pytest.raises(ValueError, match=f"{name}: .* or equal to 0, got -1"):
        model(scenes, **{name: -1})


@pytest.mark.parametrize("vision", ["plain", "group"])
@pytest.mark.parametrize("micro_batch", [1, 5, 100])
def test_micro_batches_give_the_whole_batchs_gradients(scenes, vision, micro_batch):
    """With random views, which are drawn once."""
    batch, found = repeating(scenes), []
    encoder = (
        VISION if vision == "plain" else dataclasses.replace(VISION, kind="conv_stem", norm="group")
    )
    for size in (0, micro_batch):
        torch.manual_seed(0)
        config = dataclasses.replace(CONFIG, micro_batch=size, views=ViewsConfig(shift=0.25))
        method = new_cmssf(encoder, TEXT, config, scenes.unique_captions)
        torch.manual_seed(1)
        out = method.loss(batch)
        out["loss"].backward()
        found.append((out["loss"], *(p.grad for p in method.parameters())))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_on_several_threads_the_gradient_is_the_same_each_time():
    """Thirteen pictures share a caption; threads must not decide in which order they count."""
    scenes = digit_scenes("plain", train=128, test=1, image_size=16).train
    method = model(scenes, dim=256).eval()  # 128 × 256 numbers: enough for PyTorch to share out
    batch, threads, found = make_batch(scenes, torch.arange(128)), torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in range(30):
            method.zero_grad()
            method.loss(batch)["loss"].backward()
            found.append(method.text_head[-1].weight.grad.clone())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], gradient) for gradient in found)


def test_what_is_encoded_twice_is_dropped_out_alike(scenes):
    method = new_cmssf(
        VISION, dataclasses.replace(TEXT, dropout=0.5), CONFIG, scenes.unique_captions
    )
    method.config = dataclasses.replace(CONFIG, micro_batch=2)
    batch = repeating(scenes)
    out = []
    hook = method.text_head.register_forward_hook(lambda module, inputs, given: out.append(given))
    method.loss(batch)["loss"].backward()
    hook.remove()
    parts = len(out) // 2
    assert parts == -(-len(batch.captions) // 2)
    assert sum(any(torch.equal(a, b) for b in out[parts:]) for a in out[:parts]) == parts


def test_micro_batches_and_batch_norm_do_not_go_together(scenes):
    vision = dataclasses.replace(VISION, kind="conv_stem", norm="batch")
    config = dataclasses.replace(CONFIG, micro_batch=4)
    with pytest.raises(ValueError, match="would normalise each part of the batch separately"):
        new_cmssf(vision, TEXT, config, scenes.unique_captions)
    with pytest.raises(ValueError, match="and no norm in the head"):
        new_cmssf(VISION, TEXT, dataclasses.replace(config, head_norm=True), scenes.unique_captions)


def test_the_image_head_alone_may_have_a_norm_in_each_hidden_layer(scenes):
    method = model(scenes, head_norm=True, depth=2)
    kinds = [type(layer).__name__ for layer in method.image_head]
    assert kinds == ["Linear", "BatchNorm1d", "GELU"] * 2 + ["Linear"]
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in method.text_head)
    before = method.image_head[1].running_mean.clone()
    method.train().loss(repeating(scenes))["loss"].backward()
    assert not torch.equal(method.image_head[1].running_mean, before)
    # Each caption is encoded once, however often it is there: the text head must not count them.
    encoded = method.eval().encode_text(scenes.unique_captions)
    assert torch.allclose(method.encode_text(scenes.unique_captions[:1]), encoded[:1], atol=1e-6)


def test_what_is_logged_is_the_mean_over_pairs(scenes):
    method = model(scenes).eval()
    batch = repeating(scenes)
    out = method.loss(batch)
    with torch.no_grad():
        image, text = method.encode_image(batch.images), method.encode_text(batch.captions)
    own, other = [], []
    for i, caption in enumerate(batch.caption_index.tolist()):
        own.append(float(image[i] @ text[caption]))
        for neighbour in batch.caption_index.tolist():
            if neighbour != caption:  # a picture's own caption is no negative, whoever brings it
                other.append(float(image[i] @ text[neighbour]))
    assert float(out["positive_similarity"]) == pytest.approx(sum(own) / len(own), abs=1e-5)
    assert float(out["negative_similarity"]) == pytest.approx(sum(other) / len(other), abs=1e-5)


def test_every_part_is_trained(scenes):
    method = model(scenes)
    method.loss(repeating(scenes))["loss"].backward()
    idle = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_a_batch_of_one_caption_logs_numbers(scenes):
    same = (scenes.caption_index == scenes.caption_index.mode().values).nonzero().flatten()
    out = model(scenes).loss(make_batch(scenes, same[:2]))
    assert all(value.isfinite() for value in out.values())


# --- views ------------------------------------------------------------------------------------


def test_training_shows_views_and_evaluation_the_picture(scenes, monkeypatch):
    views = ViewsConfig(shift=0.25, flip=0.5, brightness=0.4)
    method, plain = model(scenes, views=views), model(scenes)
    batch = make_batch(scenes, torch.arange(32))
    seen = []
    encode = method.image_encoder.encode
    monkeypatch.setattr(method.image_encoder, "encode", lambda x: seen.append(x) or encode(x))

    method.eval()
    assert torch.equal(method.loss(batch)["loss"], plain.eval().loss(batch)["loss"])
    assert torch.equal(seen[-1], batch.images)

    method.train()
    torch.manual_seed(1)
    first = method.loss(batch)["loss"]
    torch.manual_seed(1)
    assert torch.equal(method.loss(batch)["loss"], first)  # the seed decides the view
    assert torch.equal(seen[-1], seen[-2])
    assert not torch.equal(method.loss(batch)["loss"], first)
    changed = (seen[-1] != batch.images / 255).flatten(1).any(dim=1)
    assert changed.all()


# --- the temperature --------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.07, 0.5, 0.01])
def test_the_scale_starts_at_one_over_the_temperature(scenes, temperature):
    method = model(scenes, temperature=temperature)
    assert method.logit_scale.item() == pytest.approx(1 / temperature, rel=1e-5)
    assert method.log_scale.item() == pytest.approx(math.log(1 / temperature), abs=1e-5)
    assert float(method.loss(repeating(scenes))["logit_scale"]) == method.logit_scale.item()


@pytest.mark.parametrize(("raw", "kept"), [(-3.0, 1.0), (9.0, 100.0), (2.0, math.exp(2))])
def test_after_a_step_the_scale_lies_between_one_and_a_hundred(scenes, raw, kept):
    method = model(scenes)
    with torch.no_grad():
        method.log_scale.fill_(raw)
    method.after_step(0.5)
    assert method.logit_scale.item() == pytest.approx(kept, rel=1e-5)
    assert method.log_scale.requires_grad  # still learned


def test_the_scale_is_learned_without_weight_decay(scenes):
    method = model(scenes)
    optimizer = make_optimizer(method, TrainConfig(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay[id(method.log_scale)] == 0
    assert decay[id(method.image_head[0].weight)] == 0.1
    assert len(decay) == len(list(method.parameters()))  # every parameter is in one group


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
def test_a_batch_of_one_is_refused(scenes, kind):
    with pytest.raises(ValueError, match=r"\b(two|2)\b"):
        model(scenes, loss=kind).loss(make_batch(scenes, torch.tensor([0])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss": "triplet"},
            "loss: Input should be 'one_hot', 'multi_positive', .* got 'triplet'",
        ),
        ({"temperature": 0.0}, "temperature: .* greater than or equal to 0.01, got 0.0"),
        ({"temperature": -0.1}, "or equal to 0.01, got -0.1"),
        ({"temperature": math.nan}, "finite number, got nan"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(scenes, change, message):
    with pytest.raises(ValueError, match=message):
        model(scenes, **change)


def test_captions_are_needed_to_read_captions():
    with pytest.raises(ValueError, match="no words"):
        new_cmssf(VISION, TEXT, CONFIG)


# --- learning ---------------------------------------------------------------------------------


def learned(
    data: ImageTextData, batch: Batch, kind: str, loss: str, steps: int = 100
) -> tuple[CMSSF, list[float]]:
    """Some steps on one batch, and the loss at each."""
    torch.manual_seed(0)
    vision = dataclasses.replace(VISION, kind=kind)
    method = new_cmssf(vision, TEXT, dataclasses.replace(CONFIG, loss=loss), data.unique_captions)
    optimizer = make_optimizer(method, TrainConfig(lr=3e-3, text_lr=0.1, weight_decay=0.0))
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_factor"]  # as `fit` does
    losses = []
    for _ in range(steps):
        value = method.loss(batch)["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        method.after_step(0)
        losses.append(float(value.detach()))
    return method.eval(), losses


@pytest.mark.parametrize(("kind", "left"), [("plain", 0.7), ("conv_stem", 0.2)])
def test_it_learns_thirty_two_scenes_by_heart(scenes, kind, left):
    """At most the part ``left`` of ln 32 stays; the stem learns faster, as its docstring says."""
    first = {caption: i for i, caption in reversed(list(enumerate(scenes.captions)))}
    batch = make_batch(scenes, torch.tensor(list(first.values())[:32]))
    assert len(batch.captions) == 32  # nothing but the pictures tells the pairs apart
    method, losses = learned(scenes, batch, kind, "one_hot", steps=200)
    assert losses[0] > 0.9 * math.log(32)  # it starts by guessing
    assert losses[-1] < left * math.log(32)
    with torch.no_grad():
        similarity = method.encode_image(batch.images) @ method.encode_text(batch.captions).T
    found = (similarity.argmax(dim=1) == batch.caption_index).float().mean()
    assert found > 1 - left  # by chance: one in 32


def test_the_floor_stops_one_loss_and_not_the_other(scenes):
    """Where captions repeat, the one-hot loss ends on its floor and the excess near zero."""
    batch = repeating(scenes)
    floor = float(duplicate_floor(batch.caption_index))
    _, one_hot = learned(scenes, batch, "conv_stem", "one_hot")
    _, excess = learned(scenes, batch, "conv_stem", "excess")
    assert floor - 1e-4 <= min(one_hot) < floor + 0.1
    assert -1e-4 <= min(excess) < 0.1


def test_the_module_holds_the_bound_of_clip():
    assert MAX_SCALE == 100
