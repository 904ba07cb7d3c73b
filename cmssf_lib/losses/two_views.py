"""Contrastive losses between two views of a picture, as pure functions of embeddings.

Like the image–text losses, these take raw embeddings, normalise them to unit length themselves
and return the mean cross-entropy of the question "which of these is your partner?". What they
differ in is where the wrong answers come from: the rest of the batch (SimCLR), a queue of
earlier batches (MoCo), or the other classes (SupCon).
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
    """Two-view contrastive loss: NT-Xent, "normalised temperature-scaled cross-entropy".

    Each of the 2n rows looks for its other view among the 2n - 1 rows that are not itself.
    Identical embeddings everywhere give ln(2n - 1).

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
    """Contrastive loss against a queue: InfoNCE as MoCo trains it.

    Each query looks for its own key among that key and the keys of the queue. The other keys of
    the batch are not asked: they come in by the queue, one step later. Identical embeddings
    everywhere give ln(1 + queue), and ln(b + queue) with the batch's keys.

    Args:
        query: Embeddings of the first views, by the network that is trained.
        key: Embeddings of the second views, by the momentum encoder; row i belongs to row i of
            `query`. A pure function cannot know that they are constants: detach them, or make
            them without a gradient.
        queue: Keys of earlier batches. The batch's own must not be among them yet.
        temperature: Divides the cosine similarities.
        in_batch: Whether the keys of the batch's other pictures are negatives at once, the
            freshest there are (as in MoCo v3, which has no others).

    Returns:
        The mean loss over the queries.

    Raises:
        ValueError: The shapes differ, the queue is empty or of another width, or `temperature`
            <= 0.

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
            "least one key: without negatives the loss is 0 whatever the model does."
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
    """Supervised contrastive loss of two views: every view of the same class is a partner.

    Each of the 2n rows looks among the 2n - 1 others. It always has its own other view for a
    partner, so no row is without. The targets are uniform over a row's partners: as for
    `multi_positive_loss` the least value is their entropy, the mean of ln(2 n_c - 1) for a class
    with n_c pictures in the batch. With n different labels this is `nt_xent`.

    Args:
        a: Embeddings of the first views.
        b: Embeddings of the second views; row i belongs to row i of `a`.
        labels: The class of each picture.
        temperature: Divides the cosine similarities.

    Returns:
        The mean loss over all 2n rows.

    Raises:
        ValueError: The shapes differ, there are fewer than two pictures, `labels` does not have
            one number a picture, or `temperature` <= 0.

    References:
        Khosla et al. 2020, "Supervised Contrastive Learning" (SupCon), equation 2, the form
        L_out; the mean over the rows where the equation has their sum.
    """
    similarity = _similarity(a, b, temperature)  # (2n, 2n)
    if labels.shape != (len(a),):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected one number a picture: ({len(a)},)."
        )
    both = torch.cat([labels, labels])  # (2n,)
    partner = (both[:, None] == both[None, :]).fill_diagonal_(False)
    # The mean is taken outside the logarithm (L_out). Filled, not multiplied: the row itself
    # stands there with -inf, and 0 · -inf is no number.
    log_probability = similarity.log_softmax(dim=1).masked_fill(~partner, 0)
    return -(log_probability.sum(dim=1) / partner.sum(dim=1)).mean()


def _similarity(
    a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"], temperature: float
) -> Float[Tensor, "rows rows"]:
    """Cosine similarity over temperature among all 2n views, -inf for a view and itself."""
    require_pairs(a, b)
    require_temperature(temperature)
    z = F.normalize(torch.cat([a, b]), dim=1)  # (2n, dim)
    # A row is always most similar to itself. That answer teaches nothing, so it is taken away
    # before the softmax; afterwards it would already have eaten the probability.
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return (z @ z.T / temperature).masked_fill(itself, float("-inf"))  # (2n, 2n)
