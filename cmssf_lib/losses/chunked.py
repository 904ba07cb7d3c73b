"""Large batches in little memory: some inputs, or some rows of the similarities, at a time.

The matrix of similarities has batch² entries, and more of them are kept for the gradient than the
towers of a small model take. With ``rows`` of them at a time the memory is rows · batch instead.
Loss and gradients stay what they are (up to rounding): each row of a softmax is whole. The price is
that the rows are computed a second time on the way back.
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
    """Compute what the losses in `cmssf_lib.losses.clip` compute, which call this.

    The images' cross-entropies run along the rows, and each chunk holds its rows whole. The
    texts' run down the columns: of each column a chunk returns the log-sum-exp of its own part,
    and a log-sum-exp of all the parts makes it whole. One matrix serves both ways, because who is
    whose partner is symmetric.

    Args:
        image: Image embeddings, in float32 or float64.
        text: Text embeddings; row i belongs to row i of `image`.
        logit_scale: Multiplies the cosine similarities.
        rows: Rows of the matrix that are in memory at a time, > 0.
        groups: Equal numbers mark equal captions: the partners are those of `multi_positive_loss`,
            or of `masked_loss` with ``masked``. Without groups they are those of
            `image_text_loss`.
        masked: Whether the other pairs of a group are left out.

    References:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", for computing a part
        again on the way back.
    """
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    # A constant that is about as large as the column's right answer. Without it the column's loss
    # would be a small difference of two large numbers, most of it rounding.
    level = (logit_scale * (image * text).sum(dim=1)).detach()  # (batch,)

    def some_rows(asking: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = logit_scale * asking @ text.T  # (rows, batch)
        target = row  # row i's partner is column i
        if groups is not None:
            same = groups[row, None] == groups
            if masked:
                others = same.scatter(1, row[:, None], False)
                # Its exponential adds nothing. Not -inf: a column of nothing else has no gradient.
                logits = logits.masked_fill(others, torch.finfo(logits.dtype).min)
            else:
                target = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
        image_to_text = F.cross_entropy(logits, target, reduction="sum")
        column = logits - level
        right = column.gather(1, row[:, None]) if target is row else target * column
        return image_to_text, column.logsumexp(dim=0), right.sum()

    row = torch.arange(len(image), device=image.device)
    parts = [  # keeps no similarities for the gradient: makes them again
        checkpoint(some_rows, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(torch.split(image, rows), torch.split(row, rows), strict=True)
    ]
    image_to_text, columns, right = (torch.stack(part) for part in zip(*parts, strict=True))
    text_to_image = columns.logsumexp(dim=0).sum() - right.sum()
    return (image_to_text.sum() + text_to_image) / (2 * len(image))


def in_parts(
    encode: Callable[[Inputs], Float[Tensor, "n dim"]], inputs: Inputs, size: int
) -> Float[Tensor, "n dim"]:
    """Encode some inputs at a time, and keep of each part no more than its vectors.

    On the way back a part is encoded once more, with the same random numbers, and gets its
    gradient. So a batch of any size takes the memory of one part, and its loss still compares
    everything with everything.

    Args:
        encode: A tower without batch norm, which would norm each part by itself.
        inputs: Pictures or captions.
        size: How many at a time; 0: all at once.

    References:
        Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
        (GradCache).
    """
    if not size:
        return encode(inputs)
    starts = range(0, len(inputs), size)
    parts = [checkpoint(encode, inputs[i : i + size], use_reentrant=False) for i in starts]
    return torch.cat(parts)
