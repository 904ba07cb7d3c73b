"""What the losses share: arithmetic in at least float32, similarities, checks of arguments."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import reduce, wraps
from typing import ParamSpec

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map_only

P = ParamSpec("P")


def in_float32(loss: Callable[P, Float[Tensor, "..."]]) -> Callable[P, Float[Tensor, "..."]]:
    """Make a loss compute in at least float32, whatever the precision of its arguments.

    In half precision, the softmax of large logits rounds a small loss to zero and distorts its
    gradient. So half-precision tensors are converted, and autocast is switched off inside the
    loss, where it would still compute matrix products in half precision. If the tensors differ in
    precision, the highest is used (0-d tensors, such as a logit scale, do not count), so float64
    stays float64. Each gradient comes back in the precision of its tensor.
    """

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        every = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        floats = [x for x in every if x.is_floating_point()]
        dtype = reduce(torch.promote_types, (x.dtype for x in floats if x.ndim), torch.float32)
        args, kwargs = tree_map_only(
            Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, (args, kwargs)
        )
        device = floats[0].device.type if floats else "cpu"
        known = torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if known else nullcontext():
            return loss(*args, **kwargs)

    return computed


def group_numbers(groups: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Number the groups from 0, and count their rows.

    `torch.unique` does the same, but its result has as many rows as there are groups, so a GPU
    would have to finish all earlier work first.

    Args:
        groups: Equal values mark rows of the same group.

    Returns:
        The number of each row's group, and the size of each group, with zeros at the end.
    """
    ranked, order = groups.sort()
    steps = (ranked[1:] != ranked[:-1]).cumsum(0)
    number = torch.zeros_like(groups).scatter(0, order[1:], steps.to(groups.dtype))
    return number, torch.zeros_like(groups).scatter_add(0, number, torch.ones_like(groups))


@torch.no_grad()
def similarities(
    a: Float[Tensor, "b dim"], b: Float[Tensor, "b dim"], groups: Int[Tensor, " b"] | None = None
) -> dict[str, Float[Tensor, ""]]:
    """Return the mean cosine similarity of positive pairs, and of negative pairs.

    No matrix of all pairs is needed: the sum over all pairs is the dot product of the sum of ``a``
    and the sum of ``b``. Within a group the same holds for the group's sums.

    Args:
        a: Embeddings of the first views, or of the pictures; at least two.
        b: Embeddings of the second views, or of the captions; row i belongs to row i of ``a``.
        groups: Equal numbers mark rows that are not negatives of each other, such as pictures
            with the same caption. ``None`` puts each row in a group of its own.

    Returns:
        "positive_similarity", between row i of ``a`` and of ``b``, and "negative_similarity",
        between rows of different groups; the latter is zero if there is only one group.
    """
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    own, everywhere, n = (a * b).sum(), a.sum(dim=0) @ b.sum(dim=0), len(a)
    if groups is None:
        negative = (everywhere - own) / (n * (n - 1))
    else:
        group, size = group_numbers(groups)
        sums = [x.new_zeros(len(size), x.shape[1]).index_add_(0, group, x) for x in (a, b)]
        pairs = n**2 - size.square().sum()
        negative = (everywhere - (sums[0] * sums[1]).sum()) / pairs.clamp(min=1)
    return {"positive_similarity": own / n, "negative_similarity": negative}


def require_pairs(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse embeddings that give a contrastive loss no negatives.

    Raises:
        ValueError: If they are not pairs (see `require_shapes`), or fewer than two.
    """
    require_shapes(a, b)
    if len(a) < 2:
        raise ValueError(
            f"a contrastive loss needs at least two pairs, got {len(a)}: without negatives it is "
            "always 0. Use a larger batch, or drop the last incomplete one."
        )


def require_shapes(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse embeddings that are not pairs.

    Raises:
        ValueError: If the shapes differ or are not ``(pairs, dim)``, or there is no pair.
    """
    if a.ndim != 2 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected two of the "
            "same shape (pairs, dim) with at least one pair, row i of one belonging to row i of "
            "the other."
        )


def require_temperature(temperature: float, name: str = "temperature") -> None:
    """Refuse a temperature that would reverse the similarities or make them infinite.

    Raises:
        ValueError: If it is not a positive, finite number.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"{name} is {temperature}; expected a finite number > 0.")
