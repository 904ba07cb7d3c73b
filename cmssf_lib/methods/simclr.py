"""SimCLR: two views of a picture agree, against all other pictures of the batch.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".

    picture ─┬→ view a ─┐                                     ┌─ z_a ─┐
             │          ├→ ImageEncoder → [CLS] → head ───────┤       ├→ NT-Xent
             └→ view b ─┘   (one network, one forward)        └─ z_b ─┘
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, ProjectionHead
from cmssf_lib.losses import nt_xent
from cmssf_lib.losses.two_views import check_temperature
from cmssf_lib.methods.checks import check_batch
from cmssf_lib.methods.collapse import spread
from cmssf_lib.presets import SimCLRConfig, VisionConfig
from cmssf_lib.timing import stopwatch
from cmssf_lib.views import Views


class SimCLR(nn.Module):
    """Learns without labels: which two of 2b views are of the same picture?

    The head is the paper's g(h) = W₂ σ(W₁ h), an MLP with one hidden layer and without a norm: a
    batch norm there would let the embeddings that are compared see each other. It is thrown
    away after training: `features` ends before it.

    Args:
        vision: The image encoder.
        config: Head, temperature, views.

    Raises:
        ValueError: If the temperature is not positive, or the encoder's configuration
            inconsistent.
    """

    def __init__(self, vision: VisionConfig, config: SimCLRConfig) -> None:
        super().__init__()
        check_temperature(config.temperature)
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = ImageEncoder(vision)
        self.head = ProjectionHead(self.image_encoder.width, config.hidden, config.dim)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compare every view with every other.

        Evaluation draws views as well: two equal pictures would be no question. It changes no
        state; seed the global generator for the same views.

        Returns:
            "loss", which is stepped on, and what is only logged: the mean similarity of the two
            views of a picture ("positive_similarity") and of views of two pictures
            ("negative_similarity"), "feature_std", "rank" and "chance" (see
            `cmssf_lib.methods.collapse`).

        Raises:
            ValueError: If the batch holds a single picture: there is nothing to contrast.
        """
        check_batch(batch)
        with stopwatch("views"), torch.no_grad():
            both = self.views(batch.images.repeat(2, 1, 1, 1))  # (2b, 3, h, w)
        # One forward for both halves: batch norm takes its statistics over all 2b views, and
        # cannot tell the halves apart.
        a, b = self.head(self.features(both)).chunk(2)  # (b, dim) each
        loss = nt_xent(a, b, self.config.temperature)
        return {"loss": loss, **similarities(a, b), **spread(a, math.log(2 * len(batch) - 1))}

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)

    def after_step(self, progress: float) -> None:
        """Do nothing: all that SimCLR learns, it learns by the gradient.

        Args:
            progress: Part of the training that is done, 0 to 1.
        """

    def features(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the image encoder's [CLS] vector: no head, no view."""
        return self.image_encoder(images)


@torch.no_grad()
def similarities(
    a: Float[Tensor, "b dim"], b: Float[Tensor, "b dim"]
) -> dict[str, Float[Tensor, ""]]:
    """Mean cosine similarity of the two views of a picture, and of views of two pictures.

    Args:
        a: Embeddings of the first views.
        b: Embeddings of the second views; at least two.

    Returns:
        "positive_similarity" and "negative_similarity".
    """
    with stopwatch("logging"):
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        own = (a * b).sum()
        # The sum over all pairs (i, j) is the product of the sums: no (b, b) table is needed.
        others = a.sum(dim=0) @ b.sum(dim=0) - own
        n = len(a)
        return {"positive_similarity": own / n, "negative_similarity": others / (n * (n - 1))}
