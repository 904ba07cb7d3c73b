"""timm's vision transformers, and the convolutional stem that a small one begins with."""

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
Kept = Int64[Tensor, "b kept"] | None  # for each picture, which patches; None for all


@settings
class VisionConfig:
    """An image encoder."""

    # "plain" (a vision transformer on patches), "conv_stem" (convolutions in place of the patches),
    # "conv_stem_apart" (the same on each patch by itself, as MAE trains it) or "timm" (by name)
    kind: Literal["plain", "conv_stem", "conv_stem_apart", "timm"]
    image_size: PositiveInt  # side in pixels that it works at; others are resized on the device
    patch_size: PositiveInt  # side of a patch; a convolutional stem halves as often as that takes
    width: PositiveInt  # length of a token
    depth: PositiveInt  # transformer blocks
    heads: PositiveInt  # attention heads in each
    norm: Literal["batch", "group"]  # of the convolutional stem
    halve: Literal["stride", "pool"]  # how that stem makes the picture smaller ("pool": shortcuts)
    mean: tuple[float, float, float]  # of each channel, subtracted
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]  # their deviation, divided by
    timm_name: str = ""  # for "timm", such as "vit_small_patch16_224.dino"
    # Where it begins: "" for random weights; "timm" for a timm model's published ones; the path of
    # a state dict (.safetensors) or of a run's folder; `build` knows the names of recorded runs.
    weights: str = ""


def make_backbone(config: VisionConfig) -> Any:
    """Make a model of timm, by its name or from its sizes.

    Raises:
        ValueError: If the configuration is inconsistent.
        FileNotFoundError: If published weights can be neither read nor downloaded.
    """
    if config.kind == "timm":
        return _by_name(config)
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


def _by_name(config: VisionConfig) -> Any:
    """Build a model by timm's name, with random or published weights."""
    name, _, tag = config.timm_name.partition(".")
    if not timm.is_model(name) or (tag and config.timm_name not in timm.list_pretrained(name)):
        raise ValueError(
            f"timm has no model {config.timm_name!r}; see timm.list_models() and, for what "
            "follows the dot, timm.list_pretrained()"
        )
    published = config.weights == "timm"
    try:
        model = timm.create_model(config.timm_name, pretrained=published, num_classes=0)
    except (OSError, RuntimeError) as error:
        if not published:
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
            f"{config.timm_name} takes pictures of {fixed}, but image_size is {size}: set that"
        )
    return model


class ConvStem(nn.Module):
    """Small convolutions in place of one large patch (Xiao et al. 2021, section 3).

    A patch of 4×4 pixels cut out and multiplied by one matrix is a hard start for a small
    transformer on few pictures. 3×3 convolutions that halve the picture as they go reach the
    same number of tokens and learn in a fraction of the steps.

    Halving by a stride is cheapest: four convolutions. On photographs six convolutions learn far
    more a step: the first is narrow and at full size, max-pooling halves, and what keeps its shape
    has a shortcut round it.

    Batch norm learns fastest. But while training it lets the pictures of a batch see each
    other, which a loss that compares pictures with pictures can exploit; group norm keeps each
    picture to itself.

    timm's `VisionTransformer` takes it as its ``embed_layer``, hence the arguments.

    Attributes:
        apart: Take each patch for a picture of its own, with nothing but zeros around it. Then
            no token knows anything of its neighbours' pixels, and patches that are left out cost
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
            raise ValueError(f"the convolutional stem reduces by 4; got patch_size={patch_size}")
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
        # How patches that are taken apart go through the layers: MAE has a faster way.
        self.through: Callable[[nn.Sequential, Tensor], Tensor] = nn.Sequential.forward

    def forward(self, images: Float[Tensor, "b 3 h w"], keep: Kept = None) -> Tokens:
        """Return one token for every 4×4 pixels, row by row; with ``keep`` for these only."""
        if not self.apart:
            return self.layers(pixels_last(images)).flatten(2).transpose(1, 2)
        # Each patch's pixels, (b, tokens, 3·4·4), become a picture.
        patches = choose(F.unfold(images, 4, stride=4).transpose(1, 2), keep)
        pictures = pixels_last(patches.reshape(-1, 3, 4, 4))
        return self.through(self.layers, pictures).reshape(len(images), patches.shape[1], -1)


class Shortcut(nn.Sequential):
    """Layers that add to what comes in, rather than replace it (He et al. 2016, section 3.2)."""

    def forward(self, pictures: Maps) -> Maps:
        """Return the pictures and what the layers make of them, added."""
        changed = pictures
        for layer in self:
            changed = layer(changed)
        return pictures + changed


def convolution(
    before: int, after: int, norm: str, *, stride: int = 1, pool: bool = False
) -> list[nn.Module]:
    """Return a 3×3 convolution with its norm and GELU.

    Args:
        before: Channels that come in.
        after: Channels that go out.
        norm: "batch" or "group".
        stride: Of the convolution.
        pool: Whether the larger of two neighbours, down and along, is kept before the norm.
    """
    groups = math.gcd(after, max(1, after // 16))  # must divide the channels
    return [
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if pool else []),
        nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(groups, after),
        nn.GELU(),
    ]


def pixels_last(images: Maps) -> Maps:
    """Lay the channels of a pixel side by side in memory; shape and values stay.

    Convolutions and norms then need no copies into a layout of their own, and the tokens at the
    end lie as the transformer reads them.
    """
    return images.contiguous(memory_format=torch.channels_last)


def choose(tokens: Tokens, keep: Kept) -> Float[Tensor, "b kept width"]:
    """Pick tokens, other ones for each picture."""
    return tokens if keep is None else tokens.take_along_dim(keep[:, :, None], dim=1)
