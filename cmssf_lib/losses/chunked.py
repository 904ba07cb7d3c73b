"""Large batches in little memory: encode a few inputs, or compute a few rows, at a time.

The similarity matrix has batch² entries. Kept for the backward pass, they can take more memory than
the towers of a small model. With only ``rows`` rows at a time, the memory is rows · batch instead.
Loss and gradients do not change (up to rounding), because each softmax still sees its whole row.
The price: every row is computed a second time in the backward pass.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Inputs = TypeVar("Inputs", Tensor, Sequence[str])


def chunked_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    logit_scale: Float[Tensor, ""] | float,
    rows: int,
    groups: Int[Tensor, " batch"] | None = None,
    *,
    masked: bool = False,
) -> Float[Tensor, ""]:
    """Compute a loss of `cmssf_lib.losses.clip`, which calls this, in chunks of rows.

    The image-to-text cross-entropies run along the rows, and each chunk holds complete rows. The
    text-to-image ones run down the columns: each chunk returns the log-sum-exp of its part of
    every column, and the log-sum-exp of these parts is that of the whole column. One matrix serves
    both directions, because the partner relation is symmetric.

    Args:
        image: Image embeddings, in float32 or float64.
        text: Text embeddings; row i belongs to row i of `image`.
        logit_scale: Multiplies the cosine similarities.
        rows: Number of rows of the matrix to hold in memory at a time, > 0.
        groups: Equal numbers mark equal captions. Computes `multi_positive_loss`, or
            `masked_loss` with ``masked``. ``None`` computes `image_text_loss`.
        masked: Whether to leave out the other pairs of a group.

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    References:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", for recomputing a part
        in the backward pass.
    """
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    # Each column's positive logit, as a constant to subtract. Without it, a column's loss would be
    # a small difference of two large numbers, and mostly rounding error.
    level = (logit_scale * (image * text).sum(dim=1)).detach()  # (batch,)

    def some_rows(asking: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = logit_scale * asking @ text.T  # (rows, batch)
        target = row  # row i's partner is column i
        if groups is not None:
            same = groups[row, None] == groups
            if masked:
                others = same.scatter(1, row[:, None], False)
                # Its exponential is 0. Not -inf: a column of only -inf has a NaN gradient.
                logits = logits.masked_fill(others, torch.finfo(logits.dtype).min)
            else:
                target = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
        image_to_text = F.cross_entropy(logits, target, reduction="sum")
        column = logits - level
        right = column.gather(1, row[:, None]) if target is row else target * column
        return image_to_text, column.logsumexp(dim=0), right.sum()

    row = torch.arange(len(image), device=image.device)
    parts = [  # stores no similarities for the backward pass: computes them again
        checkpoint(some_rows, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(torch.split(image, rows), torch.split(row, rows), strict=True)
    ]
    image_to_text, columns, right = (torch.stack(part) for part in zip(*parts, strict=True))
    text_to_image = columns.logsumexp(dim=0).sum() - right.sum()
    return (image_to_text.sum() + text_to_image) / (2 * len(image))


def in_parts(
    encode: Callable[[Inputs], Float[Tensor, "n dim"]], inputs: Inputs, size: int
) -> Float[Tensor, "n dim"]:
    """Encode a few inputs at a time and keep only the embeddings of each part.

    The backward pass encodes each part again, with the same random numbers, to compute its
    gradient. A batch of any size thus needs the memory of one part, and its loss still compares
    all pairs.

    Args:
        encode: A tower without batch norm, which would normalise each part separately.
        inputs: Pictures or captions.
        size: Inputs per part; 0 encodes all at once.

    Returns:
        The embeddings of all inputs, in order.

    References:
        Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
        (GradCache).
    """
    if not size:
        return encode(inputs)
    starts = range(0, len(inputs), size)
    parts = [checkpoint(encode, inputs[i : i + size], use_reentrant=False) for i in starts]
    return torch.cat(parts)
