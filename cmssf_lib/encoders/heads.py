"""What stands between an encoder and the shared space."""

from torch import nn


class ProjectionHead(nn.Sequential):
    """An MLP with one hidden layer, from an encoder's space to the shared one.

    Args:
        width: Of the encoder.
        hidden: Of the hidden layer.
        dim: Of the shared space.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, dim))
