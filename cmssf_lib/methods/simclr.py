"""SimCLR: two views of a picture agree, against all other pictures of the batch.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".

    picture ─┬→ view a ─┐                                     ┌─ z_a ─┐
             │          ├→ ImageEncoder → [CLS] → head ───────┤       ├→ NT-Xent
             └→ view b ─┘   (one network, one forward)        └─ z_b ─┘
"""

import math

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, ProjectionHead
from cmssf_lib.losses import nt_xent
from cmssf_lib.losses.precision import similarities
from cmssf_lib.methods.base import Method, require_two_pictures
from cmssf_lib.settings import settings
from cmssf_lib.views import Views, ViewsConfig


@settings
class SimCLRConfig:
    """SimCLR (chapter 5)."""

    hidden: PositiveInt  # width of the projection head's hidden layer
    dim: PositiveInt  # dimensions in which views are compared
    temperature: PositiveFloat  # divides the cosine similarities
    views: ViewsConfig  # how the two views of a picture are made


class SimCLR(Method):
    """Learns without labels to find which of 2b views show the same picture.

    The head is the paper's g(h) = W₂ σ(W₁ h), an MLP with one hidden layer. It has no batch norm,
    which would leak information between the embeddings that are compared. It is discarded after
    training: `features` ends before it.

    Args:
        image_encoder: Trained; kept.
        config: Head, temperature, views.
    """

    def __init__(self, image_encoder: ImageEncoder, config: SimCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        self.head = ProjectionHead(image_encoder.width, config.hidden, config.dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compare every view with every other.

        Evaluation also draws views: with two identical pictures the task would be trivial. It
        changes no state; seed the global generator to get the same views again.

        Returns:
            As `Method.loss`, with the mean similarity of the two views of a picture
            ("positive_similarity") and of views of different pictures ("negative_similarity").

        Raises:
            ValueError: If the batch holds a single picture, so that there are no negatives.
        """
        require_two_pictures(batch)
        both = self.views(batch.images.repeat(2, 1, 1, 1))  # (2b, 3, h, w)
        # One forward pass for both halves: batch norm computes its statistics over all 2b views
        # and cannot reveal which half a view belongs to.
        a, b = self.head(self.image_encoder.encode(both)).chunk(2)  # (b, dim) each
        return {
            "loss": nt_xent(a, b, self.config.temperature),
            **similarities(a, b),
            "embeddings": a.detach(),
            "chance": torch.tensor(math.log(2 * len(batch) - 1)),
        }
