"""VICReg: two views of a picture agree, and every dimension must vary, each in its own way.

Bardes, Ponce & LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for
Self-Supervised Learning".

    picture ─┬→ view a ─┐                                        ┌─ z_a ─┐
             │          ├→ ImageEncoder → [CLS] → expander ──────┤       ├→ invariance, variance,
             └→ view b ─┘   (one network, one forward)           └─ z_b ─┘   covariance
"""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from cmssf_lib.data import Batch
from cmssf_lib.encoders import BatchNormHead, ImageEncoder
from cmssf_lib.losses import vicreg_loss
from cmssf_lib.losses.precision import similarities
from cmssf_lib.losses.vicreg import EPSILON
from cmssf_lib.methods.base import Method, require_two_pictures
from cmssf_lib.settings import settings
from cmssf_lib.views import Views, ViewsConfig


@settings
class VICRegConfig:
    """VICReg (chapter 6)."""

    hidden: PositiveInt  # width of the expander's two hidden layers
    dim: PositiveInt  # dimensions in which views are compared
    invariance: NonNegativeFloat  # weight of the distance between the views of a picture
    variance: NonNegativeFloat  # weight of the spread that each dimension lacks
    covariance: NonNegativeFloat  # weight of what two dimensions say alike
    views: ViewsConfig  # how the two views of a picture are made


class VICReg(Method):
    """Learns without labels, without negatives, and without a second network.

    What BYOL and DINO prevent by a slow target, the loss forbids here by name: a dimension that
    does not vary over the batch, and two that vary together.

    Args:
        image_encoder: Trained; kept.
        config: Expander, weights of the three terms, views.
    """

    def __init__(self, image_encoder: ImageEncoder, config: VICRegConfig) -> None:
        super().__init__()
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        self.expander = nn.Sequential(
            BatchNormHead(image_encoder.width, config.hidden, config.hidden, norm_output=True),
            nn.ReLU(),
            nn.Linear(config.hidden, config.dim, bias=False),  # the loss sees differences only
        )

    @property
    def chance(self) -> float:
        """The loss of embeddings that are all equal."""
        return self.config.variance * (1 - EPSILON**0.5)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compare the two views of each picture, and the dimensions with each other.

        Evaluation also draws views: with two identical pictures the task would be trivial.

        Returns:
            As `Method.loss`, with the similarities of SimCLR for comparison.

        Raises:
            ValueError: If the batch holds a single picture, so that nothing can vary.
        """
        require_two_pictures(batch, "variance and batch norm")
        both = self.views(batch.images.repeat(2, 1, 1, 1))  # (2b, 3, h, w)
        a, b = self.expander(self.image_encoder.encode(both)).chunk(2)  # (b, dim) each
        asked = self.config
        loss = vicreg_loss(
            a,
            b,
            invariance=asked.invariance,
            variance=asked.variance,
            covariance=asked.covariance,
        )
        return {
            "loss": loss,
            **similarities(a, b),
            "embeddings": a.detach(),
            **({"chance": torch.tensor(self.chance)} if self.chance else {}),
        }
