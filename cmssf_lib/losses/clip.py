"""Contrastive losses between pictures and texts, as pure functions of embeddings.

Every function takes raw embeddings, normalises them to unit length itself, and returns one
number: the mean over all rows that were asked "which of these is your partner?". All of them are
softmax cross-entropies of a matrix of cosine similarities; they differ in which entries count as
partners and which entries are left out.

Two conventions exist for the sharpness of that softmax, and both appear in the papers. SimCLR
divides by a *temperature* (see `cmssf_lib.losses.two_views`); CLIP multiplies by a *logit
scale*, its inverse. Each function uses the convention of its paper and has no default for it.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.losses.chunked import chunked_loss
from cmssf_lib.losses.precision import in_float32, require_pairs

LogitScale = Float[Tensor, ""] | float


@in_float32
def image_text_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    logit_scale: LogitScale,
    *,
    chunk: int = 0,
) -> Float[Tensor, ""]:
    """Symmetric image–text loss with one-hot targets, as CLIP is trained.

    Each image looks for its own text among all texts of the batch, and each text for its own
    image. Identical embeddings everywhere give ln(batch). If captions repeat within the batch,
    the loss cannot fall below `duplicate_floor`, however good the model is.

    Args:
        image: Image embeddings.
        text: Text embeddings; row i belongs to row i of `image`.
        logit_scale: Multiplies the cosine similarities: 1 / temperature, not its logarithm. A
            tensor keeps its gradient.
        chunk: Rows of the matrix of similarities that are in memory at a time (see
            `cmssf_lib.losses.chunked`); 0: all.

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
    partner = torch.arange(len(logits), device=logits.device)  # row i's is column i
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
    """Symmetric image–text loss whose targets are uniform over the pairs of the same group.

    A caption that n pairs of the batch share is a right answer for n images, and each gets 1/n
    of the target. The targets' entropy is ln n, so the minimum is `duplicate_floor` again: this
    loss asks a fairer question, but it does not go to zero. `excess_loss` does.

    Args:
        image: Image embeddings.
        text: Text embeddings; row i belongs to row i of `image`.
        groups: Equal numbers mark equal captions (or classes).
        logit_scale: Multiplies the cosine similarities: 1 / temperature.
        chunk: Rows that are in memory at a time; 0: all.

    Returns:
        The mean of the image-to-text and the text-to-image soft cross-entropy.

    Raises:
        ValueError: As `image_text_loss`, or if `groups` does not have one number a pair.

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
    """Symmetric image–text loss without the false negatives.

    The other pairs of the same group are neither partners nor negatives: they leave the
    denominator. What remains is one partner against true negatives, and its minimum is zero. In
    a batch where all pairs share one group nothing remains to be told apart: the loss is 0.
    Arguments and errors are those of `multi_positive_loss`.

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    References:
        Huynh et al. 2022, "Boosting Contrastive Self-Supervised Learning with False Negative
        Cancellation", there called elimination; here the labels, not a guess, say which
        negatives are false.
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
    """What `multi_positive_loss` has left to lose: itself minus its floor.

    Cross-entropy minus the targets' entropy is a Kullback–Leibler divergence, so this is never
    negative (beyond rounding) and reaches zero for a perfect model. The floor is a constant of
    the batch: the gradient is that of `multi_positive_loss`. So are the arguments and errors.

    Returns:
        KL(targets || softmax), the mean over both directions.

    References:
        KL(t || p) = H(t, p) - H(t), for the targets t of SupCon (Khosla et al. 2020, equation 2).
    """
    cross_entropy = multi_positive_loss(image, text, groups, logit_scale, chunk=chunk)
    return cross_entropy - duplicate_floor(groups, cross_entropy.dtype)


def duplicate_floor(
    groups: Int[Tensor, " batch"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, ""]:
    """The least value that the one-hot and the multi-positive loss can take on this batch.

    If n texts of a batch are the same text, with the same embedding, an image cannot give its own
    more than 1/n of its probability, which costs ln n. The mean of ln n over the rows bounds both
    directions.

    Args:
        groups: Equal numbers mark equal captions.
        dtype: Of the result.

    Returns:
        The mean over all rows of ln(how many rows share this row's group).

    Raises:
        ValueError: `groups` is empty or not one-dimensional.
    """
    if groups.ndim != 1 or len(groups) == 0:
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}; expected one number a pair, at least one."
        )
    _, group, size = torch.unique(groups, return_inverse=True, return_counts=True)
    equal: Tensor = size[group]  # (batch,)
    return equal.to(dtype).log().mean()


def expected_floor(batch_size: int, classes: int) -> float:
    """The mean of `duplicate_floor` over random batches with one caption a class.

    Seen from one row, the other batch_size - 1 rows share its class with probability
    1 / classes each, so the number of equal captions is 1 + Bin(batch_size - 1, 1 / classes).
    The expectation of its logarithm is summed exactly.

    Args:
        batch_size: Pairs in a batch.
        classes: Equally frequent classes, each with a single caption.

    Returns:
        E[ln n_dup] in nats; 2.585 for batches of 128 and ten classes.

    Raises:
        ValueError: `batch_size` or `classes` is below 1.
    """
    if batch_size < 1 or classes < 1:
        raise ValueError(f"batch_size={batch_size}, classes={classes}: both must be at least 1.")
    if classes == 1:
        return math.log(batch_size)
    more = torch.arange(batch_size, dtype=torch.float64)  # rows that share the class besides
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
    """Refuse arguments that no image–text loss can be computed of."""
    require_pairs(image, text)
    if groups is not None and groups.shape != (len(image),):
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}; expected one number a pair: ({len(image)},)."
        )
    # Read the value only: `logit_scale` itself stays in the graph.
    value = float(logit_scale.detach()) if isinstance(logit_scale, Tensor) else logit_scale
    if value <= 0:
        raise ValueError(
            f"logit_scale is {value}; expected the multiplier 1 / temperature, > 0. "
            "If you hold its logarithm, pass log_scale.exp()."
        )
    if chunk < 0:
        raise ValueError(f"chunk is {chunk}; expected the number of rows at a time, or 0 for all.")
