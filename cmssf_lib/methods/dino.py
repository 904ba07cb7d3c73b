"""DINO: self-distillation with no labels, from large views to small ones.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers".

    all views    → ImageEncoder    → head ── / student temperature ─→ softmax ─┐
                       ┊ EMA          ┊ EMA                                    ├→ cross-entropy
    global views → teacher encoder → head ── - centre, / teacher t. ─→ softmax ┘

for all pairs of different views of a picture (algorithm 1).
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, cls_attention
from cmssf_lib.losses import dino_loss, update_centre
from cmssf_lib.methods.checks import check_momentum, check_norms
from cmssf_lib.methods.collapse import spread
from cmssf_lib.methods.ema import momentum_copy, momentum_schedule, momentum_update
from cmssf_lib.methods.memory import bytes_a_picture, free_bytes
from cmssf_lib.presets import DINOConfig, VisionConfig
from cmssf_lib.timing import stopwatch
from cmssf_lib.views import multi_crop


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


class DINO(nn.Module):
    """Learns without labels: say about a small view what the teacher says about a large one.

    Two opposite forces keep the output from becoming constant (section 5.3). The centre takes
    away what the teacher says of all pictures alike, which alone would end in a uniform output;
    the low teacher temperature sharpens, which alone would end in one prototype for all.

    Args:
        vision: The image encoder; a vision transformer.
        config: Head, temperatures, momenta, views.

    Attributes:
        centre: ``(prototypes,)``, running mean of the teacher's logits.
        progress: What `after_step` was told last; decides whether the prototypes are frozen.

    Raises:
        ValueError: If a temperature is not positive, a momentum not between 0 and 1, or small
            views are no whole number of patches.
    """

    centre: Tensor
    progress: Tensor

    def __init__(self, vision: VisionConfig, config: DINOConfig) -> None:
        super().__init__()
        check_momentum(config.momentum)
        check_momentum(config.centre_momentum)
        if not (config.student_temperature > 0 and config.teacher_temperature > 0):
            raise ValueError(
                f"the temperatures are {config.student_temperature} (student) and "
                f"{config.teacher_temperature} (teacher); they divide the logits: give > 0"
            )
        if config.local_crops < 0 or config.prototypes < 2 or not 0 <= config.freeze_last <= 1:
            raise ValueError(
                "expected local_crops of at least 0, at least 2 prototypes and freeze_last "
                f"between 0 and 1; got {config.local_crops}, {config.prototypes} and "
                f"{config.freeze_last}"
            )
        self.config = config
        self.image_encoder = ImageEncoder(vision)
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
        self._fitting = 0  # the largest batch that was found to fit into memory

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compare what student and teacher say about different views of each picture.

        Training then moves the centre. Evaluation draws views as well, but leaves the centre.

        Returns:
            "loss", which is stepped on, and what is only logged: "teacher_entropy" and "kl",
            the divergence of the student from it, which add up to the loss; "feature_std" and
            "rank" of the bottleneck and "chance" = ln K (see `cmssf_lib.methods.collapse`).

        Raises:
            MemoryError: If so many views of so many pictures do not fit into memory; before the
                first step with that many.
            ValueError: If the head has batch norms and the batch holds a single picture.
        """
        c = self.config
        if c.head_norm:
            check_norms(batch, "the head")
        if self.training and len(batch) > self._fitting:
            self._check_memory(batch)
        with stopwatch("views"), torch.no_grad():
            views = multi_crop(
                batch.images,
                c.views,
                c.local_views,
                local_size=c.local_size,
                local_crops=c.local_crops,
            )
        large = torch.cat(views[:2])  # (2b, 3, h, w)
        features = self.image_encoder(large)
        if c.local_crops:
            small = self.image_encoder(torch.cat(views[2:]), size=c.local_size)
            features = torch.cat([features, small])  # (views · b, width)
        logits, z = self.head(features, frozen=float(self.progress) < c.freeze_last)
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher_encoder(large))[0].chunk(2)
        loss = dino_loss(
            logits.chunk(len(views)),
            teacher,
            self.centre,
            c.student_temperature,
            c.teacher_temperature,
        )
        with stopwatch("logging"), torch.no_grad():
            log_p = F.log_softmax((torch.cat(teacher) - self.centre) / c.teacher_temperature, 1)
            entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
        if self.training:  # after its use, and a new tensor each time
            self.centre = update_centre(self.centre, teacher, c.centre_momentum)
        return {
            "loss": loss,
            "teacher_entropy": entropy,
            "kl": loss.detach() - entropy,
            **spread(z[: len(batch)], math.log(c.prototypes)),
        }

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)

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

    def features(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the teacher's [CLS] vector: no head, no view."""
        return self.teacher_encoder(images)

    def attention(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], size: int | None = None
    ) -> Float[Tensor, "b heads rows columns"]:
        """Return where the teacher's [CLS] looks (see `cls_attention`)."""
        return cls_attention(self.teacher_encoder, images, size)

    def step_bytes(self, b: int) -> int:
        """Estimate the memory that the activations of a step with b pictures take."""
        c, encoder = self.config, self.image_encoder
        total = 2 * bytes_a_picture(encoder, encoder, encoder.config.image_size)
        if c.local_crops:
            total += c.local_crops * bytes_a_picture(
                encoder, lambda x: encoder(x, size=c.local_size), c.local_size
            )
        return b * (total + 3 * 4 * c.prototypes * (2 + c.local_crops))

    def _check_memory(self, batch: Batch) -> None:
        """Refuse a step that cannot fit, before anything is spoilt."""
        needed, free = self.step_bytes(len(batch)), free_bytes(self.centre.device)
        if needed > free:
            raise MemoryError(
                f"two large and {self.config.local_crops} small views of {len(batch)} pictures "
                f"take about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: choose "
                "fewer local_crops, a smaller batch or a smaller local_size"
            )
        self._fitting = len(batch)
