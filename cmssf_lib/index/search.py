"""The most similar vectors, exactly, a block of the similarity matrix at a time."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cmssf_lib.evaluate.classify import BLOCK, check_widths

#: Similarities are compared in steps of 2⁻²⁴ = 6e-8, the precision of the vectors themselves.
STEPS = 2**24
#: A double holds whole numbers up to 2⁵³: beside the 24 bits of a similarity, 28 for the place.
PLACES = 2**28


def nearest(
    queries: Float[Tensor, "q dim"], vectors: Float[Tensor, "n dim"], k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Find the k vectors that point most nearly in the direction of each query.

    Every vector is compared with every query, so nothing is missed. The matrix of all
    similarities is never whole: beyond the arguments and the result, the memory needed is that of
    a block, however many vectors there are.

    Args:
        queries: What is looked for, of any length but zero.
        vectors: Where it is looked for, likewise.
        k: How many are wanted; if there are fewer vectors, all of them are returned.

    Returns:
        The cosine similarities, from the largest down, and where in `vectors` they stand. Two
        similarities that are equal to 6e-8 count as tied, and then the earlier place comes first.

    Raises:
        ValueError: A set is empty or holds a vector of length zero, NaN or infinity, the widths
            differ, k is below 1, or there are more than 2²⁸ vectors.
    """
    check_widths("queries", queries, "vectors", vectors)
    check_k(k)
    if len(vectors) > PLACES:
        raise ValueError(
            f"{len(vectors):,} vectors are more than the {PLACES:,} that are told apart."
        )
    side = math.isqrt(BLOCK)
    found = []
    for some_queries in queries.split(side):
        q = _directions("query", some_queries)  # (b, dim)
        best = q.new_empty(len(q), 0)  # (b, up to k) keys
        for start in range(0, len(vectors), side):
            v = _directions("vector", vectors[start : start + side])  # (c, dim)
            place = torch.arange(start, start + len(v), device=v.device)
            # One number that orders by similarity and then by place, and is exact in a double.
            key = (q @ v.T).mul_(STEPS).round_().mul_(PLACES).sub_(place)  # (b, c)
            key = key.topk(min(k, len(v)), dim=1).values
            best = torch.cat([best, key], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1).values
        found.append(best)
    best = torch.cat(found)
    place = (-best).remainder_(PLACES)
    return ((best + place) / (STEPS * PLACES)).float(), place.long()


def check_k(k: int) -> None:
    """At least one answer is wanted."""
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one answer.")


def _directions(what: str, x: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
    """Vectors of length one, in double precision.

    In single precision the order of a sum shows in the last digit. Two equal vectors in different
    blocks could then differ in similarity, and would not be tied.
    """
    x = x.double()
    length = x.norm(dim=1)
    if not (length.isfinite() & (length > 0)).all():
        raise ValueError(
            f"a {what} has length zero, or holds NaN or infinity: it has no direction."
        )
    return x / length[:, None]
