"""VICReg's loss: no negatives, and no second network; the spread itself is asked for."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.losses.precision import in_float32, require_pairs

EPSILON = 1e-4  # added to a variance, whose root has an infinite slope at 0


@in_float32
def vicreg_loss(
    a: Float[Tensor, "b dim"],
    b: Float[Tensor, "b dim"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Compute VICReg's loss of two views, weighted: invariance, variance, covariance.

    $$\frac{\lambda}{b \cdot dim} \sum \lVert a_i - b_i \rVert^2
        + \frac{\mu}{2} (v(a) + v(b)) + \nu\, (c(a) + c(b))$$

    with $v(z) = \operatorname{mean}_j \max(0, 1 - \sqrt{\operatorname{Var}(z_j) + \epsilon})$ and
    $c(z) = \frac{1}{dim} \sum_{i \ne j} C(z)_{ij}^2$, where C is the covariance matrix over the
    batch. Equal embeddings have the first and the last term 0, and the second about μ. Embeddings
    are not normalised.

    Args:
        a: Embeddings of the first views.
        b: Embeddings of the second views; row i belongs to row i of `a`.
        invariance: Weight λ of the squared distance between the views of a picture.
        variance: Weight μ of the lack of spread in each dimension.
        covariance: Weight ν of what the dimensions say alike.

    Raises:
        ValueError: The shapes differ, or there are fewer than two pairs.

    References:
        Bardes, Ponce & LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for
        Self-Supervised Learning", equations 1 to 6.
    """
    require_pairs(a, b)
    spread = (_variance(a) + _variance(b)) / 2
    return (
        invariance * F.mse_loss(a, b)
        + variance * spread
        + covariance * (_covariance(a) + _covariance(b))
    )


def _variance(z: Float[Tensor, "b dim"]) -> Float[Tensor, ""]:
    """Return by how much the standard deviation of a dimension falls short of 1, on average."""
    return F.relu(1 - (z.var(dim=0) + EPSILON).sqrt()).mean()


def _covariance(z: Float[Tensor, "b dim"]) -> Float[Tensor, ""]:
    """Return the squares of the covariances between dimensions, summed, for each dimension."""
    z = z - z.mean(dim=0)
    c = z.T @ z / (len(z) - 1)  # (dim, dim)
    return (c.square().sum() - c.diagonal().square().sum()) / len(c)
