"""Contrastive losses between pictures and texts, as pure functions of embeddings.

Every function takes raw embeddings, normalises them to unit length itself, and returns one
number: the mean over all rows that were asked "which of these is your partner?". All of them are
softmax cross-entropies of a matrix of cosine similarities; they differ in which entries count as
partners and which entries are left out.

That matrix has batch² entries, and more of them are kept for the gradient than the towers of a
small model take. With ``chunk`` rows at a time the memory is chunk · batch instead. Loss and
gradients stay what they are (up to rounding): each row of a softmax is whole. The price is that
the rows are computed a second time on the way back.

Two conventions exist for the sharpness of that softmax, and both appear in the papers. SimCLR
divides by a *temperature* (see `cmssf_lib.losses.two_views`); CLIP multiplies by a *logit
scale*, its inverse. Each function uses the convention of its paper and has no default for it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cmssf_lib.losses.checks import check_pairs
from cmssf_lib.losses.floor import duplicate_floor

LogitScale = Float[Tensor, ""] | float
Logits = Float[Tensor, "rows batch"]
RowLogits = Float[Tensor, "rows"]
Rows = Int[Tensor, "rows"]


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
        chunk: Rows of the matrix of similarities that are in memory at a time; 0: all.

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    Raises:
        ValueError: The shapes differ, there are fewer than two pairs, `logit_scale` <= 0, or
            `chunk` < 0.

    References:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
        Supervision" (CLIP), figure 3.
    """

    def own(logits: Logits, row: Rows) -> tuple[Logits, RowLogits]:
        return logits, logits.gather(1, row[:, None])[:, 0]  # row i's partner is column i

    return _both_ways(own, image, text, logit_scale, chunk)


def multi_positive_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, "batch"],
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
        ValueError: The shapes differ, there are fewer than two pairs, `groups` does not have one
            number a pair, `logit_scale` <= 0, or `chunk` < 0.

    References:
        Khosla et al. 2020, "Supervised Contrastive Learning" (SupCon), equation 2, the form
        L_out, with texts as the contrast to images and images to texts; Yang et al. 2022,
        "Unified Contrastive Learning in Image-Text-Label Space" (UniCL).
    """
    _check_groups(groups, len(image))

    def shared(logits: Logits, row: Rows) -> tuple[Logits, RowLogits]:
        same = _same_group(groups, row).to(logits.dtype)
        targets = same / same.sum(dim=1, keepdim=True)  # rows sum to 1; and columns, as a whole
        return logits, (targets * logits).sum(dim=1)

    return _both_ways(shared, image, text, logit_scale, chunk)


def masked_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, "batch"],
    logit_scale: LogitScale,
    *,
    chunk: int = 0,
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
        chunk: Rows that are in memory at a time; 0: all.

    Returns:
        The mean of the image-to-text and the text-to-image cross-entropy.

    Raises:
        ValueError: As `multi_positive_loss`.

    References:
        Huynh et al. 2022, "Boosting Contrastive Self-Supervised Learning with False Negative
        Cancellation", there called elimination; here the labels, not a guess, say which
        negatives are false.
    """
    _check_groups(groups, len(image))

    def own(logits: Logits, row: Rows) -> tuple[Logits, RowLogits]:
        partner = logits.gather(1, row[:, None])[:, 0]
        false_negative = _same_group(groups, row).scatter(1, row[:, None], False)
        # Its exponential adds nothing. Not -inf: a column of nothing else has no gradient.
        return logits.masked_fill(false_negative, torch.finfo(logits.dtype).min), partner

    return _both_ways(own, image, text, logit_scale, chunk)


def excess_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    groups: Int[Tensor, "batch"],
    logit_scale: LogitScale,
    *,
    chunk: int = 0,
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
        chunk: Rows that are in memory at a time; 0: all.

    Returns:
        KL(targets || softmax), the mean over both directions.

    Raises:
        ValueError: As `multi_positive_loss`.

    References:
        KL(t || p) = H(t, p) - H(t), for the targets t of SupCon (Khosla et al. 2020, equation 2).
    """
    cross_entropy = multi_positive_loss(image, text, groups, logit_scale, chunk=chunk)
    return cross_entropy - duplicate_floor(groups)


def _both_ways(
    question: Callable[[Logits, Rows], tuple[Logits, RowLogits]],
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    logit_scale: LogitScale,
    chunk: int,
) -> Float[Tensor, ""]:
    """Ask every image about all texts and every text about all images; mean over the questions.

    A cross-entropy is a log-sum-exp minus the logit of the right answer. The images' sums run
    along the rows, the texts' down the columns of the same matrix, and who is whose partner is
    symmetric: one matrix serves both ways.

    Args:
        question: From the logits of some rows and the numbers of those rows, to the logits of
            which the sums are taken, and each row's logit of its partner, or their mean.
        image: Image embeddings.
        text: Text embeddings.
        logit_scale: Multiplies the cosine similarities.
        chunk: Rows at a time; 0: all.
    """
    check_pairs(image, text)
    # Read the value only: `logit_scale` itself stays in the graph.
    value = float(logit_scale.detach()) if isinstance(logit_scale, Tensor) else logit_scale
    if value <= 0:
        raise ValueError(
            f"logit_scale is {value}; expected the multiplier 1 / temperature, > 0. "
            "If you hold its logarithm, pass log_scale.exp()."
        )
    if chunk < 0:
        raise ValueError(f"chunk is {chunk}; expected the number of rows at a time, or 0 for all.")
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)

    def some_rows(asking: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        similarity = (asking @ text.T).to(image.dtype)  # autocast's product is half precision
        logits, partners = question(logit_scale * similarity, row)
        return partners, logits.logsumexp(dim=1), logits.logsumexp(dim=0)

    row = torch.arange(len(image), device=image.device)
    if chunk:  # keeps no similarities for the gradient: makes them again
        parts = [
            checkpoint(some_rows, *rows, use_reentrant=False, preserve_rng_state=False)
            for rows in zip(image.split(chunk), row.split(chunk), strict=True)
        ]
    else:
        parts = [some_rows(image, row)]
    partners, along, down = zip(*parts, strict=True)
    columns = torch.stack(down).logsumexp(dim=0)  # of the chunks' own sums
    # Row by row, so that large logits cancel before they are added up.
    return (torch.cat(along) + columns - 2 * torch.cat(partners)).mean() / 2


def _check_groups(groups: Int[Tensor, "groups"], batch: int) -> None:
    """Refuse groups that do not belong to the pairs."""
    if groups.shape != (batch,):
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}; expected one number a pair: ({batch},)."
        )


def _same_group(
    groups: Int[Tensor, "batch"], row: Int[Tensor, "rows"]
) -> Bool[Tensor, "rows batch"]:
    """True where the pair of a row and that of a column share a group; a row and itself do."""
    return groups[row, None] == groups
