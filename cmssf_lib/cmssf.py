"""CMSSF: contrastive multimodal self-supervised fusion, the model of the source chapter.

Two encoders, two projection heads, one shared space (its Figure 1 and section 3.3):

    picture → ImageEncoder → [CLS] → ProjectionHead ─┐
                                                     ├→ shared space → contrastive loss
    caption → TextEncoder  → [CLS] → ProjectionHead ─┘
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, ProjectionHead, TextEncoder
from cmssf_lib.hub import OnTheHub
from cmssf_lib.losses import (
    duplicate_floor,
    excess_loss,
    image_text_loss,
    masked_loss,
    multi_positive_loss,
)
from cmssf_lib.presets import CMSSFConfig, TextConfig, VisionConfig
from cmssf_lib.processes import gather
from cmssf_lib.timing import stopwatch
from cmssf_lib.views import Views, as_float

LOSSES = ("one_hot", "multi_positive", "masked", "excess")
IMAGE_LOSSES = ("", "simclr", "dino")
MAX_SCALE = 100.0  # CLIP, section 2.5: a larger scale makes training unstable


class CMSSF(nn.Module, OnTheHub):
    """Learns a space where a picture lies close to its caption.

    `save_pretrained` writes a trained one into a folder and `from_pretrained` reads it, without
    the data that it was trained on (see `cmssf_lib.hub`).

    Args:
        vision: The image encoder.
        text: The text encoder.
        config: Shared space, loss, views.
        captions: Texts the tokenizer is built from (for a text encoder from scratch).
        text_folder: See `TextEncoder`; a pretrained text encoder's own parts.
        image_task: What the image encoder learns beside (``config.image_loss``): a `SimCLR` or a
            `DINO`, whose encoder becomes this model's.

    Attributes:
        image_task: As given, or ``None``.

    Raises:
        ValueError: If the loss is unknown, the temperature outside 0.01 to 1, a number negative,
            micro-batches meet a batch norm, a frozen encoder has a task, the task is not the one
            that the configuration names, or an encoder's configuration is inconsistent.
    """

    #: `loss` gathers the vectors of all processes that train together; a task beside does not.
    compares_all_processes = True

    def __init__(
        self,
        vision: VisionConfig,
        text: TextConfig,
        config: CMSSFConfig,
        captions: Sequence[str] = (),
        text_folder: str | Path | None = None,
        image_task: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if config.loss not in LOSSES:
            raise ValueError(f"unknown loss {config.loss!r}; choose one of {', '.join(LOSSES)}")
        if not 1 / MAX_SCALE <= config.temperature <= 1:
            raise ValueError(
                f"the temperature lies between {1 / MAX_SCALE} and 1, where `after_step` keeps "
                f"it; got {config.temperature}"
            )
        for name in ("chunk", "micro_batch"):
            if (number := getattr(config, name)) < 0:
                raise ValueError(f"{name} is {number}; give how many at a time, or 0 for all")
        for name in ("depth", "cached_views", "image_weight"):
            if (number := getattr(config, name)) < 0:
                raise ValueError(f"{name} is {number}; give 0 or more")
        _check_task(config, image_task)
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = ImageEncoder(vision) if image_task is None else _shared(image_task)
        self.text_encoder = TextEncoder(text, captions, text_folder)
        shape = (config.hidden, config.dim, config.depth)
        self.image_head = ProjectionHead(self.image_encoder.width, *shape, norm=config.head_norm)
        # Without a norm: each caption is encoded once, however many pictures of a batch have it.
        self.text_head = ProjectionHead(self.text_encoder.width, *shape)
        self.image_task = image_task
        if config.freeze_image:
            self.image_encoder.requires_grad_(False)
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        if config.micro_batch and any(isinstance(module, norms) for module in self.modules()):
            raise ValueError(
                f"micro_batch={config.micro_batch} and batch norm: each part of the batch would be "
                "normed by itself, and the gradients be others. Take norm='group' for the stem, "
                "and no norm in the head"
            )
        # Learned as a logarithm, so that a step changes it by a factor and it stays positive.
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """What similarities are multiplied by before the softmax: one over the temperature."""
        return self.log_scale.exp()

    def encode_image(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b dim"]:
        """Return each picture's place in the shared space, a vector of length one."""
        return self.project(self.features(images))

    def encode_text(self, captions: Sequence[str]) -> Float[Tensor, "captions dim"]:
        """Return each caption's place in the shared space, a vector of length one."""
        return F.normalize(self.text_head(self.text_encoder(captions)), dim=1)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compare every picture of the batch with every caption.

        Training shows each picture in one random view; evaluation shows it as it is. Where
        several processes train together, each encodes its own part of the batch, and all
        compare the whole.

        Returns:
            "loss", which is stepped on, and what is only logged: the "floor" that equal
            captions put under the one-hot loss, the mean similarity of a picture with its
            own caption ("positive_similarity") and with another caption
            ("negative_similarity"), and the "logit_scale".

        Raises:
            ValueError: If the batch holds a single picture: there is nothing to contrast.
        """
        image = self._image_vectors(batch)  # (b, dim)
        # Each different caption is encoded once; pictures that share it share its vector. With
        # several threads the gradient of text[index] would be added up in a changing order.
        text = self._in_parts(self.encode_text, batch.captions)  # (captions, dim)
        text = text.index_select(0, batch.caption_index)  # (b, dim)
        groups, scale, chunk = batch.groups, self.logit_scale, self.config.chunk
        if self.training:  # one process alone evaluates
            image, text, groups = gather(image), gather(text), gather(groups)
        if self.config.loss == "one_hot":
            loss = image_text_loss(image, text, scale, chunk=chunk)
        elif self.config.loss == "multi_positive":
            loss = multi_positive_loss(image, text, groups, scale, chunk=chunk)
        elif self.config.loss == "masked":
            loss = masked_loss(image, text, groups, scale, chunk=chunk)
        else:
            loss = excess_loss(image, text, groups, scale, chunk=chunk)
        with torch.no_grad():
            logged = {
                "floor": duplicate_floor(groups),
                "positive_similarity": (image * text).sum(dim=1).mean(),
                "negative_similarity": negative_similarity(image, text, groups),
                "logit_scale": scale.detach(),
            }
        if self.image_task is not None:
            beside = self.image_task.loss(batch)["loss"]  # type: ignore[operator]
            logged |= {"image_text_loss": loss.detach(), "image_loss": beside.detach()}
            loss = loss + self.config.image_weight * beside
        return {"loss": loss, **logged}

    def _image_vectors(self, batch: Batch) -> Float[Tensor, "b dim"]:
        """Return the pictures' places in the shared space, from cached features where there are."""
        if batch.features is not None:
            if not self.config.freeze_image:
                raise ValueError(
                    "the data brings features of a frozen image encoder, and this one learns: "
                    "train on data without them, or set freeze_image"
                )
            b, views, _ = batch.features.shape
            if views == 1 or not self.training:
                return self.project(batch.features[:, 0])
            drawn = torch.randint(views, (b,))
            return self.project(batch.features[torch.arange(b), drawn])
        with stopwatch("views"), torch.no_grad():
            images = self.views(batch.images) if self.training else as_float(batch.images)
        return self._in_parts(self.encode_image, images)

    def train(self, mode: bool = True) -> "CMSSF":
        """Switch to training; a frozen image encoder stays as it is, its running means too."""
        super().train(mode)
        if self.config.freeze_image:
            self.image_encoder.eval()
        return self

    def _in_parts(
        self, encode: Callable[[Any], Float[Tensor, "n dim"]], inputs: Tensor | Sequence[str]
    ) -> Float[Tensor, "n dim"]:
        """Encode some inputs at a time, and keep of each part no more than its vectors.

        On the way back a part is encoded once more, with the same random numbers, and gets its
        gradient. So a batch of any size takes the memory of one part, and its loss still compares
        everything with everything (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size
        under Memory Limited Setup", GradCache).
        """
        size = self.config.micro_batch
        if not (size and self.training):
            return encode(inputs)
        starts = range(0, len(inputs), size)
        parts = [checkpoint(encode, inputs[i : i + size], use_reentrant=False) for i in starts]
        return torch.cat(parts)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Keep the logit scale between 1 and 100, after each step of the optimizer.

        Args:
            progress: Part of the training that is done, 0 to 1; a momentum schedule follows it.
        """
        self.log_scale.clamp_(0, math.log(MAX_SCALE))
        if self.image_task is not None:
            self.image_task.after_step(progress)  # type: ignore[operator]

    def project(self, features: Float[Tensor, "b width"]) -> Float[Tensor, "b dim"]:
        """Take what `features` returned on to the shared space."""
        return F.normalize(self.image_head(features), dim=1)

    def features(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the image encoder's [CLS] vector: no head, no view."""
        return self.image_encoder(images)


