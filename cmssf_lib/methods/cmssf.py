"""CMSSF: contrastive multimodal self-supervised fusion, the model of the source chapter.

Two encoders, two projection heads, one shared space (the chapter's Figure 1 and section 3.3):

    picture → ImageEncoder → [CLS] → ProjectionHead ─┐
                                                     ├→ shared space → contrastive loss
    caption → TextEncoder  → [CLS] → ProjectionHead ─┘
"""

import math
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ImageEncoder, ProjectionHead, TextEncoder
from cmssf_lib.encoders.tokens import Ids
from cmssf_lib.losses import (
    duplicate_floor,
    excess_loss,
    image_text_loss,
    masked_loss,
    multi_positive_loss,
)
from cmssf_lib.losses.chunked import in_parts
from cmssf_lib.losses.precision import similarities
from cmssf_lib.machine import from_all_processes
from cmssf_lib.methods.base import Images, Method
from cmssf_lib.settings import settings
from cmssf_lib.views import Views, ViewsConfig

#: Losses that also take `groups`, which mark equal captions; "one_hot" ignores them.
GROUPED = {"multi_positive": multi_positive_loss, "masked": masked_loss, "excess": excess_loss}
MAX_SCALE = 100.0  # CLIP, section 2.5: a larger scale makes training unstable


@settings
class CMSSFConfig:
    """The heads between the two encoders and the loss, the loss itself, and the views."""

    dim: PositiveInt  # dimensions of the shared space
    hidden: PositiveInt  # width of the projection heads' hidden layers
    depth: NonNegativeInt  # number of hidden layers; 0: a linear map
    head_norm: bool  # whether the image head's hidden layers have a batch norm
    loss: Literal["one_hot", "multi_positive", "masked", "excess"]  # see `cmssf_lib.losses`
    # The initial temperature. Its inverse, the logit scale, is learned and stays in these bounds.
    temperature: Annotated[float, Field(ge=1 / MAX_SCALE, le=1)]
    views: ViewsConfig  # the random view that is drawn of each picture
    freeze_image: bool = False  # the image encoder is not trained; pictures are encoded once
    # Number of views of each picture that a frozen encoder encodes; 0: the unchanged picture.
    cached_views: NonNegativeInt = 0
    image_loss: Literal["", "simclr", "dino"] = ""  # second loss that trains the image encoder
    image_weight: NonNegativeFloat = 1.0  # weight of the second loss
    # The next two only change memory and time.
    chunk: NonNegativeInt = 0  # rows of the similarity matrix in memory at a time; 0: all
    micro_batch: NonNegativeInt = 0  # inputs that go through a tower at a time; 0: all


