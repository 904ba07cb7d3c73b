"""Contrastive losses between pictures and texts, as pure functions of embeddings.

Every loss takes raw embeddings, normalises them to unit length and returns one number: the mean
cross-entropy over all rows, each of which must find its partner. All losses are softmax
cross-entropies of a matrix of cosine similarities. They differ in which entries count as partners
(positives) and which are left out.

The papers use two conventions for the sharpness of the softmax. SimCLR divides by a *temperature*
(see `cmssf_lib.losses.two_views`); CLIP multiplies by a *logit scale*, its inverse. Each function
follows its paper's convention and sets no default.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.losses.chunked import chunked_loss
from cmssf_lib.losses.precision import group_numbers, in_float32, require_pairs

LogitScale = Float[Tensor, ""] | float


@in_float32
def image_text_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    logit_scale: LogitScale,
    *,
    chunk: int = 0,
) -> Float[Tensor, ""]:
    """Compute the symmetric image–text loss with one-hot targets, as in CLIP.

    Each image must find its own text among all texts of the batch, and each text its own image.
    If all embeddings are identical, the loss is ln(batch). If captions repeat within the batch,
    the loss cannot fall below `duplicate_floor`, however good the model is.

    Args:
        image: Image embeddings.
        text: Text embeddings; row i belongs to row i of `image`.
        logit_scale: Multiplies the cosine similarities: 1 / temperature, not its logarithm. If it
            is a tensor, gradients flow into it.
        chunk: Number of rows of the similarity matrix to hold in memory at a time (see
            `cmssf_lib.losses.chunked`); 0 means all.

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    Raises:
        ValueError: The shapes differ, there are fewer than two pairs, `logit_scale` <= 0, or
            `chunk` < 0.

    References:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
        Supervision" (CLIP), figure 3.
    """
    _require_valid(image, text, logit_scale, chunk)
    if chunk:
        return chunked_loss(image, text, logit_scale, chunk)
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = logit_scale * image @ text.T  # (batch, batch)
    partner = torch.arange(len(logits), device=logits.device)  # row i belongs to column i
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2


@in_float32
def multi_positive_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, " batch"],
    logit_scale: LogitScale,
    *,
    chunk: int = 0,
) -> Float[Tensor, ""]:
    """Compute the symmetric image–text loss with targets spread evenly over each group.

    If n pairs of the batch share a caption, each of their n texts is a correct answer and gets 1/n
    of the target. The targets' entropy is ln n, so the minimum is again `duplicate_floor`: this
    loss has no false negatives, but it does not reach zero. `excess_loss` does.

    Args:
        image: Image embeddings.
        text: Text embeddings; row i belongs to row i of `image`.
        groups: Equal numbers mark equal captions (or classes).
        logit_scale: Multiplies the cosine similarities: 1 / temperature.
        chunk: Number of rows to hold in memory at a time; 0 means all.

    Returns:
        The mean of the image-to-text and the text-to-image soft cross-entropy.

    Raises:
        ValueError: As `image_text_loss`, or if `groups` does not have one number per pair.

    References:
        Khosla et al. 2020, "Supervised Contrastive Learning" (SupCon), equation 2, the form
        L_out, with texts as the contrast to images and images to texts; Yang et al. 2022,
        "Unified Contrastive Learning in Image-Text-Label Space" (UniCL).
    """
    _require_valid(image, text, logit_scale, chunk, groups)
    if chunk:
        return chunked_loss(image, text, logit_scale, chunk, groups)
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = logit_scale * image @ text.T  # (batch, batch)
    same = groups[:, None] == groups
    targets = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)  # symmetric; rows sum to 1
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


@in_float32
def masked_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, " batch"],
    logit_scale: LogitScale,
    *,
    chunk: int = 0,
) -> Float[Tensor, ""]:
    """Compute the symmetric image–text loss without false negatives.

    The other pairs of the same group are neither positives nor negatives: they are left out of
    the denominator. Each row then has one positive and only true negatives, so the minimum is
    zero. If all pairs of a batch share one group, no negatives remain and the loss is 0.
    Arguments and errors are those of `multi_positive_loss`.

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    References:
        Huynh et al. 2022, "Boosting Contrastive Self-Supervised Learning with False Negative
        Cancellation", where this is called elimination. The paper has to guess which negatives
        are false; here `groups` says so.
    """
    _require_valid(image, text, logit_scale, chunk, groups)
    if chunk:
        return chunked_loss(image, text, logit_scale, chunk, groups, masked=True)
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    false_negative = (groups[:, None] == groups).fill_diagonal_(False)
    logits = (logit_scale * image @ text.T).masked_fill(false_negative, -math.inf)
    partner = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2


@in_float32
def excess_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, " batch"],
    logit_scale: LogitScale,
    *,
    chunk: int = 0,
) -> Float[Tensor, ""]:
    """Compute how far `multi_positive_loss` is above its minimum.

    Cross-entropy minus the entropy of the targets is a Kullback–Leibler divergence, so the result
    is never negative (beyond rounding) and reaches zero for a perfect model. The entropy is
    constant for a batch, so the gradient is that of `multi_positive_loss`. Arguments and errors
    are the same, too.

    Returns:
        KL(targets || softmax), averaged over both directions.

    References:
        KL(t || p) = H(t, p) - H(t), for the targets t of SupCon (Khosla et al. 2020, equation 2).
    """
    cross_entropy = multi_positive_loss(image, text, groups, logit_scale, chunk=chunk)
    return cross_entropy - duplicate_floor(groups, cross_entropy.dtype)


def duplicate_floor(
    groups: Int[Tensor, " batch"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, ""]:
    """Compute the minimum of the one-hot and the multi-positive loss on a batch.

    If n texts of a batch are equal, so are their embeddings, and an image cannot give its own text
    more than 1/n of the probability. This costs ln n. The mean of ln n over all rows is a lower
    bound in both directions.

    Args:
        groups: Equal numbers mark equal captions.
        dtype: Data type of the result.

    Returns:
        The mean over all rows of ln(number of rows in the same group).

    Raises:
        ValueError: `groups` is empty or not one-dimensional.
    """
    if groups.ndim != 1 or len(groups) == 0:
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}; expected one number per pair, at least one."
        )
    group, size = group_numbers(groups)
    return size[group].to(dtype).log().mean()  # size[group]: (batch,)


def expected_floor(batch_size: int, classes: int) -> float:
    """Compute the mean of `duplicate_floor` over random batches with one caption per class.

    Each of the other batch_size - 1 rows shares the class of a given row with probability
    1 / classes, so the number of equal captions is 1 + Bin(batch_size - 1, 1 / classes).
    The expectation of its logarithm is an exact sum, without sampling.

    Args:
        batch_size: Number of pairs in a batch.
        classes: Number of equally frequent classes, each with a single caption.

    Returns:
        E[ln n_dup] in nats; 2.585 for batches of 128 and ten classes.

    Raises:
        ValueError: `batch_size` or `classes` is below 1.
    """
    if batch_size < 1 or classes < 1:
        raise ValueError(f"batch_size={batch_size}, classes={classes}: both must be at least 1.")
    if classes == 1:
        return math.log(batch_size)
    more = torch.arange(batch_size, dtype=torch.float64)  # other rows of the class
    chance = torch.tensor(1 / classes, dtype=torch.float64)
    probability = torch.distributions.Binomial(batch_size - 1, chance).log_prob(more).exp()
    return float((probability * more.log1p()).sum())


def _require_valid(
    image: Float[Tensor, "..."],
    text: Float[Tensor, "..."],
    logit_scale: LogitScale,
    chunk: int,
    groups: Int[Tensor, "..."] | None = None,
) -> None:
    """Refuse arguments for which no image–text loss is defined."""
    require_pairs(image, text)
    if groups is not None and groups.shape != (len(image),):
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}; expected one number per pair ({len(image)},)."
        )
    if chunk < 0:
        raise ValueError(f"chunk is {chunk}; expected the number of rows at a time, or 0 for all.")
    if isinstance(logit_scale, Tensor) and logit_scale.device.type != "cpu":
        return  # to look at it, the CPU would have to wait for the GPU
    # Detached only for this check: `logit_scale` itself stays in the graph.
    value = float(logit_scale.detach()) if isinstance(logit_scale, Tensor) else logit_scale
    if value <= 0:
        raise ValueError(
            f"logit_scale is {value}; expected the multiplier 1 / temperature, > 0. "
            "If you hold its logarithm, pass log_scale.exp()."
        )
