"""Learning with labels, to compare the others with: cross-entropy, or SupCon.

Cross-entropy asks for a picture's class. SupCon (Khosla et al. 2020, "Supervised Contrastive
Learning") is SimCLR with labels: all views of a class are each other's partners.
"""

import math
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, ProjectionHead
from cmssf_lib.losses import supcon_loss
from cmssf_lib.methods.base import Method, require_two_pictures, similarities
from cmssf_lib.settings import settings
from cmssf_lib.views import Views, ViewsConfig


@settings
class SupervisedConfig:
    """Learning with labels, for comparison."""

    loss: Literal["cross_entropy", "supcon"]  # of the class, or of pairs of views
    hidden: PositiveInt  # width of the projection head's hidden layer (supcon)
    dim: PositiveInt  # dimensions in which views are compared (supcon)
    temperature: PositiveFloat  # divides the cosine similarities (supcon)
    views: ViewsConfig  # how a view of a picture is made


class Supervised(Method):
    """Learns from labels.

    Args:
        image_encoder: Trained; kept.
        config: Which loss; views; for SupCon also the head (the paper's MLP with one hidden
            layer) and the temperature.
        classes: Number of classes; at least two.

    Raises:
        ValueError: If there are fewer than two classes.
    """

    lasting = ("image_encoder.", "head.")

    def __init__(self, image_encoder: ImageEncoder, config: SupervisedConfig, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(
                f"there is nothing to learn from {classes} class: expected two or more"
            )
        self.config = config
        self.classes = classes
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        width = image_encoder.width
        # `features` ends before either of them.
        self.head: nn.Module = (
            nn.Linear(width, classes)
            if config.loss == "cross_entropy"
            else ProjectionHead(width, config.hidden, config.dim)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ask for the class of every picture, or compare every view with every other.

        Training shows a picture in one random view (cross-entropy) or two (SupCon). Evaluation
        shows it as it is to the classifier; SupCon still draws its two views, because two equal
        pictures would be no question. It changes no state.

        Returns:
            As `Method.loss`, with "accuracy" (cross-entropy), or "positive_similarity" and
            "negative_similarity" of pictures, not of classes (SupCon).

        Raises:
            ValueError: If a label is none of the classes, or for SupCon the batch holds a single
                picture.
        """
        low, high = int(batch.labels.min()), int(batch.labels.max())
        if low < 0 or high >= self.classes:
            raise ValueError(
                f"the labels run from {low} to {high}, but there are {self.classes} classes "
                f"(0 to {self.classes - 1})"
            )
        return self._supcon(batch) if self.config.loss == "supcon" else self._classify(batch)

    def _classify(self, batch: Batch) -> dict[str, Tensor]:
        images = self.views(batch.images) if self.training else batch.images
        features = self.image_encoder.encode(images)  # (b, width)
        logits = self.head(features)  # (b, classes)
        right = logits.detach().argmax(dim=1) == batch.labels
        return {
            "loss": F.cross_entropy(logits, batch.labels),
            "accuracy": right.float().mean(),
            "embeddings": features.detach(),
            "chance": torch.tensor(math.log(self.classes)),
        }

    def _supcon(self, batch: Batch) -> dict[str, Tensor]:
        require_two_pictures(batch)
        both = self.views(batch.images.repeat(2, 1, 1, 1))  # (2b, 3, h, w)
        a, b = self.head(self.image_encoder.encode(both)).chunk(2)  # (b, dim) each
        return {
            "loss": supcon_loss(a, b, batch.labels, self.config.temperature),
            **similarities(a, b),
            "embeddings": a.detach(),
            "chance": torch.tensor(math.log(2 * len(batch) - 1)),
        }