def _shared(task: nn.Module) -> ImageEncoder:
    """Take a task's encoder, which it goes on using: two owners would save its weights twice."""
    encoder = task.image_encoder
    assert isinstance(encoder, ImageEncoder)
    del task.image_encoder
    task.__dict__["image_encoder"] = encoder  # seen, and not registered as a part
    return encoder


def _check_task(config: CMSSFConfig, task: nn.Module | None) -> None:
    given = "" if task is None else type(task).__name__.lower()
    if config.image_loss not in IMAGE_LOSSES:
        raise ValueError(
            f"unknown image_loss {config.image_loss!r}; choose one of "
            f"{', '.join(IMAGE_LOSSES[1:])}, or '' for none"
        )
    if given != config.image_loss:
        raise ValueError(
            f"image_loss is {config.image_loss!r}, but image_task is {given or None!r}: give the "
            "method that it names"
        )
    if task is not None and config.freeze_image:
        raise ValueError("freeze_image and image_loss: a frozen encoder cannot learn a task beside")


def negative_similarity(
    image: Float[Tensor, "b dim"], text: Float[Tensor, "b dim"], groups: Int[Tensor, "b"]
) -> Float[Tensor, ""]:
    """Return the mean similarity of a picture and a text of another group.

    The sum over all pairs is the product of the two sums; that over the pairs of a group is the
    same with the group's own sums. So no matrix of all pairs is needed.

    Args:
        image: Vectors of length one.
        text: Likewise; row i belongs to row i of `image`.
        groups: Equal numbers mark equal captions.

    Returns:
        The mean, or zero if all pairs are of one group, and none is negative.
    """
    _, group, size = groups.unique(return_inverse=True, return_counts=True)
    sums = [x.new_zeros(len(size), x.shape[1]).index_add_(0, group, x) for x in (image, text)]
    everywhere = image.sum(dim=0) @ text.sum(dim=0)
    pairs = len(groups) ** 2 - size.square().sum()
    return (everywhere - (sums[0] * sums[1]).sum()) / pairs.clamp(min=1)
