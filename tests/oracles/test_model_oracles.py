"""The whole model against the dual encoder of the transformers library, weight for weight.

`VisionTextDualEncoderModel` is a ViT, a BERT, a pooler (linear, tanh) and a projection on either
side, and the symmetric loss. Pooler and projection together are a head with one hidden layer, so
with tanh in place of GELU it is CMSSF: every weight has its counterpart and all numbers must agree.
"""

import re

import pytest
import torch
from settings import CMSSFConfig, TextConfig, VisionConfig, new_cmssf
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from cmssf_lib.data import digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.encoders import tokenize
from cmssf_lib.methods import CMSSF

WIDTH, DEPTH, HEADS, DIM, SIZE, LENGTH, TEMPERATURE = 32, 2, 4, 24, 16, 16, 0.07


@pytest.fixture(scope="module")
def batch():
    data = digit_scenes(train=64, test=1, image_size=SIZE).train
    index = torch.arange(len(data.unique_captions))[:12]
    first = torch.tensor([data.captions.index(data.unique_captions[i]) for i in index])
    return make_batch(data, torch.cat([first, first[:3]]))  # three pictures come twice


@pytest.fixture(scope="module")
def ours(batch) -> CMSSF:
    torch.manual_seed(0)
    method = new_cmssf(
        VisionConfig(kind="plain", image_size=SIZE, width=WIDTH, depth=DEPTH, heads=HEADS),
        TextConfig(width=WIDTH, depth=DEPTH, heads=HEADS, max_length=LENGTH),
        CMSSFConfig(dim=DIM, hidden=WIDTH, temperature=TEMPERATURE),
        batch.captions,
    )
    for head in (method.image_head, method.text_head):
        head[1] = nn.Tanh()
        head[2].bias = None  # the oracle's projections have none
    with torch.no_grad():  # biases and norms start at 0 and 1, where a mistake would not show
        for parameter in method.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def current_name(name: str) -> str:
    """Rename a parameter of an older transformers' ViT to what the current one calls it."""
    for old, new in (
        (r"^encoder\.layer\.", "layers."),
        (r"attention\.attention\.(query|key|value)", lambda m: f"attention.{m[1][0]}_proj"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"(?<=\d\.)output\.dense", "mlp.fc2"),
    ):
        name = re.sub(old, new, name)
    return name


def timm_name(name: str) -> str:
    """Find the parameter of timm's transformer that is this one of the oracle's."""
    for theirs, our in (
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layers.", "blocks."),
        ("attention.o_proj", "attn.proj"),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("layernorm.", "norm."),
    ):
        name = name.replace(theirs, our)
    return name


@pytest.fixture(scope="module")
def oracle(ours) -> VisionTextDualEncoderModel:
    shared = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
    }
    vit = ViTModel(ViTConfig(image_size=SIZE, patch_size=4, layer_norm_eps=1e-6, **shared))
    bert = BertModel(
        BertConfig(
            vocab_size=len(ours.text_encoder.tokenizer), max_position_embeddings=LENGTH, **shared
        )
    )
    model = VisionTextDualEncoderModel(vision_model=vit, text_model=bert)
    model.visual_projection = nn.Linear(WIDTH, DIM, bias=False)
    model.text_projection = nn.Linear(WIDTH, DIM, bias=False)

    vision = ours.image_encoder.backbone.state_dict()
    copied = {}
    for name in vit.state_dict():
        short = current_name(name)
        if short.startswith("pooler"):
            copied[name] = ours.image_head[0].state_dict()[short.rpartition(".")[2]]
        elif part := re.search(r"attention\.([qkv])_proj", short):
            whole = vision[timm_name(short).replace(part[0], "attn.qkv")]
            copied[name] = whole.chunk(3)["qkv".index(part[1])]  # timm keeps the three in one
        else:
            copied[name] = vision[timm_name(short)]
    vit.load_state_dict(copied)  # strict: no weight of the oracle is left to chance
    pooler = {f"pooler.dense.{k}": v for k, v in ours.text_head[0].state_dict().items()}
    bert.load_state_dict({**ours.text_encoder.backbone.state_dict(), **pooler})
    model.visual_projection.load_state_dict(ours.image_head[2].state_dict())
    model.text_projection.load_state_dict(ours.text_head[2].state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(ours.log_scale)
    return model


def ask(oracle: VisionTextDualEncoderModel, ours: CMSSF, batch):
    """Give the oracle the same pixels and one caption a picture, repeats and all."""
    captions = [batch.captions[i] for i in batch.caption_index.tolist()]
    ids, mask = tokenize(ours.text_encoder.tokenizer, captions)
    pixels = (batch.images / 255 - 0.5) / 0.25
    return oracle(input_ids=ids, attention_mask=mask, pixel_values=pixels, return_loss=True)


def test_the_whole_model_is_the_dual_encoder_of_transformers(ours, oracle, batch):
    ours.eval(), oracle.eval()
    with torch.no_grad():
        answer = ask(oracle, ours, batch)
        image = ours.encode_image(batch.images)
        text = ours.encode_text(batch.captions)[batch.caption_index]
        out = ours.loss(batch)
    image_oracle = nn.functional.normalize(answer.image_embeds, dim=1)
    text_oracle = nn.functional.normalize(answer.text_embeds, dim=1)
    assert image.std(dim=0).min() > 1e-3  # vectors that were all alike would agree by accident
    assert text.std(dim=0).min() > 1e-3
    torch.testing.assert_close(image, image_oracle, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(text, text_oracle, atol=1e-5, rtol=1e-4)
    logits = ours.logit_scale * image @ text.T
    torch.testing.assert_close(logits, answer.logits_per_image, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(out["loss"], answer.loss, atol=1e-5, rtol=1e-5)


def test_its_gradients_are_the_dual_encoders(ours, oracle, batch):
    ours.eval(), oracle.eval()  # without the oracle's dropout
    ours.zero_grad(), oracle.zero_grad()
    ours.loss(batch)["loss"].backward()
    ask(oracle, ours, batch).loss.backward()
    vit = {current_name(n): p.grad for n, p in oracle.vision_model.named_parameters()}
    bert = dict(oracle.text_model.named_parameters())
    heads = [
        (ours.log_scale.grad, oracle.logit_scale.grad),
        (ours.image_head[0].weight.grad, vit["pooler.dense.weight"]),
        (ours.image_head[2].weight.grad, oracle.visual_projection.weight.grad),
        (ours.text_head[2].weight.grad, oracle.text_projection.weight.grad),
    ]
    vision = [
        (p.grad, vit[name])
        for name in vit
        if "_proj" not in name or "o_proj" in name
        for n, p in ours.image_encoder.backbone.named_parameters()
        if n == timm_name(name)
    ]
    text = [(p.grad, bert[n].grad) for n, p in ours.text_encoder.backbone.named_parameters()]
    assert len(vision) == len(vit) - 2 - 6 * DEPTH  # all but the pooler and the split q, k, v
    assert len(text) == len(bert) - 2
    for gradient, expected in heads + vision + text:
        torch.testing.assert_close(gradient, expected, atol=2e-5, rtol=1e-3)
    assert max(g.abs().max() for g, _ in vision) > 1e-3
    assert max(g.abs().max() for g, _ in text) > 1e-3
