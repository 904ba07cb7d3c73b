"""Encoders: shapes, sizes, nobody looks at the neighbour, and weights that fit or are refused."""

import dataclasses
import logging
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from settings import TextConfig, VisionConfig
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from cmssf_lib.build import image_encoder, load_weights
from cmssf_lib.encoders import (
    ConvStem,
    ImageEncoder,
    ProjectionHead,
    TextEncoder,
    cls_attention,
    tokenize,
    word_tokenizer,
)
from cmssf_lib.encoders.backbone import Shortcut
from cmssf_lib.encoders.small_pictures import _places, convolve_small, through_small

SMALL = VisionConfig(kind="plain", image_size=16, patch_size=4, width=32, depth=2, heads=2)
STEM = dataclasses.replace(SMALL, kind="conv_stem")
TIMM = VisionConfig(kind="timm", image_size=224, timm_name="vit_tiny_patch16_224")
CAPTIONS = ("a photo of a red seven", "an eight", "a photo of a small blue zero on grey")


def pictures(n: int = 4, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def encoder(config: VisionConfig = SMALL, seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(config).eval()


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


# --- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, STEM, dataclasses.replace(STEM, norm="group")])
@pytest.mark.parametrize("batch", [2, 5])
def test_one_vector_a_picture(config, batch):
    model = encoder(config)
    assert model.width == 32
    out = model(pictures(batch))
    assert out.shape == (batch, 32)
    assert out.isfinite().all()
    assert len(out.unique(dim=0)) == batch  # different pictures, different vectors


def test_a_model_of_timm_by_name():
    config = dataclasses.replace(TIMM, timm_name="resnet18", image_size=64)
    model = encoder(config)
    assert model.width == 512
    assert model(pictures(2, 64)).shape == (2, 512)


def test_the_sizes_asked_for_are_the_sizes_built():
    model = encoder(dataclasses.replace(SMALL, width=48, depth=3, heads=4, image_size=24))
    assert model.width == 48
    assert len(model.backbone.blocks) == 3
    assert model.backbone.blocks[0].attn.num_heads == 4
    assert model.backbone.pos_embed.shape == (1, 1 + 6 * 6, 48)
    assert model(pictures(2, 24)).shape == (2, 48)


@pytest.mark.parametrize("config", [SMALL, STEM])
def test_bytes_and_floats_give_equal_vectors(config):
    model = encoder(config)
    images = (pictures() * 255).round().to(torch.uint8)
    assert torch.equal(model(images), model(images.float() / 255))


def test_pictures_of_another_size_are_resized():
    model = encoder()
    images = pictures(side=40)
    resized = F.interpolate(images, (16, 16), mode="bicubic", antialias=True)
    pixels = (resized - 0.5) / 0.25
    close(model(images), model.backbone(pixels))
    # A flat picture is the same picture at any size.
    flat = torch.full((1, 3, 16, 16), 0.3)
    for side in (8, 32, 50):
        other = torch.full((1, 3, side, side), 0.3)
        close(model(other), model(flat))


def test_pixels_are_normalised_as_the_configuration_says():
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
    model = encoder(dataclasses.replace(SMALL, **statistics))
    images = pictures()
    by_hand = torch.stack(
        [(images[:, c] - statistics["mean"][c]) / statistics["std"][c] for c in range(3)], dim=1
    )
    close(model(images), model.backbone(by_hand))
    assert not {"mean", "std"} & model.state_dict().keys()  # they follow from the configuration


@pytest.mark.parametrize("config", [SMALL, STEM])
def test_the_vector_is_cls_and_not_a_mean(config):
    model = encoder(config)
    images = pictures()
    tokens = model.backbone.forward_features((images - 0.5) / 0.25)
    assert tokens.shape == (4, 1 + 16, 32)  # [CLS] and a token for every 4×4 pixels
    close(model(images), tokens[:, 0])
    assert (model(images) - tokens[:, 1:].mean(dim=1)).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("kind", ["plain", "conv_stem"])
def test_in_evaluation_no_picture_sees_its_neighbours(kind, norm):
    model = encoder(dataclasses.replace(SMALL, kind=kind, norm=norm))
    images = pictures(6)
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    close(together, alone)
    others = torch.cat([images[:1], torch.zeros(5, 3, 16, 16)])
    close(model(others)[0], together[0])


@pytest.mark.parametrize(
    ("kind", "norm", "sees"),
    [("plain", "batch", False), ("conv_stem", "group", False), ("conv_stem", "batch", True)],
)
def test_in_training_only_batch_norm_sees_the_neighbours(kind, norm, sees):
    """As the docstring says; a loss that compares pictures could exploit what it sees."""
    model = encoder(dataclasses.replace(SMALL, kind=kind, norm=norm)).train()
    images = pictures(6)
    others = torch.cat([images[:1], images[1:].flip(1) * 0.2])
    difference = (model(images)[0] - model(others)[0]).abs().max()
    if sees:
        assert difference > 1e-2
    else:
        assert difference < 1e-4


@pytest.mark.parametrize(
    "config",
    [SMALL, STEM, *(dataclasses.replace(STEM, **{k: v}) for k, v in
                    (("norm", "group"), ("halve", "pool")))],
)  # fmt: skip
def test_every_parameter_has_a_part_in_the_vector(config):
    model = encoder(config).train()
    out = model(pictures())
    (out * torch.randn_like(out)).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("halve", ["stride", "pool"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_stem_gives_one_token_for_every_four_by_four_pixels(norm, halve):
    torch.manual_seed(0)
    shape = {"img_size": 24, "patch_size": 4, "in_chans": 3, "embed_dim": 32}
    stem = ConvStem(**shape, norm=norm, halve=halve).eval()
    assert stem.num_patches == 36
    assert stem.grid_size == (6, 6)
    assert stem(pictures(2, 24)).shape == (2, 36, 32)


@pytest.mark.parametrize(("halve", "reach"), [("stride", 2), ("pool", 4)])
def test_the_stems_tokens_stand_row_by_row(halve, reach):
    torch.manual_seed(0)
    stem = ConvStem(img_size=64, patch_size=4, in_chans=3, embed_dim=32, halve=halve).eval()
    image = torch.zeros(1, 3, 64, 64)
    dark = stem(image)
    image[:, :, 24:28, 36:40] = 1  # in the seventh row, tenth column of the tokens
    change = (stem(image) - dark).norm(dim=2)[0].view(16, 16)
    share, places = change / change.sum(), torch.arange(16.0)
    assert float((share.sum(dim=1) @ places).detach()) == pytest.approx(6, abs=0.75)
    assert float((share.sum(dim=0) @ places).detach()) == pytest.approx(9, abs=0.75)
    far = torch.ones(16, 16, dtype=torch.bool)
    far[6 - reach : 7 + reach, 9 - reach : 10 + reach] = False
    assert change[far].max() < 1e-5  # no convolution looks further


def test_the_stem_that_pools_has_two_convolutions_more_and_a_narrow_first_one():
    stem = ConvStem(img_size=32, patch_size=4, in_chans=3, embed_dim=128, halve="pool")
    shapes = [tuple(part.weight.shape) for part in stem.modules() if isinstance(part, nn.Conv2d)]
    assert shapes == [
        (32, 3, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3),
        (128, 128, 3, 3), (128, 128, 1, 1),
    ]  # fmt: skip


def test_a_shortcut_adds_what_its_layers_make():
    layer, pictures_ = nn.Conv2d(3, 3, 3, padding=1), torch.rand(2, 3, 8, 8)
    assert torch.equal(Shortcut(layer)(pictures_), pictures_ + layer(pictures_))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert torch.equal(Shortcut(layer)(pictures_), pictures_)  # at first it changes nothing


def test_the_stem_makes_the_backbone_see_one_bright_pixel():
    model = encoder(STEM)
    dark, bright = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    bright[:, :, 7, 9] = 1
    assert (model(dark) - model(bright)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "resnet"}, "kind: Input should be 'plain', 'conv_stem', .* got 'resnet'"),
        ({"image_size": 18}, "image size must be a multiple of patch size 4; got 18"),
        ({"heads": 3}, "width 32 is not divisible by 3 heads"),
        ({"kind": "conv_stem", "patch_size": 8}, "needs patch_size=4; got 8"),
        (
            {"kind": "conv_stem", "norm": "layer"},
            "norm: Input should be 'batch' or 'group', got 'layer'",
        ),
        ({"kind": "conv_stem", "halve": "mean"}, "halve: Input .* .pool., got .mean."),
        ({"kind": "timm", "timm_name": "no_such_net"}, "timm has no model 'no_such_net'"),
        ({"kind": "timm", "timm_name": ""}, "timm has no model ''"),
        ({"kind": "timm", "timm_name": "vit_tiny_patch16_224.no_tag"}, "timm.list_pretrained"),
        (
            {"kind": "timm", "timm_name": "vit_tiny_patch16_224", "image_size": 32},
            r"takes pictures of \(224, 224\), but image_size is 32",
        ),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ImageEncoder(dataclasses.replace(SMALL, **change))


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="Divide by 255"):
        encoder()(pictures() * 255)


# --- some tokens only -------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, STEM])
def test_all_tokens_at_the_usual_size_are_the_backbones(config):
    model = encoder(config)
    images = pictures()
    tokens = model.tokens(images)
    close(tokens, model.backbone.forward_features((images - 0.5) / 0.25))
    close(model(images, size=16), model(images))


@pytest.mark.parametrize("config", [SMALL, STEM])
def test_a_smaller_picture_has_fewer_tokens_and_interpolated_places(config):
    """As timm itself does it when it is told that sizes vary."""
    model = encoder(config)
    images = pictures(side=8)
    tokens = model.tokens(images, size=8)
    assert tokens.shape == (4, 1 + 4, 32)
    close(model(images, size=8), tokens[:, 0])
    if config is SMALL:
        varying = timm.models.vision_transformer.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0,
            dynamic_img_size=True,
        ).eval()  # fmt: skip
        varying.load_state_dict(model.backbone.state_dict())
        close(tokens, varying.forward_features((images - 0.5) / 0.25))
    # Without being told, the encoder resizes as ever: other numbers.
    assert model.tokens(images).shape == (4, 1 + 16, 32)
    assert (model(images) - model(images, size=8)).abs().max() > 1e-3


def test_interpolated_places_learn():
    model = encoder().train()
    model(pictures(side=8), size=8).square().sum().backward()
    assert model.backbone.pos_embed.grad.abs().amax(dim=2).min() > 0


@pytest.mark.parametrize("size", [0, 2, 6, -4])
def test_a_size_that_patches_do_not_tile_is_refused(size):
    with pytest.raises(ValueError, match=f"must be a multiple of patch size 4; got {size}"):
        encoder()(pictures(), size=size)


def test_kept_tokens_are_gathered_before_the_blocks():
    model = encoder()
    images, keep = pictures(), torch.tensor([[3, 7], [0, 15], [8, 2], [5, 4]])
    pixels = (images - 0.5) / 0.25
    vit = model.backbone
    tokens = vit.patch_embed(pixels) + vit.pos_embed[:, 1:]
    for i in range(4):
        alone = torch.cat([vit.cls_token[0] + vit.pos_embed[0, :1], tokens[i, keep[i]]])
        close(model.tokens(images, keep=keep)[i], vit.norm(vit.blocks(alone[None]))[0])


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "bias"),
    [(4, 3, 1, False), (4, 3, 2, False), (2, 3, 2, True), (1, 1, 1, True), (6, 5, 2, True)],
)
def test_a_small_convolution_is_one_matrix(side, kernel, stride, bias):
    layer = torch.nn.Conv2d(3, 5, kernel, stride, padding=kernel // 2, bias=bias).double()
    pictures = torch.rand(7, 3, side, side, dtype=torch.double, requires_grad=True)
    weights = (pictures, *layer.parameters())
    found, expected = convolve_small(layer, pictures), layer(pictures)
    assert found.shape == expected.shape
    close(found, expected)
    pull = torch.rand_like(expected)
    pairs = zip(
        torch.autograd.grad((found * pull).sum(), weights),
        torch.autograd.grad((expected * pull).sum(), weights),
        strict=True,
    )
    for ours, theirs in pairs:
        close(ours, theirs)


def test_what_was_first_seen_without_gradients_can_be_trained():
    """Whatever is kept from the first call must serve all later ones."""
    stem = ConvStem(img_size=12, patch_size=4, in_chans=3, embed_dim=8)
    stem.apart, stem.through = True, through_small
    _places.cache_clear()
    with torch.inference_mode():
        stem(torch.rand(2, 3, 12, 12))
    stem(torch.rand(2, 3, 12, 12)).sum().backward()
    assert stem.layers[0].weight.grad is not None


@pytest.mark.parametrize("through", [nn.Sequential.forward, through_small])
@pytest.mark.parametrize("halve", ["stride", "pool"])
def test_a_stem_that_takes_patches_apart_sees_each_alone(halve, through):
    torch.manual_seed(0)
    stem = ConvStem(img_size=16, patch_size=4, in_chans=3, embed_dim=32, halve=halve).eval()
    images = pictures()
    together = stem(images)
    stem.apart, stem.through = True, through
    apart = stem(images)
    assert apart.shape == together.shape
    for row in range(4):
        for column in range(4):
            patch = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            close(apart[:, 4 * row + column], stem.layers(patch).flatten(1))
    assert (apart - together).abs().max() > 5e-4
    keep = torch.tensor([[3, 7], [0, 15], [8, 2], [5, 4]])
    close(stem(images, keep), apart.gather(1, keep[:, :, None].expand(-1, -1, 32)))


def test_a_stem_that_sees_hidden_patches_is_refused():
    keep = torch.zeros(4, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="convolutions see the patches that are left out"):
        encoder(STEM).tokens(pictures(), keep=keep)


# --- attention --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, STEM])
def test_attention_is_the_last_blocks(config):
    """Taken from timm itself, with its fused kernel switched off."""
    model = encoder(config)
    images = pictures()
    attention = model.backbone.blocks[-1].attn
    attention.fused_attn = False
    seen = []
    attention.attn_drop.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model(images)
    expected = seen[0][:, :, 0, 1:].reshape(4, 2, 4, 4)
    attention.fused_attn = True
    close(cls_attention(model, images), expected)
    close(seen[0].sum(dim=3), torch.ones(4, 2, 17))


def test_attention_at_another_size_and_without_a_trace():
    model = encoder()
    maps = cls_attention(model, pictures(side=32), size=32)
    assert maps.shape == (4, 2, 8, 8)
    assert not maps.requires_grad
    assert not model.backbone.blocks[-1].attn._forward_pre_hooks


def test_a_network_without_attention_has_no_map():
    with pytest.raises(ValueError, match="resnet18 has no patches to choose from"):
        cls_attention(encoder(dataclasses.replace(TIMM, timm_name="resnet18")), pictures())


# --- weights ----------------------------------------------------------------------------------


def published(path, model: nn.Module, **changes: torch.Tensor | None) -> str:
    """Write a model's state dict, with some entries changed, added or (None) left out."""
    state = {**model.state_dict(), **changes}
    save_file({k: v for k, v in state.items() if v is not None}, path)
    return str(path)


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)


