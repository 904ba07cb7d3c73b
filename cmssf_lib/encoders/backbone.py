"""timm's vision transformers, and the convolutional stem for small ones."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float, Int64
from pydantic import PositiveFloat, PositiveInt
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.settings import settings

APART: Literal["conv_stem_apart"] = "conv_stem_apart"
Maps = Float[Tensor, "n c h w"]
Tokens = Float[Tensor, "b tokens width"]
Kept = Int64[Tensor, "b kept"] | None  # indices of patches for each picture; None for all


@settings
class VisionConfig:
    """Settings of an image encoder."""

    # "plain" (a vision transformer on patches), "conv_stem" (its patches replaced by convolutions),
    # "conv_stem_apart" (the same on each patch separately, for MAE) or "timm" (a model by name)
    kind: Literal["plain", "conv_stem", "conv_stem_apart", "timm"]
    image_size: PositiveInt  # side of its input in pixels; other sizes are resized on the device
    patch_size: PositiveInt  # side of a patch in pixels; the convolutional stem needs 4
    width: PositiveInt  # length of a token
    depth: PositiveInt  # number of transformer blocks
    heads: PositiveInt  # attention heads in each block
    norm: Literal["batch", "group"]  # in the convolutional stem
    halve: Literal["stride", "pool"]  # how the stem halves the picture; "pool" also adds shortcuts
    mean: tuple[float, float, float]  # of each channel, to be subtracted
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]  # of each channel, to divide by
    timm_name: str = ""  # for "timm", such as "vit_small_patch16_224.dino"
    # Initial weights: "" for random ones; "timm" for the published ones of a timm model; or the
    # path of a .safetensors file or of a run's folder. `build` also takes the name of a record.
    weights: str = ""


def make_backbone(config: VisionConfig) -> Any:
    """Build a timm model, by name or from the sizes in the configuration.

    Raises:
        ValueError: If the configuration is inconsistent.
        FileNotFoundError: If published weights can be neither read nor downloaded.
    """
    if config.kind == "timm":
        return _by_name(config)
    if config.width % config.heads:
        raise ValueError(f"width {config.width} is not divisible by {config.heads} heads")
    stem = partial(ConvStem, norm=config.norm, halve=config.halve, apart=config.kind == APART)
    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=0,
        # Initial weights scaled to the width (Xavier). The usual fixed 0.02 suits wide models; at
        # 64 or 128 it leaves [CLS] too little signal, and the loss stays on a plateau for epochs.
        weight_init="jax",
        embed_layer=PatchEmbed if config.kind == "plain" else stem,
    )


def _by_name(config: VisionConfig) -> Any:
    """Build a timm model by name, with random or published weights."""
    name, _, tag = config.timm_name.partition(".")
    if not timm.is_model(name) or (tag and config.timm_name not in timm.list_pretrained(name)):
        raise ValueError(
            f"timm has no model {config.timm_name!r}: see timm.list_models() for the names, "
            "timm.list_pretrained() for the tags after the dot"
        )
    published = config.weights == "timm"
    try:
        model = timm.create_model(config.timm_name, pretrained=published, num_classes=0)
    except (OSError, RuntimeError) as error:
        if not published:
            raise
        raise FileNotFoundError(
            f"the weights of {config.timm_name} are not on this machine and could not be downloaded"
            ": connect to the network once, or set VisionConfig.weights to a .safetensors file"
        ) from error
    patches, size = getattr(model, "patch_embed", None), config.image_size
    strict = getattr(patches, "strict_img_size", False)  # most models accept only one size
    if strict and (fixed := getattr(patches, "img_size", None)) not in (None, (size, size)):
        raise ValueError(
            f"{config.timm_name} takes pictures of {fixed}, but image_size is {size}: change that"
        )
    return model


class ConvStem(nn.Module):
    """Small convolutions in place of one large patch projection (Xiao et al. 2021, section 3).

    Multiplying each 4×4 patch by one matrix makes learning hard for a small transformer with few
    pictures. 3×3 convolutions that halve the picture step by step give the same number of tokens
    and learn in a fraction of the steps.

    Halving by strides is cheapest: four convolutions. On photographs, six convolutions learn far
    more per step: the first is narrow and at full size, max-pooling does the halving, and layers
    that keep the shape have a shortcut.

    Batch norm learns fastest. During training, however, it shares information among the pictures
    of a batch, which a loss that compares pictures can exploit. Group norm treats each picture
    separately.

    timm's `VisionTransformer` takes it as its ``embed_layer``, hence the arguments.

    Attributes:
        apart: Whether to treat each patch as a separate picture, padded with zeros. Then no
            token depends on the pixels of other patches, and patches that are left out cost
            nothing. A masked autoencoder needs both.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm: Literal["batch", "group"] = "batch",
        halve: Literal["stride", "pool"] = "stride",
        apart: bool = False,
        **_: object,
    ) -> None:
        super().__init__()
        if patch_size != 4:
            raise ValueError(f"the convolutional stem needs patch_size=4; got {patch_size}")
        self.apart = apart
        self.patch_size, self.grid_size = (4, 4), (img_size // 4, img_size // 4)
        self.num_patches = (img_size // 4) ** 2
        few, half, full = max(1, embed_dim // 4), embed_dim // 2, embed_dim
        if halve == "stride":
            layers = [
                *convolution(in_chans, half, norm),
                *convolution(half, half, norm, stride=2),
                *convolution(half, full, norm),
                *convolution(full, full, norm, stride=2),
            ]
        else:
            layers = [
                *convolution(in_chans, few, norm),
                *convolution(few, half, norm, pool=True),
                Shortcut(*convolution(half, half, norm)),
                *convolution(half, full, norm, pool=True),
                Shortcut(*convolution(full, full, norm), *convolution(full, full, norm)),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(full, full, 1))
        # How separate patches pass through the layers; MAE puts a faster function here.
        self.through: Callable[[nn.Sequential, Tensor], Tensor] = nn.Sequential.forward

    def forward(self, images: Float[Tensor, "b 3 h w"], keep: Kept = None) -> Tokens:
        """Return one token for each 4×4 patch, row by row, or only for the patches in ``keep``."""
        if not self.apart:
            return self.layers(pixels_last(images)).flatten(2).transpose(1, 2)
        # The pixels of each patch, (b, tokens, 3·4·4), become a separate picture.
        patches = choose(F.unfold(images, 4, stride=4).transpose(1, 2), keep)
        pictures = pixels_last(patches.reshape(-1, 3, 4, 4))
        # Not len(images): an exported graph would hold that number.
        return self.through(self.layers, pictures).reshape(*patches.shape[:2], -1)


class Shortcut(nn.Sequential):
    """Layers with a residual connection (He et al. 2016, section 3.2)."""

    def forward(self, pictures: Maps) -> Maps:
        """Return the input plus the output of the layers."""
        layers: Callable[[Maps], Maps] = super().forward
        return pictures + layers(pictures)


def convolution(
    before: int, after: int, norm: str, *, stride: int = 1, pool: bool = False
) -> list[nn.Module]:
    """Return a 3×3 convolution with its norm and GELU.

    Args:
        before: Number of input channels.
        after: Number of output channels.
        norm: "batch" or "group".
        stride: Stride of the convolution.
        pool: Whether to halve height and width by max-pooling before the norm.
    """
    groups = math.gcd(after, max(1, after // 16))  # must divide the channels
    return [
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if pool else []),
        nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(groups, after),
        nn.GELU(),
    ]


def pixels_last(images: Maps) -> Maps:
    """Store the channels of each pixel next to each other in memory; shape and values stay.

    Convolutions and norms then need no copies into another layout, and the resulting tokens are
    already laid out as the transformer reads them.
    """
    return images.contiguous(memory_format=torch.channels_last)


def choose(tokens: Tokens, keep: Kept) -> Float[Tensor, "b kept width"]:
    """Select the tokens of each picture that ``keep`` names; all if it is ``None``."""
    return tokens if keep is None else tokens.take_along_dim(keep[:, :, None], dim=1)
