"""BYOL: predict the output of a slower copy of the network for another view.

Grill et al. 2020, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning".

    view a → ImageEncoder   → projector → predictor ─ prediction ─┐
                  ┊ EMA          ┊ EMA                            ├→ 2 - 2 cos
    view b → target encoder → target projector ────── target ─────┘  (no gradient in this row)

and the same with a and b swapped.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from cmssf_lib.data import Batch
from cmssf_lib.encoders import BatchNormHead, ImageEncoder
from cmssf_lib.losses import byol_loss
from cmssf_lib.methods.base import Method, require_two_pictures
from cmssf_lib.methods.moco import momentum_copy, momentum_schedule, momentum_update
from cmssf_lib.settings import Fraction, settings
from cmssf_lib.views import Views, ViewsConfig


@settings
class BYOLConfig:
    """BYOL (chapter 6)."""

    hidden: PositiveInt  # width of the hidden layer of projector and predictor
    dim: PositiveInt  # dimensions of the target that is predicted
    momentum: Fraction  # EMA momentum of the target in the first step; rises to 1
    views: ViewsConfig  # how the two views of a picture are made
    predictor: bool = True  # False: demonstrates a collapse
    stop_gradient: bool = True  # False: the target is the online network, with its gradient


class BYOL(Method):
    """Learns without labels and without negatives.

    A constant output would have zero loss, and yet it is not what BYOL learns. Three things
    prevent it: the predictor, which only the online network has; the stop-gradient at the target;
    and the slow update of the target. The configuration can remove each of them.

    Args:
        image_encoder: Trained; kept.
        config: Projector and predictor, momentum, views.
    """

    def __init__(self, image_encoder: ImageEncoder, config: BYOLConfig) -> None:
        super().__init__()
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        width, hidden, dim = image_encoder.width, config.hidden, config.dim
        # The norm at the end of the projector is from SimSiam (Chen & He 2021, section 3) and
        # MoCo v3: it keeps each direction of the target from vanishing early in training.
        self.projector = BatchNormHead(width, hidden, dim, norm_output=True)
        self.predictor = BatchNormHead(dim, hidden, dim) if config.predictor else nn.Identity()
        self.target_encoder = momentum_copy(self.image_encoder)
        self.target_projector = momentum_copy(self.projector)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Predict each view's target from the other view.

        Evaluation also draws views: with two identical pictures the task would be trivial.

        Returns:
            "loss", the mean of both directions, from 0 to 4 (the paper adds them; Adam ignores the
            factor of two), and the targets of the first views as "embeddings". There is no
            "chance": a collapsed network and a perfect one have the same loss, zero.

        Raises:
            ValueError: If the batch holds a single picture.
        """
        require_two_pictures(batch, "the batch norms of projector and predictor")
        both = self.views(batch.images.repeat(2, 1, 1, 1))  # (2b, 3, h, w)
        projected = self.projector(self.image_encoder.encode(both))  # (2b, dim)
        a, b = self.predictor(projected).chunk(2)  # (b, dim) each
        if self.config.stop_gradient:
            with torch.no_grad():
                projected = self.target_projector(self.target_encoder.encode(both))
        target_a, target_b = projected.chunk(2)
        loss = (byol_loss(a, target_b) + byol_loss(b, target_a)) / 2
        return {"loss": loss, "embeddings": target_a.detach()}

    def after_step(self, progress: float) -> None:
        """Move the target towards the online network, after each step of the optimizer.

        Args:
            progress: Fraction of the training that is done, 0 to 1. With it, the momentum rises
                to 1 along half a cosine (section 3.3).
        """
        momentum = momentum_schedule(progress, self.config.momentum)
        momentum_update(self.image_encoder, self.target_encoder, momentum)
        momentum_update(self.projector, self.target_projector, momentum)
