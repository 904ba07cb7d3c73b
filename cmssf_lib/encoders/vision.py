"""From a picture to one vector: vision transformers of timm, and what they need around them."""

from functools import partial
from typing import Any

import timm
import torch
from jaxtyping import Float, Int64, UInt8
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.encoders.stem import ConvStem, choose
from cmssf_lib.encoders.weights import APART, as_learned, load_weights
from cmssf_lib.presets import VisionConfig
from cmssf_lib.views import as_float


class ImageEncoder(nn.Module):
    """A vision transformer and what has to happen to a picture before it.

    Args:
        config: Which transformer, and its size.

    Attributes:
        config: As given, but for a stem that takes its patches apart as the weights it begins
            with were learned (see `VisionConfig.weights`).
        width: Length of the vector that `forward` returns.
        backbone: The timm model.

    Raises:
        ValueError: If the configuration is inconsistent, or weights do not fit.
        FileNotFoundError: If pretrained weights can be neither read nor downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config = as_learned(config)
        self.backbone = _vision_transformer(config)
        if config.weights and config.kind != "timm":
            load_weights(self.backbone, config.weights)
        self.width: int = self.backbone.num_features  # type: ignore[assignment]
        # Constants, not learned and not saved: they follow from the configuration.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], size: int | None = None
    ) -> Float[Tensor, "b width"]:
        """Return the [CLS] vector of each picture.

        Args:
            images: uint8, or floats in [0, 1]; other sizes are resized.
            size: Side in pixels to work at. ``None`` is the configuration's ``image_size``; a
                smaller one gives fewer tokens (see `tokens`).
        """
        if size is None:
            return self.backbone((self.resized(images) - self.mean) / self.std)
        return self.tokens(images, size=size)[:, 0]

    def tokens(
        self,
        images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"],
        *,
        size: int | None = None,
        keep: Int64[Tensor, "b kept"] | None = None,
    ) -> Float[Tensor, "b tokens width"]:
        """Return [CLS] and the patches' tokens, of small pictures or of some patches only.

        Args:
            images: uint8, or floats in [0, 1]; other sizes are resized.
            size: Side in pixels to work at; ``None`` for ``image_size``. The position
                embeddings are interpolated to the new grid (DINO, as multi-crop needs it).
            keep: For each picture, which patches are encoded; ``None`` for all. The others are
                never looked at (MAE, section 3). A convolutional stem looks over the borders of
                a patch and would see them: it must take its patches ``apart`` (see `ConvStem`).

        Raises:
            ValueError: If the size is no multiple of the patch, the backbone is not a vision
                transformer with [CLS] and learned positions, or patches are left out before a
                stem that sees them.
        """
        backbone, grid = self.transformer, self.grid(size)
        pixels = (self.resized(images, size) - self.mean) / self.std
        stem, position = backbone.patch_embed, backbone.pos_embed
        if isinstance(stem, ConvStem):
            if keep is not None and not stem.apart:
                raise ValueError(
                    "the stem's convolutions see the patches that are left out: set "
                    "encoder.backbone.patch_embed.apart = True, or take kind='plain'"
                )
            patches = stem(pixels, keep)
        else:  # its own forward would insist on one size
            patches = stem.norm(stem.proj(pixels).flatten(2).transpose(1, 2))
            patches = patches if keep is None else choose(patches, keep)
        if grid != stem.grid_size:
            position = resample_abs_pos_embed(position, list(grid), list(stem.grid_size))
        place = position[:, 1:].expand(len(patches), -1, -1)
        patches = patches + (place if keep is None else choose(place, keep))
        cls = (backbone.cls_token + position[:, :1]).expand(len(patches), -1, -1)
        tokens = backbone.pos_drop(torch.cat([cls, patches], dim=1))  # (b, 1 + patches, width)
        return backbone.norm(backbone.blocks(backbone.norm_pre(tokens)))

    def grid(self, size: int | None = None) -> tuple[int, int]:
        """Return rows and columns of patches of a picture with this side in pixels.

        Raises:
            ValueError: If the size is no multiple of the patch, or as `transformer`.
        """
        patch = self.transformer.patch_embed.patch_size[0]
        size = self.config.image_size if size is None else size
        if size < patch or size % patch:
            raise ValueError(
                f"patches of {patch} pixels do not tile a picture of {size}: choose a multiple"
            )
        return size // patch, size // patch

    @property
    def transformer(self) -> Any:
        """The backbone, if it is a vision transformer whose tokens can be chosen.

        Raises:
            ValueError: If the backbone is something else, or has no [CLS] or no learned positions.
        """
        model = self.backbone
        if (
            not isinstance(model, VisionTransformer)
            or model.cls_token is None
            or model.pos_embed is None
            or model.pos_embed.shape[1] != 1 + model.patch_embed.num_patches
        ):
            raise ValueError(
                f"{self.config.timm_name or type(model).__name__} has no patches to choose "
                "from: expected a vision transformer with one [CLS] token and learned "
                "positions, such as vit_small_patch16_224"
            )
        return model

    def resized(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], size: int | None = None
    ) -> Float[Tensor, "b 3 size size"]:
        """Return pictures in [0, 1] at a side in pixels; ``None`` for ``image_size``."""
        pixels, size = as_float(images), self.config.image_size if size is None else size
        if pixels.shape[-2:] == (size, size):
            return pixels
        # The whole batch at once and on the device: 32×32 becomes 224×224 here, not on disk.
        return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)


def _vision_transformer(config: VisionConfig) -> nn.Module:
    if config.kind == "timm":
        return _timm_model(config)
    if config.kind not in ("plain", "conv_stem", APART):
        raise ValueError(
            f"unknown vision encoder {config.kind!r}; choose 'plain', 'conv_stem', "
            f"{APART!r} or 'timm'"
        )
    if config.image_size % config.patch_size:
        raise ValueError(
            f"patches of {config.patch_size} pixels do not tile a picture of "
            f"{config.image_size}: choose a size that divides"
        )
    if config.width % config.heads:
        raise ValueError(f"width {config.width} does not divide among {config.heads} heads")
    stem = partial(ConvStem, norm=config.norm, halve=config.halve, apart=config.kind == APART)
    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=0,
        # Weights scaled to the width (Xavier). The usual fixed 0.02 suits wide models; at 64 or
        # 128 it starves [CLS] of signal and the loss stays on its plateau for epochs.
        weight_init="jax",
        embed_layer=PatchEmbed if config.kind == "plain" else stem,
    )


def _timm_model(config: VisionConfig) -> nn.Module:
    """Build a timm model by name, with random, published or own weights."""
    name, _, tag = config.timm_name.partition(".")
    if not timm.is_model(name) or (tag and config.timm_name not in timm.list_pretrained(name)):
        raise ValueError(
            f"timm has no model {config.timm_name!r}; see timm.list_models() and, for what "
            "follows the dot, timm.list_pretrained()"
        )
    download = config.weights == "timm"
    try:
        model = timm.create_model(config.timm_name, pretrained=download, num_classes=0)
    except (OSError, RuntimeError) as error:
        if not download:
            raise
        raise FileNotFoundError(
            f"the weights of {config.timm_name} are not on this machine and could not be "
            "downloaded: connect to the network once, or set VisionConfig.weights to the path "
            "of a .safetensors state dict"
        ) from error
    patches, size = getattr(model, "patch_embed", None), config.image_size
    strict = getattr(patches, "strict_img_size", False)  # a model of one size, as most are
    if strict and (fixed := getattr(patches, "img_size", None)) not in (None, (size, size)):
        raise ValueError(
            f"{config.timm_name} takes pictures of {fixed}, but image_size is {size}: set "
            "VisionConfig.image_size to that, and pictures are resized on the device"
        )
    if config.weights and not download:
        load_weights(model, config.weights)
    return model