class CMSSF(Method):
    """Learns a shared space in which a picture lies close to its caption.

    `cmssf_lib.share` writes a trained model to a folder and reads it again, without the data.

    Args:
        image_encoder: Encodes the pictures.
        text_encoder: Encodes the captions.
        config: Shared space, loss, views.
        image_task: Second loss for the image encoder (``config.image_loss``): a `SimCLR` or a
            `DINO` with the same ``image_encoder``.

    Raises:
        ValueError: If micro-batches are combined with batch norm, or a frozen encoder with a task,
            or if the task is not the configured one or has another encoder.
    """

    lasting = ("image_encoder.", "text_encoder.", "image_head.", "text_head.", "log_scale")
    #: `loss` gathers the embeddings of all processes that train together; ``image_task`` does not.
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
        # No norm: its statistics would count a caption once, however many pictures share it.
        self.text_head = ProjectionHead(text_encoder.width, *shape)
        self.image_task = image_task
        if image_task is not None:  # the encoder is registered twice but must be saved once
            self.register_state_dict_post_hook(_without_twin)
            self.register_load_state_dict_post_hook(_twin_is_not_missing)
        if config.freeze_image:
            image_encoder.requires_grad_(False)
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        if config.micro_batch and any(isinstance(module, norms) for module in self.modules()):
            raise ValueError(
                "micro_batch cannot be combined with batch norm, which would normalise each part "
                "of the batch separately. Set norm='group' for the stem and no norm in the head"
            )
        # Learned as a logarithm, so that a step multiplies the scale and it stays positive.
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The factor of the similarities before the softmax: 1 / temperature."""
        return self.log_scale.exp()

    def encode_image(self, images: Images) -> Float[Tensor, "b dim"]:
        """Return the pictures' embeddings in the shared space, of unit length."""
        return self.project(self.features(images))

    def encode_text(self, captions: Sequence[str]) -> Float[Tensor, "captions dim"]:
        """Return the captions' embeddings in the shared space, of unit length."""
        return F.normalize(self.text_head(self.text_encoder(captions)), dim=1)

    def encode_tokens(self, ids: Ids, mask: Ids | None = None) -> Float[Tensor, "captions dim"]:
        """Return what `encode_text` does, from the token ids and mask of `encoders.tokenize`."""
        return F.normalize(self.text_head(self.text_encoder.encode(ids, mask)), dim=1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compare every picture of the batch with every caption.

        Training draws one random view of each picture; evaluation uses the unchanged picture. If
        several processes train together, each encodes its own part of the batch, and each
        computes the loss of the whole batch.

        Returns:
            "loss", to minimise, and values that are only logged: the "floor" that equal captions
            put under the one-hot loss, the mean similarity of a picture to its own caption
            ("positive_similarity") and to other captions ("negative_similarity"), and the
            "logit_scale". With an ``image_task`` also its "image_loss" and the "image_text_loss",
            whose weighted sum is "loss".

        Raises:
            ValueError: If the batch holds a single picture, or features of a frozen encoder that
                this method trains.
        """
        size = self.config.micro_batch if self.training else 0  # inputs that go through a tower
        image = self._image_vectors(batch, size)  # (b, dim)
        # Each distinct caption is encoded once, and pictures that share it share its embedding.
        # index_select, because the gradient of text[index] is not deterministic with many threads.
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
            second = self.image_task.loss(batch)["loss"]
            logged |= {"image_text_loss": loss.detach(), "image_loss": second.detach()}
            loss = loss + self.config.image_weight * second
        return {"loss": loss, **logged}

    def _image_vectors(self, batch: Batch, size: int) -> Float[Tensor, "b dim"]:
        """Return the pictures' embeddings in the shared space, from cached features if present."""
        if batch.features is None:
            images = self.views(batch.images) if self.training else batch.images
            encode = self.image_encoder.encode
            return in_parts(lambda part: self.project(encode(part)), images, size)
        if not self.config.freeze_image:
            raise ValueError(
                "the data holds features of a frozen image encoder, but this encoder is trained: "
                "use data without features, or set freeze_image"
            )
        features = batch.features.to(self.log_scale.dtype)
        b, views, _ = features.shape
        if views == 1 or not self.training:
            return self.project(features[:, 0])
        drawn = torch.randint(views, (b,))
        return self.project(features[torch.arange(b), drawn])

    def train(self, mode: bool = True) -> "CMSSF":
        """Set training mode; a frozen image encoder stays in evaluation mode."""
        super().train(mode)
        if self.config.freeze_image:
            self.image_encoder.eval()
        return self

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Keep the logit scale between 1 and 100, after each step of the optimizer.

        Args:
            progress: Fraction of the training that is done, 0 to 1; passed on to ``image_task``.
        """
        self.log_scale.clamp_(0, math.log(MAX_SCALE))
        if self.image_task is not None:
            self.image_task.after_step(progress)

    def phase(self) -> Hashable:
        """Return the phase of the second task, if there is one."""
        return None if self.image_task is None else self.image_task.phase()

    def project(self, features: Float[Tensor, "b width"]) -> Float[Tensor, "b dim"]:
        """Map the output of `features` to the shared space, at unit length."""
        return F.normalize(self.image_head(features), dim=1)


TWIN = "image_task.image_encoder."  # prefix of the image encoder's second copy in state_dict


def _without_twin(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    for name in [name for name in state if name.startswith(prefix + TWIN)]:
        del state[name]


def _twin_is_not_missing(_: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if TWIN not in name]


def _require_task(config: CMSSFConfig, encoder: ImageEncoder, task: Method | None) -> None:
    """Refuse a task that is not the configured one, or that trains another or frozen encoder."""
    given, wanted = "" if task is None else type(task).__name__.lower(), config.image_loss
    if given != wanted:
        raise ValueError(
            f"image_loss is {wanted!r}, but image_task is {given or None!r}: they must agree"
        )
    if task is not None and config.freeze_image:
        raise ValueError("image_loss cannot train a frozen encoder: unset it or freeze_image")
    if task is not None and task.image_encoder is not encoder:
        raise ValueError("image_task has a different encoder: build it with this image_encoder")
