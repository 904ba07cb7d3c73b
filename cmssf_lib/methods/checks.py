"""What a method refuses before any work is done."""

from cmssf_lib.data import Batch


def check_batch(batch: Batch) -> None:
    """Refuse a batch that holds a single picture.

    Raises:
        ValueError: If there is nothing to contrast a picture with.
    """
    if len(batch) < 2:
        raise ValueError(
            f"a batch of {len(batch)} holds no second picture to contrast the first with: expected "
            "at least two. Use a larger batch, or drop the last incomplete one"
        )


def check_norms(batch: Batch, where: str) -> None:
    """Refuse a batch of a single picture where a batch norm stands in the way.

    Raises:
        ValueError: If there is one picture: measured against itself, nothing of it is left.
    """
    if len(batch) < 2:
        raise ValueError(
            f"a batch of {len(batch)}: the batch norm of {where} compares every picture with the "
            "batch's mean, which with one picture leaves nothing. Expected at least two; use a "
            "larger batch, or drop the last incomplete one"
        )


def check_momentum(momentum: float) -> None:
    """Refuse a momentum that is no part of a whole.

    Raises:
        ValueError: If it does not lie between 0 and 1.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"the momentum is {momentum}; it is the part of itself that the momentum network "
            "keeps, between 0 and 1"
        )
