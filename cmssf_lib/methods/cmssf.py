"""CMSSF: contrastive multimodal self-supervised fusion, the model of the source chapter.

Two encoders, two projection heads, one shared space (its Figure 1 and section 3.3):

    picture → ImageEncoder → [CLS] → ProjectionHead ─┐
                                                     ├→ shared space → contrastive loss
    caption → TextEncoder  → [CLS] → ProjectionHead ─┘
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, ProjectionHead, TextEncoder
from cmssf_lib.losses import (
    duplicate_floor,
    excess_loss,
    image_text_loss,
    masked_loss,
    multi_positive_loss,
)
from cmssf_lib.losses.chunked import in_parts
from cmssf_lib.machine import from_all_processes
from cmssf_lib.methods.base import Images, Method, similarities
from cmssf_lib.settings import settings
from cmssf_lib.views import Views, ViewsConfig

#: Losses that know which captions are equal; "one_hot" is the plain one.
GROUPED = {"multi_positive": multi_positive_loss, "masked": masked_loss, "excess": excess_loss}
MAX_SCALE = 100.0  # CLIP, section 2.5: a larger scale makes training unstable


@settings
class CMSSFConfig:
    """What stands between the two encoders and the loss."""

    dim: PositiveInt  # dimensions of the shared space
    hidden: PositiveInt  # width of the projection heads' hidden layers
    depth: NonNegativeInt  # number of these; 0: a linear map
    head_norm: bool  # whether the image head's hidden layers have a batch norm
    loss: Literal["one_hot", "multi_positive", "masked", "excess"]  # see `cmssf_lib.losses`
    # The starting value; the logit scale is its inverse, is learned, and stays in these bounds.
    temperature: Annotated[float, Field(ge=1 / MAX_SCALE, le=1)]
    views: ViewsConfig  # the random view that each picture is shown in
    freeze_image: bool = False  # the image encoder stays as it begins; pictures are encoded once
    cached_views: NonNegativeInt = (
        0  # views of a picture that a frozen encoder is shown; 0: as it is
    )
    image_loss: Literal["", "simclr", "dino"] = ""  # what the image encoder learns beside
    image_weight: NonNegativeFloat = 1.0  # what that loss is multiplied by
    # These two change memory and time, and nothing else.
    chunk: NonNegativeInt = 0  # rows of the matrix of similarities in memory at a time; 0: all
    micro_batch: NonNegativeInt = 0  # inputs that go through a tower at a time; 0: all


class CMSSF(Method):
    """Learns a space where a picture lies close to its caption.

    `cmssf_lib.share` writes a trained one into a folder that needs no data, and reads it.

    Args:
        image_encoder: Of the pictures. With ``image_task``, that one's own.
        text_encoder: Of the captions.
        config: Shared space, loss, views.
        image_task: What the image encoder learns beside (``config.image_loss``): a `SimCLR` or a
            `DINO` with the same ``image_encoder``.

    Raises:
        ValueError: If micro-batches meet a batch norm, a frozen encoder has a task, or the task is
            not the one that the configuration names.
    """

    lasting = ("image_encoder.", "text_encoder.", "image_head.", "text_head.", "log_scale")
    #: `loss` gathers the vectors of all processes that train together; a task beside does not.
    compares_all_processes = True

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        config: CMSSFConfig,
        image_task: Method | None = None,
    ) -> None:
        super().__init__()
        _require_task(config, image_encoder, image_task)
        self.config = config
        self.views = Views(config.views)
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        shape = (config.hidden, config.dim, config.depth)
        self.image_head = ProjectionHead(image_encoder.width, *shape, norm=config.head_norm)
        # Without a norm: each caption is encoded once, however many pictures of a batch have it.
        self.text_head = ProjectionHead(text_encoder.width, *shape)
        self.image_task = image_task
        if image_task is not None:  # the encoder has two owners, and is saved once
            self.register_state_dict_post_hook(_without_twin)
            self.register_load_state_dict_post_hook(_twin_is_not_missing)
        if config.freeze_image:
            image_encoder.requires_grad_(False)
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        if config.micro_batch and any(isinstance(module, norms) for module in self.modules()):
            raise ValueError(
                "micro_batch and batch norm: each part of the batch would be normed by itself, and "
                "the gradients be others. Take norm='group' for the stem, and no norm in the head"
            )
        # Learned as a logarithm, so that a step changes it by a factor and it stays positive.
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """What similarities are multiplied by before the softmax: one over the temperature."""
        return self.log_scale.exp()

    def encode_image(self, images: Images) -> Float[Tensor, "b dim"]:
        """Return each picture's place in the shared space, a vector of length one."""
        return self.project(self.features(images))

    def encode_text(self, captions: Sequence[str]) -> Float[Tensor, "captions dim"]:
        """Return each caption's place in the shared space, a vector of length one."""
        return F.normalize(self.text_head(self.text_encoder(captions)), dim=1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
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
        size = self.config.micro_batch if self.training else 0  # inputs that go through a tower
        image = self._image_vectors(batch, size)  # (b, dim)
        # Each different caption is encoded once; pictures that share it share its vector. With
        # several threads the gradient of text[index] would be added up in a changing order.
        text = in_parts(self.encode_text, batch.captions, size)  # (captions, dim)
        text = text.index_select(0, batch.caption_index)  # (b, dim)
        groups, scale, chunk = batch.groups, self.logit_scale, self.config.chunk
        if self.training:  # one process alone evaluates
            image, text, groups = (from_all_processes(x) for x in (image, text, groups))
        if self.config.loss == "one_hot":
            loss = image_text_loss(image, text, scale, chunk=chunk)
        else:
            loss = GROUPED[self.config.loss](image, text, groups, scale, chunk=chunk)
        logged = {
            "floor": duplicate_floor(groups),
            **similarities(image, text, groups),
            "logit_scale": scale.detach(),
        }
        if self.image_task is not None:
            beside = self.image_task.loss(batch)["loss"]
            logged |= {"image_text_loss": loss.detach(), "image_loss": beside.detach()}
            loss = loss + self.config.image_weight * beside
        return {"loss": loss, **logged}

    def _image_vectors(self, batch: Batch, size: int) -> Float[Tensor, "b dim"]:
        """Return the pictures' places in the shared space, from cached features where there are."""
        if batch.features is None:
            images = self.views(batch.images) if self.training else batch.images
            return in_parts(self._encode_views, images, size)
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

    def _encode_views(self, views: Images) -> Float[Tensor, "b dim"]:
        return self.project(self.image_encoder.encode(views))

    def train(self, mode: bool = True) -> "CMSSF":
        """Switch to training; a frozen image encoder stays as it is, its running means too."""
        super().train(mode)
        if self.config.freeze_image:
            self.image_encoder.eval()
        return self

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Keep the logit scale between 1 and 100, after each step of the optimizer.

        Args:
            progress: Part of the training that is done, 0 to 1; a momentum schedule follows it.
        """
        self.log_scale.clamp_(0, math.log(MAX_SCALE))
        if self.image_task is not None:
            self.image_task.after_step(progress)

    def project(self, features: Float[Tensor, "b width"]) -> Float[Tensor, "b dim"]:
        """Take what `features` returned on to the shared space."""
        return F.normalize(self.image_head(features), dim=1)


TWIN = "image_task.image_encoder."  # names under which the task has the image encoder, too


def _without_twin(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    for name in [name for name in state if name.startswith(prefix + TWIN)]:
        del state[name]


def _twin_is_not_missing(_: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if TWIN not in name]


def _require_task(config: CMSSFConfig, encoder: ImageEncoder, task: Method | None) -> None:
    """Refuse a task that is not the configured one, or that would train another encoder."""
    given, wanted = "" if task is None else type(task).__name__.lower(), config.image_loss
    if given != wanted:
        raise ValueError(
            f"image_loss is {wanted!r}, but image_task is {given or None!r}: give the method that "
            "it names"
        )
    if task is not None and config.freeze_image:
        raise ValueError("freeze_image and image_loss: a frozen encoder cannot learn a task beside")
    if task is not None and task.image_encoder is not encoder:
        raise ValueError("the image_task trains an encoder of its own: give it this image_encoder")
