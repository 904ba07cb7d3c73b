"""DINO: self-distillation with no labels, from large views to small ones.

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
    prototypes: Annotated[int, Field(ge=2)]  # outputs that student and teacher agree on
    student_temperature: PositiveFloat  # divides the student's logits
    teacher_temperature: PositiveFloat  # divides the teacher's; smaller, which sharpens
    centre_momentum: Fraction  # part of itself that the centre keeps in a step
    momentum: Fraction  # part of itself that the teacher keeps in the first step; rises to 1
    freeze_last: Fraction  # part of the training during which the prototypes are not moved
    local_crops: NonNegativeInt  # small views of a picture, beside two large ones
    local_size: PositiveInt  # side of a small view in pixels
    views: ViewsConfig  # how a large view is made
    local_views: ViewsConfig  # how a small view is made


class DINOHead(nn.Module):
    """From [CLS] to one logit a prototype (section 3.1 and appendix C).

    An MLP ends in a narrow bottleneck. Its output and the prototypes have length one, so a logit
    is a cosine. This is the paper's weight-normalised last layer with its gain fixed at 1, in one
    line. The paper's head has no batch norm; its code has it as an option. In a short training
    it is needed: the [CLS] vectors of an untrained network are nearly equal, and the norm
    magnifies what differs.

    Args:
        width: Of the encoder.
        hidden: Of the two hidden layers.
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
            frozen: Let no gradient reach the prototypes. They then have none at all, so the
                optimizer passes them by: neither its moments nor weight decay move them.
        """
        z = F.normalize(self.mlp(features), dim=1)  # (b, bottleneck)
        prototypes = self.prototypes.detach() if frozen else self.prototypes
        return z @ F.normalize(prototypes, dim=1).T, z


class DINO(Method):
    """Learns without labels: say about a small view what the teacher says about a large one.

    Two opposite forces keep the output from becoming constant (section 5.3). The centre takes
    away what the teacher says of all pictures alike, which alone would end in a uniform output;
    the low teacher temperature sharpens, which alone would end in one prototype for all.

    Args:
        image_encoder: The student's; a vision transformer. The teacher's copy of it is kept.
        config: Head, temperatures, momenta, views.

    Attributes:
        centre: ``(prototypes,)``, running mean of the teacher's logits.
        progress: What `after_step` was told last; decides whether the prototypes are frozen.

    Raises:
        ValueError: If small views are no whole number of patches.
    """

    lasting = ("teacher_encoder.",)
    centre: Tensor
    progress: Tensor

    def __init__(self, image_encoder: ImageEncoder, config: DINOConfig) -> None:
        super().__init__()
        self.config = config
        self.views, self.local_views = Views(config.views), Views(config.local_views)
        self.image_encoder = image_encoder
        self.image_encoder.grid(config.local_size)  # refuses what no patches tile
        self.head = DINOHead(
            self.image_encoder.width,
            config.hidden,
            config.bottleneck,
            config.prototypes,
            norm=config.head_norm,
        )
        self.teacher_encoder = momentum_copy(self.image_encoder)
        self.teacher_head = momentum_copy(self.head)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("progress", torch.tensor(0.0))

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compare what student and teacher say about different views of each picture.

        Training then moves the centre. Evaluation draws views as well, but leaves the centre.

        Returns:
            As `Method.loss`, with "teacher_entropy" and "kl", the divergence of the student from
            the teacher, which add up to the loss. The "embeddings" are those of the bottleneck.

        Raises:
            ValueError: If the head has batch norms and the batch holds a single picture.
        """
        c = self.config
        if c.head_norm:
            require_two_pictures(batch, "for the batch norms of the head")
        crops = multi_crop(
            batch.images,
            self.views,
            self.local_views,
            local_size=c.local_size,
            local_crops=c.local_crops,
        )
        large = torch.cat(crops[:2])  # (2b, 3, h, w)
        features = self.image_encoder.encode(large)
        if c.local_crops:
            small = self.image_encoder.encode(torch.cat(crops[2:]), size=c.local_size)
            features = torch.cat([features, small])  # (views · b, width)
        logits, z = self.head(features, frozen=float(self.progress) < c.freeze_last)
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher_encoder.encode(large))[0].chunk(2)
        loss = dino_loss(
            logits.chunk(len(crops)),
            teacher,
            self.centre,
            c.student_temperature,
            c.teacher_temperature,
        )
        log_p = F.log_softmax((torch.cat(teacher) - self.centre) / c.teacher_temperature, dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
        if self.training:  # after its use, and a new tensor each time
            self.centre = update_centre(self.centre, teacher, c.centre_momentum)
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
            progress: Part of the training that is done, 0 to 1; the momentum rises with it to
                1, and from ``freeze_last`` on the prototypes are trained.
        """
        momentum = momentum_schedule(progress, self.config.momentum)
        momentum_update(self.image_encoder, self.teacher_encoder, momentum)
        momentum_update(self.head, self.teacher_head, momentum)
        self.progress.fill_(progress)

    def features(self, images: Images) -> Float[Tensor, "b width"]:
        """Return the teacher's [CLS] vector: no head, no view."""
        features: Tensor = self.teacher_encoder(images)
        return features

    def attention(
        self, images: Images, size: int | None = None
    ) -> Float[Tensor, "b heads rows columns"]:
        """Return where the teacher's [CLS] looks (see `cls_attention`)."""
        return cls_attention(self.teacher_encoder, images, size)
