"""Learning with labels, as a baseline for the other methods: cross-entropy or SupCon.

Cross-entropy predicts a picture's class. SupCon (Khosla et al. 2020, "Supervised Contrastive
Learning") is SimCLR with labels: all views of a class are positives of each other.
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
from cmssf_lib.losses.precision import similarities
from cmssf_lib.methods.base import Method, require_two_pictures
from cmssf_lib.settings import settings
from cmssf_lib.views import Views, ViewsConfig


@settings
class SupervisedConfig:
    """Learning with labels, for comparison."""

    loss: Literal["cross_entropy", "supcon"]  # predict the class, or contrast pairs of views
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
            raise ValueError(f"classes must be at least 2, got {classes}")
        self.config = config
        self.classes = classes
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        # `features` ends before the head, whichever it is.
        self.head: nn.Module = (
            nn.Linear(image_encoder.width, classes)
            if config.loss == "cross_entropy"
            else ProjectionHead(image_encoder.width, config.hidden, config.dim)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the class of every picture, or compare every view with every other.

        Training draws one random view of each picture (cross-entropy) or two (SupCon). In
        evaluation the classifier gets the unchanged picture; SupCon still draws two views, because
        with two identical pictures the task would be trivial. Evaluation changes no state.

        Returns:
            As `Method.loss`, with "accuracy" (cross-entropy), or "positive_similarity" and
            "negative_similarity" between pictures, not classes (SupCon).

        Raises:
            ValueError: If a label is not one of the classes, or SupCon gets a single picture.
        """
        if batch.labels.device.type == "cpu":  # on a GPU, looking at them would wait for it
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
        return {
            "loss": F.cross_entropy(logits, batch.labels),
            "accuracy": (logits.argmax(dim=1) == batch.labels).float().mean(),
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
