"""How sure a number is: intervals for a share and for a difference, and many comparisons at once.

Two things are drawn by chance behind every result. The *training*: another seed gives other
weights. The *test pictures*: others would have been right or wrong. Both are counted here.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, t as student
from torch import Tensor

LEVEL = 0.95  # of all intervals


class Comparison(NamedTuple):
    """A difference of two means, in the unit of what was compared."""

    difference: float  # of the first less the second
    low: float  # ends of the 95 % interval
    high: float
    p: float  # two-sided: how often chance alone gives at least this difference


def compare(
    one: Float[Tensor, "seeds n"],
    other: Float[Tensor, "more_seeds n"],
    clusters: Int[Tensor, " n"] | Int[Tensor, "n k"] | None = None,
) -> Comparison:
    r"""Compare what two methods scored on the same pictures, each in several trainings.

    The difference of the means varies with the trainings of the one, with those of the other, and
    with the pictures, where both are compared picture by picture. The three variances are added,

    $$V = \frac{s_1^2}{S_1} + \frac{s_2^2}{S_2}
        + \frac{G}{G - 1} \frac{1}{n^2} \sum_{i \sim j} (d_i - \bar d)(d_j - \bar d),$$

    and so are their degrees of freedom, as Welch (1947) and Satterthwaite (1946) do. The last sum
    runs over pairs of pictures that belong together, such as scenes with the same handwritten
    digit (Aronow, Samii & Assenova 2015, "Cluster-robust variance estimation for dyadic data"); G
    counts the clusters. With one training each, nothing is said about another seed.

    Args:
        one: 1 where a picture was right and 0 where not, or any score, for each training.
        other: The same of the other method, in the same order of pictures. With n = 1, only the
            trainings are compared (Welch's test).
        clusters: For each picture, a number that those share that were not drawn independently;
            or k numbers, of which they share any.

    Raises:
        ValueError: If there is nothing to vary: one training and one picture or cluster.
    """
    one, other = one.cpu().double(), other.cpu().double()
    means = [scores.mean(dim=1) for scores in (one, other)]  # (seeds,) each
    varied = [(float(m.var()) / len(m), len(m) - 1) for m in means if len(m) > 1]
    apart = one.mean(dim=0) - other.mean(dim=0)  # (n,)
    n, difference = len(apart), float(apart.mean())
    off, groups, together = apart - difference, n, apart - difference  # (n,)
    if clusters is not None:
        group = clusters.cpu().reshape(n, -1)  # (n, k)
        groups = len(group.unique())
        shared = ((group[:, :, None] == own).any(2).any(1) for own in group)  # n times (n,)
        together = torch.stack([off[both].sum() for both in shared])
    if groups > 1:
        pictures = max(0.0, float((off * together).sum())) / n**2
        varied.append((pictures * groups / (groups - 1), groups - 1))
    if not varied:
        raise ValueError("one training and one picture cannot vary: give several of either")
    variance = sum(v for v, _ in varied)
    if variance == 0:
        return Comparison(difference, difference, difference, float(difference == 0))
    freedom = variance**2 / sum(v**2 / df for v, df in varied)
    half = float(student.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    p = 2 * float(student.sf(abs(difference) / variance**0.5, freedom))
    return Comparison(difference, difference - half, difference + half, p)


def holm(p: Sequence[float]) -> list[float]:
    """Raise the p-values of several comparisons, so that 5 % hold for all of them together.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none falls below one before
    it. Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    raised, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        raised[i] = least
    return raised


def verdicts(comparisons: Mapping[str, Comparison], margin: float = 0.0) -> dict[str, str]:
    """Say of each comparison what may be concluded from all of them together.

    Args:
        comparisons: All that one question asks, or one chapter.
        margin: A difference below which two are called equal, chosen before looking.

    Returns:
        For each, "higher" or "lower" if Holm's p is below 5 %; else "equal" if the interval lies
        within the margin to either side; else "open".
    """
    raised = holm([c.p for c in comparisons.values()])
    said = {}
    for (name, c), p in zip(comparisons.items(), raised, strict=True):
        if p < 1 - LEVEL:
            said[name] = "higher" if c.difference > 0 else "lower"
        else:
            said[name] = "equal" if max(-c.low, c.high) < margin else "open"
    return said


def share_interval(right: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Return the 95 % interval of a share, such as an accuracy, for independent pictures.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference": unlike
    p ± 2 standard errors it stays within 0 and 1, and does not shrink to a point there.
    """
    n, share, z = len(right), float(right.cpu().double().mean()), float(norm.ppf((1 + LEVEL) / 2))
    middle, scale = share + z**2 / (2 * n), 1 + z**2 / n
    half = z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return (middle - half) / scale, (middle + half) / scale
