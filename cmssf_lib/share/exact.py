"""Search among any vectors by cosine similarity: exact, the same in any order, in little memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cmssf_lib.evaluate.neighbours import BLOCK, require_rows

#: Similarities are rounded to steps of 2⁻²⁴ = 6e-8, the precision of the vectors themselves.
STEPS = 2**24


def nearest(
    queries: Float[Tensor, "q dim"],
    vectors: Float[Tensor, "n dim"],
    k: int,
    less: Float[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Find the k vectors with the largest cosine similarity to each query.

    The search is exact: every vector is compared with every query. The similarities are computed
    in blocks, so beyond copies of the arguments in double precision and the result, the memory
    needed does not grow with the number of queries.

    Args:
        queries: Any length except zero.
        vectors: The vectors to search, of any length except zero.
        k: Number of results per query; if there are fewer vectors, all of them are returned.
        less: Subtracted from the similarities of each vector.

    Returns:
        The cosine similarities in descending order, and their row numbers in `vectors`. Two
        similarities that agree to 6e-8 count as tied; then the lower row number comes first.

    Raises:
        ValueError: A set is empty or holds a zero vector, NaN or infinity, the widths differ, or
            k is below 1.
    """
    require_rows("queries", queries, "vectors", vectors)
    if k < 1:
        raise ValueError(f"k is {k}, but must be at least 1.")
    q, v = _directions("query", queries), _directions("vector", vectors)
    similarity, places = [], []
    for block in q.split(max(1, BLOCK // len(v))):
        likeness = block @ v.T if less is None else block @ v.T - less.cpu()
        steps = likeness.mul_(STEPS).round_()  # (b, n)
        best, place = steps.sort(dim=1, descending=True, stable=True)  # ties: the lower row first
        k = min(k, len(v))
        similarity.append(best[:, :k].div(STEPS).float())
        places.append(place[:, :k].clone())  # a view would keep the whole block in memory
    return torch.cat(similarity), torch.cat(places)


def _directions(what: str, x: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
    """Return the vectors scaled to length one, in double precision.

    In single precision, the order of summation changes the last digit of a similarity. Equal
    vectors could then get different similarities instead of a tie.
    """
    x = x.cpu().double()  # not every device has double precision
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if not length.all():
        raise ValueError(f"a {what} has length zero, so it has no direction.")
    return x / length