@pytest.fixture
def empty() -> nn.Module:
    torch.manual_seed(2)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)


def test_weights_are_read_and_a_classifier_is_left_out(tmp_path, tiny, empty):
    head = {"head.weight": torch.ones(10, 192), "head.bias": torch.ones(10)}
    assert not torch.equal(tiny.cls_token, empty.cls_token)
    load_weights(empty, Path(published(tmp_path / "w.safetensors", tiny, **head)))
    for (name, a), b in zip(tiny.state_dict().items(), empty.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_missing_weights_are_named(tmp_path, empty):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere\.safetensors"):
        load_weights(empty, tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("damage", ["foreign", "cut", "empty"])
def test_an_unreadable_file_is_refused(tmp_path, tiny, empty, damage):
    path = tmp_path / "w.safetensors"
    published(path, tiny)
    whole = path.read_bytes()
    path.write_bytes({"foreign": b"PK\x03\x04 a zip", "cut": whole[:-100], "empty": b""}[damage])
    before = empty.cls_token.clone()
    with pytest.raises(ValueError, match=r"w\.safetensors is damaged"):
        load_weights(empty, path)
    assert torch.equal(empty.cls_token, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm.bias": None}, r"norm.bias: None in the file, \(192,\) in the model$"),
        ({"extra": torch.ones(1)}, r"extra: \(1,\) in the file, None in the model$"),
        ({"norm.bias": torch.ones(7)}, r"norm.bias: \(7,\) in the file, \(192,\) in the model"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, tiny, empty, changes, message):
    path = Path(published(tmp_path / "w.safetensors", tiny, **changes))
    before = empty.state_dict()["norm.bias"].clone()
    with pytest.raises(ValueError, match=f"not for this model.*{message}"):
        load_weights(empty, path)
    assert torch.equal(empty.state_dict()["norm.bias"], before)  # nothing half loaded


def test_published_weights_without_a_network_are_one_clear_sentence(monkeypatch):
    """conftest.py keeps the hub off-line, as a machine without a network is."""
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    config = dataclasses.replace(TIMM, weights="timm")
    with pytest.raises(FileNotFoundError) as caught:
        ImageEncoder(config)
    message = str(caught.value)
    assert message.startswith("the weights of vit_tiny_patch16_224 are not on this machine")
    assert "VisionConfig.weights" in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [OSError("connection reset"), RuntimeError("no such address")])
def test_a_network_that_fails_is_the_same_sentence(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as caught:
        ImageEncoder(dataclasses.replace(TIMM, weights="timm"))
    assert caught.value.__cause__ is error
    with pytest.raises(type(error)):  # without a download, it is another trouble
        ImageEncoder(TIMM)


def test_the_papers_encoder_reads_its_weights_from_a_file(tmp_path):
    config = VisionConfig(
        kind="timm",
        image_size=224,
        timm_name="vit_small_patch16_224.dino",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    first = encoder(config, seed=1)
    assert first.width == 384
    path = published(tmp_path / "dino.safetensors", first.backbone)
    begun = dataclasses.replace(config, weights=path)
    with pytest.raises(ValueError, match=r"use cmssf_lib\.build\.image_encoder"):
        ImageEncoder(begun)
    second = image_encoder(begun).eval()
    images = pictures(1, side=32)  # 32×32 becomes 224×224 in the encoder
    with torch.no_grad():
        assert torch.equal(first(images), second(images))


# --- texts ------------------------------------------------------------------------------------

WORDS = TextConfig(width=32, depth=2, heads=4, max_length=16)


def text_encoder(config: TextConfig = WORDS, seed: int = 0) -> TextEncoder:
    torch.manual_seed(seed)
    return TextEncoder(config, CAPTIONS).eval()


def test_one_vector_a_caption():
    model = text_encoder()
    out = model(CAPTIONS)
    assert model.width == 32
    assert out.shape == (3, 32)
    assert out.isfinite().all()
    assert torch.cdist(out, out).add(torch.eye(3)).min() > 0.1


def test_padding_changes_no_vector():
    model = text_encoder()
    alone = torch.cat([model([caption]) for caption in CAPTIONS])
    close(model(CAPTIONS), alone)


@pytest.mark.parametrize("training", [False, True])
def test_a_captions_vector_depends_on_the_caption_alone(training):
    """Not on the order, the number, or a second time: what lets a batch encode each once."""
    model = text_encoder().train(training)
    out = model(CAPTIONS)
    order = [2, 0, 1, 0]
    close(model([CAPTIONS[i] for i in order]), out[order])
    assert torch.equal(model(CAPTIONS), out)


def test_the_same_captions_are_made_into_tokens_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "cmssf_lib.encoders.text.tokenize", lambda *asked: calls.append(asked) or tokenize(*asked)
    )
    model, fresh = text_encoder(), text_encoder()
    out = model(CAPTIONS)
    assert torch.equal(model(list(CAPTIONS)), out)
    assert len(calls) == 1
    others = CAPTIONS[::-1]
    assert torch.equal(model(others), fresh(others))
    with pytest.raises(ValueError, match="never seen"):
        model(["a purple seven"])
    assert torch.equal(model(others), fresh(others))  # a refusal changes nothing
    assert len(calls) == 4


def test_the_order_of_words_matters():
    model = text_encoder()
    out = model(["a red seven on blue", "a blue seven on red"])
    assert (out[0] - out[1]).norm() > 0.01


def test_the_text_vector_is_that_of_cls():
    model = text_encoder()
    ids = torch.tensor([model.tokenizer("an eight")["input_ids"]])
    assert ids[0, 0] == model.tokenizer.cls_token_id
    states = model.backbone(ids).last_hidden_state
    close(model(["an eight"])[0], states[0, 0])


def test_dropout_is_there_when_asked_for():
    model = text_encoder(dataclasses.replace(WORDS, dropout=0.5)).train()
    assert not torch.equal(model(CAPTIONS), model(CAPTIONS))
    model.eval()
    assert torch.equal(model(CAPTIONS), model(CAPTIONS))


def test_the_vocabulary_does_not_depend_on_the_order_of_captions():
    torch.manual_seed(0)
    other = TextEncoder(WORDS, CAPTIONS[::-1]).eval()
    assert torch.equal(other(CAPTIONS), text_encoder()(CAPTIONS))


def test_captions_that_do_not_fit_are_refused():
    model = text_encoder(dataclasses.replace(WORDS, max_length=6))
    with pytest.raises(ValueError, match="has 8 tokens; the text encoder accepts at most 6"):
        model(CAPTIONS)
    with pytest.raises(ValueError, match="'zebra'"):
        model(["a zebra"])
    with pytest.raises(TypeError, match="wrap it in a list"):
        model("an eight")


@pytest.mark.parametrize(
    ("changes", "captions", "message"),
    [
        ({"kind": "lstm"}, CAPTIONS, "kind: Input should be 'scratch' or 'pretrained', got 'lstm'"),
        ({}, (), "no words to build a tokenizer from"),
        ({"width": 30, "heads": 4}, CAPTIONS, "hidden size .30. is not a multiple"),
    ],
)
def test_a_text_encoder_that_cannot_be_is_refused(changes, captions, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(TextConfig(**changes), captions)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    """A BERT with random weights, as `save_pretrained` leaves it; it has 12 positions."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(3)
    tokenizer = word_tokenizer(CAPTIONS, max_length=99)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=12,
    )
    tokenizer.save_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_pretrained_encoder_is_read_from_its_folder(bert_folder):
    model = TextEncoder(TextConfig(kind="pretrained", name=str(bert_folder))).eval()
    assert model.width == 24
    saved = load_file(bert_folder / "model.safetensors")
    weight = "embeddings.word_embeddings.weight"
    assert torch.equal(model.backbone.state_dict()[weight], saved[weight])
    ids = torch.tensor([model.tokenizer("an eight")["input_ids"]])
    close(model(["an eight"])[0], model.backbone(ids).last_hidden_state[0, 0])
    close(model(CAPTIONS), torch.cat([model([caption]) for caption in CAPTIONS]))


def test_a_pretrained_encoder_refuses_more_tokens_than_it_has_positions(bert_folder):
    model = TextEncoder(TextConfig(kind="pretrained", name=str(bert_folder)))
    assert model(["a " * 10]).shape == (1, 24)
    with pytest.raises(ValueError, match="has 13 tokens; the text encoder accepts at most 12"):
        model(["a " * 11])


@pytest.mark.parametrize("name", ["nobody/no-such-encoder", "bert-of-nowhere", ""])
def test_a_pretrained_encoder_that_is_nowhere_is_one_clear_sentence(name):
    with pytest.raises(FileNotFoundError) as caught:
        TextEncoder(TextConfig(kind="pretrained", name=name))
    message = str(caught.value)
    assert message.startswith(f"the text encoder {name!r} is neither a folder on this machine nor")
    assert "save_pretrained" in message
    assert "\n" not in message


def test_a_folder_without_an_encoder_is_refused(tmp_path, bert_folder):
    with pytest.raises((ValueError, FileNotFoundError), match="save_pretrained"):
        TextEncoder(TextConfig(kind="pretrained", name=str(tmp_path)))
    for file in bert_folder.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(
            content[:500] if file.suffix == ".safetensors" else content
        )
    with pytest.raises(ValueError, match="contains no complete text encoder"):
        TextEncoder(TextConfig(kind="pretrained", name=str(tmp_path)))


def test_encoding_captions_says_nothing(caplog, capfd):
    with caplog.at_level(logging.WARNING):
        text_encoder()(CAPTIONS)
    assert caplog.text == ""
    assert "".join(capfd.readouterr()) == ""


# --- projection heads -------------------------------------------------------------------------


def test_a_projection_head_has_one_hidden_layer():
    head = ProjectionHead(6, 10, 4)
    assert head(torch.zeros(3, 6)).shape == (3, 4)
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(10, 6), (10,), (4, 10), (4,)]


def test_a_projection_head_is_not_linear():
    torch.manual_seed(0)
    head = ProjectionHead(6, 10, 4).double()
    x, y = torch.randn(2, 3, 6, dtype=torch.float64)
    zero = head(torch.zeros(3, 6, dtype=torch.float64))
    assert (head(x + y) - (head(x) + head(y) - zero)).abs().max() > 1e-2
    first, second = head[0], head[-1]
    by_hand = second(F.gelu(first(x)))
    torch.testing.assert_close(head(x), by_hand)
