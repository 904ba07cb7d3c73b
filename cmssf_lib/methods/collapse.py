"""Collapse: when a method finds a way to a low loss without looking at the pictures.

Two numbers are logged with every step's loss, and `diagnose` reads a row of a run's history and
names the likely cause in a sentence.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.timing import stopwatch

CONSTANT = 0.1  # a `feature_std` below this: the embeddings are all but equal
FEW = 2.5  # an effective rank below this: a line, or a plane, in a space of many dimensions
SAME = 0.9999  # a similarity above this: the views themselves are equal
SPREAD = 0.5  # a `feature_std` above this: pictures certainly differ
PINNED = 0.98  # a loss above this part of its value at chance has not left it


class CollapseWarning(UserWarning):
    """A training is on its way to a constant answer, or to few directions; see `diagnose`."""


def feature_std(z: Float[Tensor, "b dim"]) -> Float[Tensor, ""]:
    """How far embeddings are spread over the sphere: about 1 if evenly, 0 if all are equal.

    The standard deviation of each dimension over the batch, after each embedding is brought to
    unit length; the mean of these, times √dim.

    Args:
        z: Embeddings of different pictures, of any length.

    References:
        Chen & He 2021, "Exploring Simple Siamese Representation Learning" (SimSiam), section 4.1.
    """
    stds = F.normalize(z, dim=1).std(dim=0, correction=0)  # (dim,)
    return stds.mean() * math.sqrt(z.shape[1])


def rank(z: Float[Tensor, "b dim"]) -> Float[Tensor, ""]:
    """How many dimensions embeddings use: the effective rank of the matrix they form.

    It lies between 1 (all on one line) and min(b, dim) (all directions alike), and need not be a
    whole number: the exponential of the entropy of the singular values, scaled to sum to one.

    Args:
        z: Embeddings of different pictures.

    Returns:
        The effective rank, on the processor; 0 where all embeddings are zero.

    References:
        Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    # The eigenvalues of the small (dim, dim) product are the squared singular values, and
    # squaring halves the digits: hence double precision, on the processor, which always has it.
    z = z.detach().cpu().double()
    product = z.T @ z if len(z) > z.shape[1] else z @ z.T
    values = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
    if values.sum() == 0:
        return values.sum()
    return torch.special.entr(values / values.sum()).sum().exp()


@torch.no_grad()
def spread(z: Float[Tensor, "b dim"], chance: float) -> dict[str, Float[Tensor, ""]]:
    """What every method logs beside its loss, so that a collapse can be told from its history.

    Args:
        z: What the loss compared, a row a picture.
        chance: The loss if every picture had the same embedding.

    Returns:
        "feature_std", "rank" and "chance".
    """
    with stopwatch("logging"):
        return {
            "feature_std": feature_std(z),
            "rank": rank(z),
            "chance": torch.tensor(chance),
        }


def diagnose(row: Mapping[str, float]) -> str | None:
    """Name the likely cause if a row of a run's history shows a collapse.

    Early in a training much of this is normal; a row after the first few epochs should be clean.

    Args:
        row: With any of "feature_std", "rank", "loss", "chance", "positive_similarity",
            "teacher_entropy" and "kl" (DINO). What is missing is not looked at.

    Returns:
        A sentence, or ``None`` if nothing looks wrong.
    """
    std, directions = row.get("feature_std", math.nan), row.get("rank", math.nan)
    loss, chance = row.get("loss", math.nan), row.get("chance", math.nan)
    entropy = row.get("teacher_entropy", math.nan)
    # A comparison with nan is false, so each test below is passed over without its numbers.
    if entropy > PINNED * chance:
        return (
            f"the teacher's output is uniform (entropy {entropy:.2f} of at most {chance:.2f}), so "
            "the loss is pinned at ln K: the centre alone wins. Sharpen it: a lower teacher "
            "temperature, or a slower centre"
        )
    # Both nearly zero is a collapse only if all pictures choose alike: where the views leave an
    # easy answer, the teacher is rightly sure of each.
    if entropy + row.get("kl", math.nan) < 0.01 * chance and not std > SPREAD:
        return (
            f"teacher and student agree on one prototype for every picture (loss {loss:.3f}): the "
            "sharpening alone wins. Centre the teacher's output, or let the centre follow faster"
        )
    if std < CONSTANT:
        return (
            f"all pictures get nearly the same embedding (feature_std {std:.3f}, healthy is about "
            "1): the output is constant. Look for a gradient that reaches the target network, a "
            "missing predictor or centre, or too large a learning rate"
        )
    if directions < FEW:
        return (
            f"the embeddings use about {directions:.1f} directions of their space: they have "
            "collapsed onto a line or a plane. Where nothing pushes strangers apart, look for a "
            "gradient that reaches the target network or a target that is too fast; else lower "
            "the temperature or take more negatives"
        )
    if std > CONSTANT and row.get("positive_similarity", math.nan) > SAME:
        return (
            "the two views of a picture have the same embedding to four digits: they differ too "
            "little, and telling them from other pictures takes no learning. Widen the views"
        )
    if loss > PINNED * chance:
        return (
            f"the loss ({loss:.2f}) stands where equal embeddings put it ({chance:.2f}): nothing "
            "is told apart yet. If it stays, change the learning rate, or lower the temperature"
        )
    return None
