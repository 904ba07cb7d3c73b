"""Contrastive losses between two views of a picture, as pure functions of embeddings.

Like the image–text losses, these take raw embeddings, normalise them to unit length and return
the mean cross-entropy over all rows, each of which must find its partner. They differ in where
the negatives come from: the rest of the batch (SimCLR), a queue of earlier batches (MoCo), or the
other classes (SupCon).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.losses.precision import (
    in_float32,
    require_pairs,
    require_shapes,
    require_temperature,
)


@in_float32
def nt_xent(
    a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"], temperature: float
) -> Float[Tensor, ""]:
    """Compute NT-Xent, the "normalised temperature-scaled cross-entropy" of two views.

    Each of the 2n rows must find its other view among the 2n - 1 rows that are not itself. If all
    embeddings are identical, the loss is ln(2n - 1).

    Args:
        a: Embeddings of the first views.
        b: Embeddings of the second views; row i belongs to row i of `a`.
        temperature: Divides the cosine similarities. Small values sharpen the softmax.

    Returns:
        The mean loss over all 2n rows.

    Raises:
        ValueError: The shapes differ, there are fewer than two pairs, or `temperature` <= 0.

    References:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
        Representations" (SimCLR), equation 1 and algorithm 1.
    """
    similarity = _similarity(a, b, temperature)  # (2n, 2n)
    n = len(a)
    partner = torch.arange(2 * n, device=a.device).roll(n)  # row i's other view is row i ± n
    return F.cross_entropy(similarity, partner)


@in_float32
def moco_loss(
    query: Float[Tensor, "b dim"],
    key: Float[Tensor, "b dim"],
    queue: Float[Tensor, "queue dim"],
    temperature: float,
    *,
    in_batch: bool = False,
) -> Float[Tensor, ""]:
    """Compute MoCo's contrastive loss: InfoNCE with negatives from a queue.

    Each query must find its own key among that key and the keys of the queue. The other keys of
    the batch are not candidates: they enter the queue one step later. If all embeddings are
    identical, the loss is ln(1 + queue), or ln(b + queue) with ``in_batch``.

    Args:
        query: Embeddings of the first views, from the trained network.
        key: Embeddings of the second views, from the momentum encoder; row i belongs to row i of
            `query`. No gradient may flow into them, and this function does not stop it: compute
            them under `torch.no_grad`, or detach them.
        queue: Keys of earlier batches. It must not contain the keys of this batch yet.
        temperature: Divides the cosine similarities.
        in_batch: Whether the keys of the batch's other pictures are negatives too, the most recent
            ones available (MoCo v3 has no others).

    Returns:
        The mean loss over the queries.

    Raises:
        ValueError: The shapes differ, the queue is empty or has another ``dim``, or
            `temperature` <= 0.

    References:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"
        (MoCo), equation 1 and algorithm 1; Chen, Xie & He 2021, "An Empirical Study of Training
        Self-Supervised Vision Transformers" (MoCo v3), section 3, for the batch's own keys.
    """
    require_shapes(query, key)
    require_temperature(temperature)
    if queue.ndim != 2 or len(queue) == 0 or queue.shape[1] != query.shape[1]:
        raise ValueError(
            f"the queue has shape {tuple(queue.shape)}; expected (keys, {query.shape[1]}) with at "
            "least one key: without negatives the loss is always 0."
        )
    query, key, queue = (F.normalize(x, dim=1) for x in (query, key, queue))
    if in_batch:
        logits = query @ torch.cat([key, queue]).T / temperature  # (b, b + queue)
        return F.cross_entropy(logits, torch.arange(len(query), device=query.device))
    own = (query * key).sum(dim=1, keepdim=True)  # (b, 1)
    logits = torch.cat([own, query @ queue.T], dim=1) / temperature  # (b, 1 + queue)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


@in_float32
def supcon_loss(
    a: Float[Tensor, "n dim"],
    b: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Compute the supervised contrastive loss: all views of the same class are positives.

    Each of the 2n rows is compared with the 2n - 1 others, and has at least one positive: its own
    other view. The targets are uniform over a row's positives. As for `multi_positive_loss`, the
    minimum is their entropy: the mean over the rows of ln(2 n_c - 1), where n_c is the number of
    pictures of the row's class. With n different labels this is `nt_xent`.

    Args:
        a: Embeddings of the first views.
        b: Embeddings of the second views; row i belongs to row i of `a`.
        labels: The class of each picture.
        temperature: Divides the cosine similarities.

    Returns:
        The mean loss over all 2n rows.

    Raises:
        ValueError: The shapes differ, there are fewer than two pictures, `labels` does not have
            one number per picture, or `temperature` <= 0.

    References:
        Khosla et al. 2020, "Supervised Contrastive Learning" (SupCon), equation 2, the form
        L_out, but with the mean over the rows instead of their sum.
    """
    similarity = _similarity(a, b, temperature)  # (2n, 2n)
    if labels.shape != (len(a),):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected one number per picture: ({len(a)},)."
        )
    both = torch.cat([labels, labels])  # (2n,)
    partner = (both[:, None] == both[None, :]).fill_diagonal_(False)
    # The mean is taken outside the logarithm (L_out). Filled with 0, not multiplied by it: a row's
    # entry for itself is -inf, and 0 · -inf is NaN.
    log_probability = similarity.log_softmax(dim=1).masked_fill(~partner, 0)
    return -(log_probability.sum(dim=1) / partner.sum(dim=1)).mean()


def _similarity(
    a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"], temperature: float
) -> Float[Tensor, "rows rows"]:
    """Return cosine similarity / temperature between all 2n views, with -inf on the diagonal."""
    require_pairs(a, b)
    require_temperature(temperature)
    z = F.normalize(torch.cat([a, b]), dim=1)  # (2n, dim)
    # A row is always most similar to itself, which teaches nothing. It must be masked before the
    # softmax: afterwards it would already have taken most of the probability.
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return (z @ z.T / temperature).masked_fill(itself, float("-inf"))  # (2n, 2n)
