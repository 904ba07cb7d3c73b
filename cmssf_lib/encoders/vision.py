"""From a picture to one vector and on to the heads, and where [CLS] looks."""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.encoders.backbone import ConvStem, Kept, Tokens, VisionConfig, choose, make_backbone
from cmssf_lib.views import as_float

Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]


class ImageEncoder(nn.Module):
    """A vision transformer and what has to happen to a picture before it.

    Args:
        config: Which transformer, and its size.

    Attributes:
        config: As given.
        width: Length of the vector that `forward` returns.
        backbone: The timm model.

    Raises:
        ValueError: If the configuration is inconsistent, or names weights on disk.
        FileNotFoundError: If pretrained weights can be neither read nor downloaded.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        if config.weights not in ("", "timm"):
            raise ValueError(f"{config.weights} is on disk: cmssf_lib.build.image_encoder reads it")
        self.config = config
        self.backbone = make_backbone(config)
        if config.kind != "timm":
            self.grid()  # refuses what patches do not tile
        self.width = int(self.backbone.num_features)
        # Constants, not learned and not saved: they follow from the configuration.
        self.mean = nn.Buffer(torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Images, size: int | None = None) -> Float[Tensor, "b width"]:
        """Return the [CLS] vector of each picture.

        Args:
            images: uint8, or floats in [0, 1]; other sizes are resized.
            size: Side in pixels to work at. ``None`` is the configuration's ``image_size``; a
                smaller one gives fewer tokens (see `tokens`).

        Raises:
            ValueError: If the shape is not ``(b, 3, h, w)``, or floats lie outside [0, 1].
        """
        return self.encode(as_float(images), size)

    def encode(self, images: Images, size: int | None = None) -> Float[Tensor, "b width"]:
        """Do what `forward` does, and trust that floats lie in [0, 1], as `Views` makes them."""
        if size is not None:
            return self.tokens(images, size=size)[:, 0]
        return self.backbone((self.resized(images) - self.mean) / self.std)

    def tokens(self, images: Images, *, size: int | None = None, keep: Kept = None) -> Tokens:
        """Return [CLS] and the patches' tokens, of small pictures or of some patches only.

        Args:
            images: uint8, or floats in [0, 1]; other sizes are resized.
            size: Side in pixels to work at; ``None`` for ``image_size``. The position
                embeddings are interpolated to the new grid (DINO, as multi-crop needs it), by
                timm and with antialiasing, which DINO's published code does without: on a
                smaller grid the two differ.
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
            patches = choose(stem.norm(stem.proj(pixels).flatten(2).transpose(1, 2)), keep)
        if grid != stem.grid_size:
            position = resample_abs_pos_embed(position, list(grid), list(stem.grid_size))
        patches = patches + choose(position[:, 1:].expand(len(patches), -1, -1), keep)
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
        suits = isinstance(model, VisionTransformer) and model.cls_token is not None
        places = model.pos_embed.shape[1] if suits and model.pos_embed is not None else 0
        if not suits or places != 1 + model.patch_embed.num_patches:
            raise ValueError(
                f"{self.config.timm_name or type(model).__name__} has no patches to choose from: "
                "expected a vision transformer with one [CLS] token and learned positions"
            )
        return model

    def resized(self, images: Images, size: int | None = None) -> Float[Tensor, "b 3 size size"]:
        """Return pictures in [0, 1] at a side in pixels; ``None`` for ``image_size``."""
        pixels = images if images.is_floating_point() else as_float(images)
        size = self.config.image_size if size is None else size
        if pixels.shape[-2:] == (size, size):
            return pixels
        # The whole batch at once and on the device: 32×32 becomes 224×224 here, not on disk.
        resized = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        return resized.clamp(0, 1)  # bicubic weights are negative in part: edges overshoot


@torch.no_grad()
def cls_attention(
    encoder: ImageEncoder, images: Images, size: int | None = None
) -> Float[Tensor, "b heads rows columns"]:
    """Return how much [CLS] attends to each patch in the last block.

    The weights of a head sum to one over all tokens; what is missing here is what [CLS] gives
    to itself. The encoder is used in the mode it is in: call ``eval()`` first.

    Args:
        encoder: With a vision transformer.
        images: uint8, or floats in [0, 1]; other sizes are resized.
        size: Side in pixels to work at; ``None`` for ``image_size``. A larger one gives a finer
            map (position embeddings are interpolated).

    Raises:
        ValueError: As `ImageEncoder.tokens`.

    References:
        Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO),
        figures 1 and 3.
    """
    last = encoder.transformer.blocks[-1].attn
    seen: list[Tensor] = []  # what the last attention is given; fused kernels hide their weights
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        encoder.tokens(as_float(images), size=size)
    finally:
        hook.remove()
    b, n, _ = seen[0].shape
    qkv = last.qkv(seen[0]).reshape(b, n, 3, last.num_heads, last.head_dim)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)  # (b, heads, n, head_dim) each
    query, key = last.q_norm(query[:, :, :1]), last.k_norm(key)
    weights = (last.scale * query @ key.transpose(2, 3)).softmax(dim=3)  # (b, heads, 1, n)
    return weights[:, :, 0, 1:].unflatten(2, encoder.grid(size))


class ProjectionHead(nn.Sequential):
    """An MLP from an encoder's space to the shared one, ``(b, width)`` to ``(b, dim)``.

    Args:
        width: Of the encoder.
        hidden: Of the hidden layers.
        dim: Of the shared space.
        depth: Number of hidden layers; 0 leaves one linear map.
        norm: Whether each hidden layer has a batch norm, which then lets the rows of a batch see
            each other while training.
    """

    def __init__(
        self, width: int, hidden: int, dim: int, depth: int = 1, *, norm: bool = False
    ) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), *([nn.BatchNorm1d(hidden)] * norm), nn.GELU()]
            width = hidden
        super().__init__(*layers, nn.Linear(width, dim))


class BatchNormHead(nn.Sequential):
    """An MLP with one hidden layer and a batch norm in it, ``(b, width)`` to ``(b, dim)``.

    BYOL's projector and predictor, and MoCo's head. While training, a batch norm lets the
    pictures of a batch see each other: each is measured against the mean of all. Grill et al. 2020
    (BYOL), section 3.3.

    Args:
        width: Of what comes in.
        hidden: Of the hidden layer.
        dim: Of what goes out.
        norm_output: Whether each dimension of the result is brought to mean 0 and variance 1 as
            well.
    """

    def __init__(self, width: int, hidden: int, dim: int, *, norm_output: bool = False) -> None:
        super().__init__(
            nn.Linear(width, hidden, bias=False),  # the norm brings a shift of its own
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
            *([nn.BatchNorm1d(dim, affine=False)] if norm_output else []),
        )
