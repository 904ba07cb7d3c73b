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
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

LogitScale = Float[Tensor, ""] | float


def image_text_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    logit_scale: LogitScale,
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

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    Raises:
        ValueError: The shapes differ, there are fewer than two pairs, or `logit_scale` <= 0.

    References:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
        Supervision" (CLIP), figure 3.
    """
    logits = _logits(image, text, logit_scale)  # (batch, batch): rows images, columns texts
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def multi_positive_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, "batch"],
    logit_scale: LogitScale,
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

    Returns:
        The mean of the image-to-text and the text-to-image soft cross-entropy.

    Raises:
        ValueError: The shapes differ, there are fewer than two pairs, `groups` does not have one
            number a pair, or `logit_scale` <= 0.

    References:
        Khosla et al. 2020, "Supervised Contrastive Learning" (SupCon), equation 2, the form
        L_out, with texts as the contrast to images and images to texts; Yang et al. 2022,
        "Unified Contrastive Learning in Image-Text-Label Space" (UniCL).
    """
    logits = _logits(image, text, logit_scale)  # (batch, batch)
    same = _same_group(groups, len(logits)).to(logits.dtype)
    targets = same / same.sum(dim=1, keepdim=True)  # rows sum to 1; symmetric, as `same` is
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def masked_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, "batch"],
    logit_scale: LogitScale,
) -> Float[Tensor, ""]:
    """Symmetric image–text loss without the false negatives.

    The other pairs of the same group are neither partners nor negatives: they leave the
    denominator. What remains is one partner against true negatives, and its minimum is zero. In
    a batch where all pairs share one group nothing remains to be told apart: the loss is 0.

    Args:
        image: Image embeddings.
        text: Text embeddings; row i belongs to row i of `image`.
        groups: Equal numbers mark equal captions (or classes).
        logit_scale: Multiplies the cosine similarities: 1 / temperature.

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    Raises:
        ValueError: As `multi_positive_loss`.

    References:
        Huynh et al. 2022, "Boosting Contrastive Self-Supervised Learning with False Negative
        Cancellation", there called elimination; here the labels, not a guess, say which
        negatives are false.
    """
    logits = _logits(image, text, logit_scale)  # (batch, batch)
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    false_negative = _same_group(groups, len(logits)) & ~itself
    logits = logits.masked_fill(false_negative, float("-inf"))  # exp(-inf) adds nothing
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def excess_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, "batch"],
    logit_scale: LogitScale,
) -> Float[Tensor, ""]:
    """What `multi_positive_loss` has left to lose: itself minus its floor.

    Cross-entropy minus the targets' entropy is a Kullback–Leibler divergence, so this is never
    negative (beyond rounding) and reaches zero for a perfect model. The floor is a constant of
    the batch: the gradient is that of `multi_positive_loss`.

    Args:
        image: Image embeddings.
        text: Text embeddings; row i belongs to row i of `image`.
        groups: Equal numbers mark equal captions (or classes).
        logit_scale: Multiplies the cosine similarities: 1 / temperature.

    Returns:
        KL(targets || softmax), the mean over both directions.

    Raises:
        ValueError: As `multi_positive_loss`.

    References:
        KL(t || p) = H(t, p) - H(t), for the targets t of SupCon (Khosla et al. 2020, equation 2).
    """
    cross_entropy = multi_positive_loss(image, text, groups, logit_scale)
    duplicates = _same_group(groups, len(image)).sum(dim=1)
    return cross_entropy - duplicates.to(cross_entropy.dtype).log().mean()


def duplicate_floor(groups: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """The least value that the one-hot and the multi-positive loss can take on this batch.

    If n texts of a batch are the same text, with the same embedding, an image cannot give its own
    more than 1/n of its probability, which costs ln n. The mean of ln n over the rows bounds both
    directions.

    Args:
        groups: Equal numbers mark equal captions.

    Returns:
        The mean over all rows of ln(how many rows share this row's group).

    Raises:
        ValueError: `groups` is empty or not one-dimensional.
    """
    if groups.ndim != 1 or len(groups) == 0:
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}; expected one number a pair, at least one."
        )
    return _same_group(groups, len(groups)).sum(dim=1).float().log().mean()


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
    others, p = batch_size - 1, 1 / classes
    total = 0.0
    for k in range(others + 1):
        # Logarithms, because the binomial coefficients of a large batch overflow a float.
        log_choose = math.lgamma(others + 1) - math.lgamma(k + 1) - math.lgamma(others - k + 1)
        log_probability = log_choose + k * math.log(p) + (others - k) * math.log1p(-p)
        total += math.exp(log_probability) * math.log(1 + k)
    return total


def _logits(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    logit_scale: LogitScale,
) -> Float[Tensor, "batch batch"]:
    """Scaled cosine similarity of every image (rows) to every text (columns)."""
    check_pairs(image, text)
    # Read the value only: `logit_scale` itself stays in the graph.
    value = float(logit_scale.detach()) if isinstance(logit_scale, Tensor) else logit_scale
    if value <= 0:
        raise ValueError(
            f"logit_scale is {value}; expected the multiplier 1 / temperature, > 0. "
            "If you hold its logarithm, pass log_scale.exp()."
        )
    return logit_scale * (F.normalize(image, dim=1) @ F.normalize(text, dim=1).T)


def _same_group(groups: Int[Tensor, "groups"], batch: int) -> Bool[Tensor, "batch batch"]:
    """True where two pairs share a group; the diagonal is always True."""
    if groups.shape != (batch,):
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}; expected one number a pair: ({batch},)."
        )
    return groups[:, None] == groups[None, :]


def check_pairs(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse what would otherwise give a number without meaning.

    Raises:
        ValueError: If the shapes differ, or there are fewer than two pairs.
    """
    check_shapes(a, b)
    if len(a) < 2:
        raise ValueError(
            f"a contrastive loss needs at least two pairs, got {len(a)}: without a second pair "
            "there is no negative and the loss is 0 whatever the model does. Use a larger batch, "
            "or drop the last incomplete one."
        )


def check_shapes(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse embeddings that are not pairs.

    Raises:
        ValueError: If the shapes differ or are not ``(pairs, dim)``, or there is no pair.
    """
    if a.ndim != 2 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            "expected two of the same shape (pairs, dim), row i of one belonging to row i of the "
            "other, and at least one pair."
        )
