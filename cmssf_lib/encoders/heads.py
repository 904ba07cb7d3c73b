"""What stands between an encoder and the shared space."""

from torch import nn


class ProjectionHead(nn.Sequential):
    """An MLP from an encoder's space to the shared one, ``(b, width)`` to ``(b, dim)``.

    Args:
        width: Of the encoder.
        hidden: Of the hidden layers.
        dim: Of the shared space.
        depth: Number of hidden layers; 0 leaves one linear map.
        norm: Whether each hidden layer has a batch norm, which then lets the rows of a batch see
            each other while training.
    """

    def __init__(
        self, width: int, hidden: int, dim: int, depth: int = 1, *, norm: bool = False
    ) -> None:
        layers: list[nn.Module] = []
        for before in [width, hidden, *[hidden] * (depth - 1)][:depth]:
            norms = [nn.BatchNorm1d(hidden)] if norm else []
            layers += [nn.Linear(before, hidden), *norms, nn.GELU()]
        super().__init__(*layers, nn.Linear(hidden if depth else width, dim))


class BatchNormHead(nn.Sequential):
    """An MLP with one hidden layer and a batch norm in it, ``(b, width)`` to ``(b, dim)``.

    BYOL's projector and predictor, and MoCo's head. While training, a batch norm lets the
    pictures of a batch see each other: each is measured against the mean of all. Grill et al. 2020
    (BYOL), section 3.3.

    Args:
        width: Of what comes in.
        hidden: Of the hidden layer.
        dim: Of what goes out.
        norm_output: Whether each dimension of the result is brought to mean 0 and variance 1 as
            well.
    """

    def __init__(self, width: int, hidden: int, dim: int, *, norm_output: bool = False) -> None:
        layers: list[nn.Module] = [
            nn.Linear(width, hidden, bias=False),  # the norm brings a shift of its own
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
        ]
        if norm_output:
            layers.append(nn.BatchNorm1d(dim, affine=False))
        super().__init__(*layers)
