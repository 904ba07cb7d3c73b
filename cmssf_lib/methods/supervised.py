"""Learning with labels, to compare the others with: cross-entropy, or SupCon.

Cross-entropy asks for a picture's class. SupCon (Khosla et al. 2020, "Supervised Contrastive
Learning") is SimCLR with labels: all views of a class are each other's partners.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, ProjectionHead
from cmssf_lib.losses import supcon_loss
from cmssf_lib.losses.two_views import check_temperature
from cmssf_lib.methods.checks import check_batch
from cmssf_lib.methods.collapse import spread
from cmssf_lib.methods.simclr import similarities
from cmssf_lib.presets import SupervisedConfig, VisionConfig
from cmssf_lib.timing import stopwatch
from cmssf_lib.views import Views, as_float

LOSSES = ("cross_entropy", "supcon")


class Supervised(nn.Module):
    """Learns from labels.

    Args:
        vision: The image encoder.
        config: Which loss; views; for SupCon also the head (the paper's MLP with one hidden
            layer) and the temperature.
        classes: Number of classes; at least two.

    Raises:
        ValueError: If the loss is unknown, there are fewer than two classes, the temperature is
            not positive, or the encoder's configuration inconsistent.
    """

    def __init__(self, vision: VisionConfig, config: SupervisedConfig, classes: int) -> None:
        super().__init__()
        if config.loss not in LOSSES:
            raise ValueError(f"unknown loss {config.loss!r}; choose one of {', '.join(LOSSES)}")
        if classes < 2:
            raise ValueError(
                f"there is nothing to learn from {classes} class: expected two or more"
            )
        check_temperature(config.temperature)
        self.config = config
        self.classes = classes
        self.views = Views(config.views)
        self.image_encoder = ImageEncoder(vision)
        width = self.image_encoder.width
        # Thrown away after training, both of them: `features` ends before.
        self.head: nn.Module = (
            nn.Linear(width, classes)
            if config.loss == "cross_entropy"
            else ProjectionHead(width, config.hidden, config.dim)
        )

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Ask for the class of every picture, or compare every view with every other.

        Training shows a picture in one random view (cross-entropy) or two (SupCon). Evaluation
        shows it as it is to the classifier; SupCon still draws its two views, because two equal
        pictures would be no question. It changes no state.

        Returns:
            "loss", which is stepped on, and what is only logged: "accuracy" (cross-entropy) or
            "positive_similarity" and "negative_similarity" of pictures, not of classes
            (SupCon); "feature_std" and "rank" of the features or the embeddings, and "chance"
            (see `cmssf_lib.methods.collapse`).

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

    def _classify(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        with stopwatch("views"), torch.no_grad():
            images = self.views(batch.images) if self.training else as_float(batch.images)
        features = self.features(images)  # (b, width)
        logits = self.head(features)  # (b, classes)
        with stopwatch("logging"), torch.no_grad():
            accuracy = (logits.argmax(dim=1) == batch.labels).float().mean()
        return {
            "loss": F.cross_entropy(logits, batch.labels),
            "accuracy": accuracy,
            **spread(features, math.log(self.classes)),
        }

    def _supcon(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        check_batch(batch)
        with stopwatch("views"), torch.no_grad():
            both = self.views(batch.images.repeat(2, 1, 1, 1))  # (2b, 3, h, w)
        a, b = self.head(self.features(both)).chunk(2)  # (b, dim) each
        loss = supcon_loss(a, b, batch.labels, self.config.temperature)
        return {"loss": loss, **similarities(a, b), **spread(a, math.log(2 * len(batch) - 1))}

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)

    def after_step(self, progress: float) -> None:
        """Do nothing: all that is learned, is learned by the gradient.

        Args:
            progress: Part of the training that is done, 0 to 1.
        """

    def features(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the image encoder's [CLS] vector: no head, no view."""
        return self.image_encoder(images)
