"""DINO: self-distillation without labels, from large views to small ones.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers".

    all views    → ImageEncoder    → head ── / student temperature ─→ softmax ─┐
                       ┊ EMA          ┊ EMA                                    ├→ cross-entropy
    global views → teacher encoder → head ── - centre, / teacher t. ─→ softmax ┘

for all pairs of different views of a picture (algorithm 1).
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, cls_attention
from cmssf_lib.losses import dino_loss, update_centre
from cmssf_lib.methods.base import Images, Method, require_two_pictures
from cmssf_lib.methods.moco import momentum_copy, momentum_schedule, momentum_update
from cmssf_lib.settings import Fraction, settings
from cmssf_lib.views import Views, ViewsConfig, multi_crop


@settings
class DINOConfig:
    """DINO (chapter 6)."""

    hidden: PositiveInt  # width of the head's hidden layers
    head_norm: bool  # whether these have a batch norm
    bottleneck: PositiveInt  # width just before the prototypes
    prototypes: Annotated[int, Field(ge=2)]  # number of outputs of student and teacher
    student_temperature: PositiveFloat  # divides the student's logits
    teacher_temperature: PositiveFloat  # divides the teacher's logits; smaller, which sharpens
    centre_momentum: Fraction  # EMA momentum of the centre
    momentum: Fraction  # EMA momentum of the teacher in the first step; rises to 1
    freeze_last: Fraction  # initial fraction of the training with frozen prototypes
    local_crops: NonNegativeInt  # small views of a picture, in addition to two large ones
    local_size: PositiveInt  # side of a small view in pixels
    views: ViewsConfig  # how a large view is made
    local_views: ViewsConfig  # how a small view is made


class DINOHead(nn.Module):
    """Head from [CLS] to one logit per prototype (section 3.1 and appendix C).

    An MLP ends in a narrow bottleneck. Its output and the prototypes have length one, so a logit
    is a cosine. This is the paper's weight-normalised last layer with its gain fixed at 1. The
    paper's head has no batch norm, but its code offers it as an option. A short training needs it:
    the [CLS] vectors of an untrained network are nearly equal, and batch norm magnifies their
    differences.

    Args:
        width: Width of the encoder.
        hidden: Width of the two hidden layers.
        bottleneck: Dimensions just before the prototypes.
        prototypes: Number of outputs.
        norm: Whether the hidden layers have a batch norm.
    """

    def __init__(
        self, width: int, hidden: int, bottleneck: int, prototypes: int, *, norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (width, hidden):
            layers += [nn.Linear(before, hidden, bias=not norm)]
            layers += [nn.BatchNorm1d(hidden)] if norm else []
            layers += [nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck) / bottleneck**0.5)

    def forward(
        self, features: Float[Tensor, "b width"], frozen: bool = False
    ) -> tuple[Float[Tensor, "b prototypes"], Float[Tensor, "b bottleneck"]]:
        """Return the logits, and the bottleneck's unit vectors.

        Args:
            features: From the encoder.
            frozen: Whether to keep gradients from the prototypes. Their ``grad`` stays ``None``, so
                the optimizer skips them: neither its moments nor weight decay change them.
        """
        z = F.normalize(self.mlp(features), dim=1)  # (b, bottleneck)
        prototypes = self.prototypes.detach() if frozen else self.prototypes
        return z @ F.normalize(prototypes, dim=1).T, z


class DINO(Method):
    """Learns without labels to predict the teacher's output for a large view from other views.

    Two opposite mechanisms prevent a constant output (section 5.3). Centring subtracts the mean
    of the teacher's logits; alone, it would lead to a uniform output. Sharpening by the teacher's
    low temperature would, alone, lead to the same single prototype for all pictures.

    Args:
        image_encoder: The student's, a vision transformer; trained. The teacher's copy is kept.
        config: Head, temperatures, momenta, views.

    Attributes:
        centre: ``(prototypes,)``, running mean of the teacher's logits.
        progress: The last value given to `after_step`; decides whether the prototypes are frozen.

    Raises:
        ValueError: If patches do not tile the small views.
    """

    lasting = ("teacher_encoder.",)
    centre: Tensor

    def __init__(self, image_encoder: ImageEncoder, config: DINOConfig) -> None:
        super().__init__()
        self.config = config
        self.views, self.local_views = Views(config.views), Views(config.local_views)
        self.image_encoder = image_encoder
        self.image_encoder.grid(config.local_size)  # refuses a size that patches do not tile
        shape = (config.hidden, config.bottleneck, config.prototypes)
        self.head = DINOHead(image_encoder.width, *shape, norm=config.head_norm)
        self.teacher_encoder = momentum_copy(self.image_encoder)
        self.teacher_head = momentum_copy(self.head)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.progress = 0.0

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compare the outputs of student and teacher for different views of each picture.

        Training then updates the centre. Evaluation also draws views, but keeps the centre.

        Returns:
            As `Method.loss`, with "teacher_entropy" and "kl", the divergence of the student from
            the teacher, which add up to the loss. The "embeddings" are those of the bottleneck.

        Raises:
            ValueError: If the head has batch norms and the batch holds a single picture.
        """
        c = self.config
        if c.head_norm:
            require_two_pictures(batch, "the batch norms of the head")
        size, count = c.local_size, c.local_crops
        crops = multi_crop(
            batch.images, self.views, self.local_views, local_size=size, local_crops=count
        )
        large = torch.cat(crops[:2])  # (2b, 3, h, w)
        features = self.image_encoder.encode(large)
        if count:
            small = self.image_encoder.encode(torch.cat(crops[2:]), size=size)
            features = torch.cat([features, small])  # (views · b, width)
        logits, z = self.head(features, frozen=self.phase())
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher_encoder.encode(large))[0].chunk(2)
        temperatures = (c.student_temperature, c.teacher_temperature)
        loss = dino_loss(logits.chunk(len(crops)), teacher, self.centre, *temperatures)
        log_p = F.log_softmax((torch.cat(teacher) - self.centre) / c.teacher_temperature, dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
        if self.training:  # after the centre was used
            self.centre.copy_(update_centre(self.centre, teacher, c.centre_momentum))
        return {
            "loss": loss,
            "teacher_entropy": entropy,
            "kl": loss.detach() - entropy,
            "embeddings": z[: len(batch)].detach(),
            "chance": torch.tensor(math.log(c.prototypes)),
        }

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student, after each step of the optimizer.

        Args:
            progress: Fraction of the training that is done, 0 to 1. With it, the momentum rises
                to 1; from ``freeze_last`` on, the prototypes are trained.
        """
        momentum = momentum_schedule(progress, self.config.momentum)
        momentum_update(self.image_encoder, self.teacher_encoder, momentum)
        momentum_update(self.head, self.teacher_head, momentum)
        self.progress = progress

    def phase(self) -> bool:
        """Return whether the prototypes are frozen."""
        return self.progress < self.config.freeze_last

    def get_extra_state(self) -> Float[Tensor, ""]:
        """Save the progress with the weights, so that an interrupted run resumes exactly."""
        return torch.tensor(self.progress, dtype=torch.float64)

    def set_extra_state(self, state: Float[Tensor, ""]) -> None:
        """Restore what `get_extra_state` returned."""
        self.progress = float(state)

    def features(self, images: Images) -> Float[Tensor, "b width"]:
        """Return the teacher's [CLS] vector, without head or views."""
        return self.teacher_encoder(images)

    def attention(
        self, images: Images, size: int | None = None
    ) -> Float[Tensor, "b heads rows columns"]:
        """Return the attention of the teacher's [CLS] to each patch (see `cls_attention`)."""
        return cls_attention(self.teacher_encoder, images, size)
