"""From a picture to one vector: vision transformers of timm, and a convolutional stem."""

import math
from functools import partial
from pathlib import Path

import timm
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.presets import VisionConfig
from cmssf_lib.views import as_float


class ImageEncoder(nn.Module):
    """A vision transformer and what has to happen to a picture before it.

    Args:
        config: Which transformer, and its size.

    Attributes:
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
        self.config = config
        self.backbone = _vision_transformer(config)
        self.width: int = self.backbone.num_features  # type: ignore[assignment]
        # Constants, not learned and not saved: they follow from the configuration.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the [CLS] vector of each picture (uint8, or floats in [0, 1])."""
        pixels = as_float(images)
        size = self.config.image_size
        if pixels.shape[-2:] != (size, size):
            # The whole batch at once and on the device: 32×32 becomes 224×224 here, not on disk.
            pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        return self.backbone((pixels - self.mean) / self.std)


class ConvStem(nn.Module):
    """Four small convolutions in place of one large patch (Xiao et al. 2021, section 3).

    A patch of 4×4 pixels cut out and multiplied by one matrix is a hard start for a small
    transformer on few pictures. 3×3 convolutions that halve the picture as they go reach the
    same number of tokens and learn in a fraction of the steps.

    Batch norm learns fastest. But while training it lets the pictures of a batch see each
    other, which a loss that compares pictures with pictures can exploit; group norm keeps each
    picture to itself.

    timm's `VisionTransformer` takes it as its ``embed_layer``, hence the arguments.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm: str = "batch",
        **_: object,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ValueError(f"unknown norm {norm!r}; choose 'batch' or 'group'")
        if patch_size != 4:
            raise ValueError(f"the convolutional stem reduces by 4; got patch_size={patch_size}")
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // 4, img_size // 4)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        half = embed_dim // 2
        layers: list[nn.Module] = []
        for before, after, stride in (
            (in_chans, half, 1),
            (half, half, 2),
            (half, embed_dim, 1),
            (embed_dim, embed_dim, 2),
        ):
            groups = math.gcd(after, max(1, after // 16))  # must divide the channels
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(groups, after),
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b tokens width"]:
        """Return one token for every 4×4 pixels, row by row."""
        return self.layers(images).flatten(2).transpose(1, 2)


def _vision_transformer(config: VisionConfig) -> nn.Module:
    if config.kind == "timm":
        return _timm_model(config)
    if config.kind not in ("plain", "conv_stem"):
        raise ValueError(
            f"unknown vision encoder {config.kind!r}; choose 'plain', 'conv_stem' or 'timm'"
        )
    if config.image_size % config.patch_size:
        raise ValueError(
            f"patches of {config.patch_size} pixels do not tile a picture of "
            f"{config.image_size}: choose a size that divides"
        )
    if config.width % config.heads:
        raise ValueError(f"width {config.width} does not divide among {config.heads} heads")
    stem = partial(ConvStem, norm=config.norm)
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
        embed_layer=stem if config.kind == "conv_stem" else PatchEmbed,
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


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model from a state dict on disk; a classifier head in it is left out.

    Args:
        model: Its parameters say what is expected.
        path: Of a ``.safetensors`` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a safetensors file, or a name or a shape differs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: expected a .safetensors state dict")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    own = model.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(("head.", "fc."))}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k}: {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"the weights in {path} are not for this model. Missing: {missing[:5] or 'none'}; "
            f"unexpected: {unexpected[:5] or 'none'}; shapes that differ: {shapes[:5] or 'none'}"
        )
    model.load_state_dict(state)
