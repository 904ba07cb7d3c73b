"""What every loss on pairs of embeddings refuses."""

from jaxtyping import Shaped
from torch import Tensor


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
