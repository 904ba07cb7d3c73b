"""Attention and the co-attention layer against PyTorch's and the transformers library's."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmssf_lib.fusion import Attention, Block, CoAttentionLayer, CrossAttention, attention

lxmert = pytest.importorskip(
    "transformers.models.lxmert.modeling_lxmert", reason="transformers is an oracle of this test"
)
WIDTH, HEADS = 24, 4


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_pytorchs(masked):
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, HEADS, n, 6, generator=random) for n in (5, 7, 7)]
    real = torch.rand(3, 7, generator=random) < 0.6 if masked else None
    if real is not None:
        real[:, 0] = True
    results = []
    for ours in (True, False):
        tensors = [x.clone().requires_grad_(True) for x in inputs]
        if ours:
            out = attention(*tensors, real)[0]
        else:
            mask = None if real is None else real[:, None, None, :]
            out = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
        results.append((out, torch.autograd.grad(out.square().sum(), tensors)))
    (ours, gradients), (theirs, their_gradients) = results
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for a, b in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def shaken(module):
    """Move every parameter: biases and norms start at 0 and 1, where a mistake would not show."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def test_attention_with_matrices_is_pytorchs_multi_head_attention():
    torch.manual_seed(0)
    ours = shaken(Attention(WIDTH, HEADS))
    oracle = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        oracle.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
    oracle.out_proj.load_state_dict(ours.out.state_dict())
    x, context = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    real = torch.arange(7) < torch.tensor([[7], [3]])
    expected = oracle(x, context, context, key_padding_mask=~real, average_attn_weights=False)
    for found, target in zip(ours(x, context, real), expected, strict=True):
        torch.testing.assert_close(found, target, atol=1e-5, rtol=1e-5)


def test_the_block_is_pytorchs_pre_norm_layer():
    torch.manual_seed(0)
    ours = shaken(Block(WIDTH, HEADS))
    oracle = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
    )
    parts = (ours.attention.query, ours.attention.key, ours.attention.value)
    with torch.no_grad():
        oracle.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        oracle.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
    for target, source in (
        (oracle.self_attn.out_proj, ours.attention.out),
        (oracle.linear1, ours.mlp[0]),
        (oracle.linear2, ours.mlp[2]),
        (oracle.norm1, ours.norm1),
        (oracle.norm2, ours.norm2),
    ):
        target.load_state_dict(source.state_dict())
    x, real = torch.randn(2, 6, WIDTH), torch.arange(6) < torch.tensor([[6], [4]])
    expected = oracle(x, src_key_padding_mask=~real)
    torch.testing.assert_close(ours(x, real), expected, atol=1e-5, rtol=1e-5)


def copy_attention(target, source: CrossAttention) -> None:
    """Give LXMERT's attention (``att`` or ``self``, and ``output``) our weights."""
    looks = target.att if hasattr(target, "att") else target.self
    for name in ("query", "key", "value"):
        getattr(looks, name).load_state_dict(getattr(source.attention, name).state_dict())
    target.output.dense.load_state_dict(source.attention.out.state_dict())
    target.output.LayerNorm.load_state_dict(source.norm.state_dict())


def lxmert_config():
    from transformers import LxmertConfig

    return LxmertConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH)


def streams():
    """Words with padding, patches without: and the masks in both libraries' forms."""
    words, patches = torch.randn(3, 6, WIDTH), torch.randn(3, 8, WIDTH)
    real = torch.arange(6) < torch.tensor([[6], [4], [2]])
    added = (~real)[:, None, None, :] * torch.finfo(torch.float32).min
    return words, patches, real, added


def test_cross_attention_is_lxmerts():
    torch.manual_seed(0)
    ours = shaken(CrossAttention(WIDTH, HEADS))
    oracle = lxmert.LxmertCrossAttentionLayer(lxmert_config()).eval()
    copy_attention(oracle, ours)
    words, patches, real, added = streams()
    expected = oracle(patches, words, added, output_attentions=True)
    for found, target in zip(ours(patches, words, real), expected, strict=True):
        torch.testing.assert_close(found, target, atol=1e-5, rtol=0)


def test_a_layer_with_shared_weights_is_lxmerts_cross_modality_layer():
    torch.manual_seed(0)
    ours = shaken(CoAttentionLayer(WIDTH, HEADS, shared=True))
    oracle = lxmert.LxmertXLayer(lxmert_config()).eval()
    copy_attention(oracle.visual_attention, ours.cross[0])
    for i, side in enumerate(("lang", "visn")):
        copy_attention(getattr(oracle, f"{side}_self_att"), ours.itself[i])
        own = ours.feed_forward[i]
        getattr(oracle, f"{side}_inter").dense.load_state_dict(own.mlp[0].state_dict())
        output = getattr(oracle, f"{side}_output")
        output.dense.load_state_dict(own.mlp[2].state_dict())
        output.LayerNorm.load_state_dict(own.norm.state_dict())
    words, patches, real, added = streams()
    expected = oracle(words, added, patches, None, output_attentions=True)
    new_words, new_patches, (weights, _) = ours(words, patches, real, None)
    for found, target in zip((new_words, new_patches, weights), expected, strict=True):
        torch.testing.assert_close(found, target, atol=1e-5, rtol=0)


def test_separate_weights_that_are_equal_are_shared_ones():
    torch.manual_seed(0)
    shared = shaken(CoAttentionLayer(WIDTH, HEADS, shared=True))
    separate = CoAttentionLayer(WIDTH, HEADS, shared=False)
    weights = shared.state_dict()
    again = {k.replace("cross.0", "cross.1"): v for k, v in weights.items() if "cross" in k}
    separate.load_state_dict(weights | again)
    words, patches, real, _ = streams()
    a, b = (layer(words, patches, real)[:2] for layer in (shared, separate))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
