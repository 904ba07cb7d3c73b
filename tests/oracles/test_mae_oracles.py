"""MAE against lightly's patches and, weight for weight, the transformers library's model."""

import re

import pytest
import torch
from settings import MAEConfig, VisionConfig
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from cmssf_lib.data import digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.losses import normalise_patches, patchify, unpatchify
from cmssf_lib.methods import MAE

WIDTH, NARROW, SIZE = 32, 24, 16


@pytest.mark.parametrize(("side", "patch"), [(8, 4), (16, 4), (12, 3), (4, 4)])
def test_patches_are_lightlys(side, patch):
    utils = pytest.importorskip("lightly.models.utils", reason="lightly is an oracle of this test")
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    patches = patchify(images, patch)
    assert torch.equal(patches, utils.patchify(images, patch))
    n = side // patch
    assert torch.equal(unpatchify(patches, patch, n, n), utils.unpatchify(patches, patch))
    torch.testing.assert_close(
        normalise_patches(patches), utils.normalize_mean_var(patches), atol=1e-6, rtol=1e-5
    )


def build(normalise: bool, ratio: float) -> tuple[MAE, ViTMAEForPreTraining]:
    """The same model twice: the oracle gets our weights."""
    torch.manual_seed(0)
    ours = MAE(
        ImageEncoder(
            VisionConfig(
                kind="plain", image_size=SIZE, width=WIDTH, mean=(0.0,) * 3, std=(1.0,) * 3
            )
        ),
        MAEConfig(mask_ratio=ratio, width=NARROW, depth=2, heads=3, normalise=normalise),
    ).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, where a mistake would not show
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    oracle = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=SIZE,
            patch_size=4,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=4 * WIDTH,
            decoder_hidden_size=NARROW,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=3,
            decoder_intermediate_size=4 * NARROW,
            mask_ratio=ratio,
            norm_pix_loss=normalise,
            layer_norm_eps=1e-6,
        )
    ).eval()
    weights = ours.state_dict()
    copied = {}
    for name in oracle.state_dict():
        if name == "decoder.decoder_pos_embed":
            zero = torch.zeros(1, NARROW)  # [CLS] has no place
            copied[name] = torch.cat([zero, ours.positions])[None]
        elif part := re.search(r"(?:attention\.)([qkv]|query|key|value)(?:_proj)?\.", name):
            prefix = our_name(name[: part.start()] + "attn.qkv." + name[part.end() :])
            third = "qkv".index(part[1][0])
            copied[name] = weights[prefix].chunk(3)[third]
        else:
            copied[name] = weights[our_name(name)]
    oracle.load_state_dict(copied)
    return ours, oracle


def our_name(name: str) -> str:
    """Find our parameter for one of the oracle's, older spellings of it included."""
    for theirs, our in (
        (r"^vit\.encoder\.layer\.", "vit.layers."),
        (r"attention\.attention\.", "attention."),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"(?<=\d\.)output\.dense", "mlp.fc2"),
        (r"attention\.attn", "attn"),
        (r"attention\.o_proj", "attn.proj"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"^decoder\.decoder_layers\.", "decoder."),
        (r"^decoder\.decoder_norm", "decoder.2"),
        (r"^decoder\.mask_token", "mask_token"),
        (r"^decoder\.decoder_embed", "decoder_embed"),
        (r"^decoder\.decoder_pred", "decoder_pixels"),
        (r"^vit\.embeddings\.cls_token", "image_encoder.backbone.cls_token"),
        (r"^vit\.embeddings\.position_embeddings", "image_encoder.backbone.pos_embed"),
        (r"^vit\.embeddings\.patch_embeddings\.proj\w+", "image_encoder.backbone.patch_embed.proj"),
        (r"^vit\.layers\.", "image_encoder.backbone.blocks."),
        (r"^vit\.layernorm", "image_encoder.backbone.norm"),
    ):  # fmt: skip
        name = re.sub(theirs, our, name)
    return name


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_mask_guess_loss_and_gradient_are_the_transformers_librarys(normalise, ratio):
    ours, oracle = build(normalise, ratio)
    data = digit_scenes("colour", train=6, test=1, image_size=SIZE).train
    batch = make_batch(data, torch.arange(6))
    noise = torch.rand(6, 16, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(3)  # the first thing that `loss` draws in evaluation is this noise
    loss = ours.loss(batch)["loss"]
    expected = oracle(batch.images.float() / 255, noise=noise)
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=1e-5)

    keep = noise.argsort(dim=1)[:, : int(16 * (1 - ratio))]
    guess = ours.decode(ours.image_encoder.tokens(batch.images, keep=keep), keep)
    torch.testing.assert_close(guess, expected.logits, atol=1e-5, rtol=1e-4)
    mask = ours.reconstruct(batch.images, torch.Generator().manual_seed(3))[1]
    assert torch.equal(mask.flatten(1), expected.mask.bool())

    (gradient,) = torch.autograd.grad(loss, ours.image_encoder.backbone.patch_embed.proj.weight)
    (theirs,) = torch.autograd.grad(
        expected.loss, oracle.vit.embeddings.patch_embeddings.projection.weight
    )
    assert theirs.abs().max() > 1e-4
    torch.testing.assert_close(gradient, theirs, atol=1e-4, rtol=1e-4)
