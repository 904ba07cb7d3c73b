"""The floor under an image–text loss: what equal captions cost, however good the model is."""

import math

from jaxtyping import Float, Int
from torch import Tensor


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
    _, group, size = groups.unique(return_inverse=True, return_counts=True)
    return size[group].float().log().mean()


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
