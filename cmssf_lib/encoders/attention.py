"""Where a vision transformer looks."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmssf_lib.encoders.vision import ImageEncoder


@torch.no_grad()
def cls_attention(
    encoder: ImageEncoder,
    images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"],
    size: int | None = None,
) -> Float[Tensor, "b heads rows columns"]:
    """Return how much [CLS] attends to each patch in the last block.

    The weights of a head sum to one over all tokens; what is missing here is what [CLS] gives
    to itself. The encoder is used in the mode it is in: call ``eval()`` first.

    Args:
        encoder: With a vision transformer.
        images: uint8, or floats in [0, 1]; other sizes are resized.
        size: Side in pixels to work at; ``None`` for ``image_size``. A larger one gives a finer
            map (position embeddings are interpolated).

    Raises:
        ValueError: As `ImageEncoder.tokens`.

    References:
        Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO),
        figures 1 and 3.
    """
    rows, columns = encoder.grid(size)
    last = encoder.transformer.blocks[-1].attn
    seen: list[Tensor] = []  # what the last attention is given; fused kernels hide their weights
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        encoder.tokens(images, size=size)
    finally:
        hook.remove()
    b, n, _ = seen[0].shape
    qkv = last.qkv(seen[0]).reshape(b, n, 3, last.num_heads, last.head_dim)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)  # (b, heads, n, head_dim) each
    query, key = last.q_norm(query[:, :, :1]), last.k_norm(key)
    weights = (last.scale * query @ key.transpose(2, 3)).softmax(dim=3)  # (b, heads, 1, n)
    return weights[:, :, 0, 1:].reshape(b, last.num_heads, rows, columns)
