"""Turn a picture into one vector; also the projection heads and the attention of [CLS]."""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cmssf_lib.encoders.backbone import ConvStem, Kept, Tokens, VisionConfig, choose, make_backbone
from cmssf_lib.views import as_float, resize

Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]


class ImageEncoder(nn.Module):
    """A vision transformer with its preprocessing: resizing and normalising the pictures.

    Args:
        config: Settings of the transformer.

    Attributes:
        config: The settings as given.
        width: Length of the vector that `forward` returns.
        backbone: The timm model.

    Raises:
        ValueError: If the configuration is inconsistent or names weights on disk.
        FileNotFoundError: If published weights can be neither read nor downloaded.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        if config.weights not in ("", "timm"):
            raise ValueError(f"to read weights {config.weights}, use cmssf_lib.build.image_encoder")
        self.config = config
        self.backbone = make_backbone(config)
        if config.kind != "timm":
            self.grid()  # raises an error if the patches do not tile the picture
        self.width = int(self.backbone.num_features)
        # Constants, neither learned nor saved: they come from the configuration.
        self.mean = nn.Buffer(torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Images, size: int | None = None) -> Float[Tensor, "b width"]:
        """Return the [CLS] vector of each picture.

        Args:
            images: uint8, or floats in [0, 1]; other sizes are resized.
            size: Side in pixels to resize to; ``None`` for the configuration's ``image_size``. A
                smaller one gives fewer tokens (see `tokens`).

        Raises:
            ValueError: If the shape is not ``(b, 3, h, w)``, floats lie outside [0, 1], or as for
                `tokens` if ``size`` is given.
            TypeError: If the pictures are neither uint8 nor floats.
        """
        return self.encode(as_float(images), size)

    def encode(self, images: Images, size: int | None = None) -> Float[Tensor, "b width"]:
        """Encode as `forward`, trusting that floats lie in [0, 1], as `Views` makes them."""
        if size is not None:
            return self.tokens(images, size=size)[:, 0]
        return self.backbone(self.normalised(images))

    def tokens(self, images: Images, *, size: int | None = None, keep: Kept = None) -> Tokens:
        """Return the tokens of [CLS] and the patches, for any size and any selection of patches.

        Args:
            images: uint8, or floats in [0, 1]; other sizes are resized.
            size: Side in pixels to resize to; ``None`` for ``image_size``. The position
                embeddings are interpolated to the new grid, which DINO needs for multi-crop.
                timm does this with antialiasing and DINO's published code without, so the two
                differ on a smaller grid.
            keep: For each picture, the indices of the patches to encode; ``None`` for all. The
                encoder does not see the others (MAE, section 3). A convolutional stem sees across
                patch borders, so it must encode the patches ``apart`` (see `ConvStem`).

        Raises:
            ValueError: If the size is not a multiple of the patch size, the backbone is not a
                vision transformer with [CLS] and learned positions, or patches are left out
                although the stem sees across their borders.
        """
        backbone, grid = self.transformer, self.grid(size)
        pixels = self.normalised(images, size)
        stem, position = backbone.patch_embed, backbone.pos_embed
        if isinstance(stem, ConvStem):
            if keep is not None and not stem.apart:
                raise ValueError(
                    "the stem's convolutions see the patches that are left out: set "
                    "encoder.backbone.patch_embed.apart = True, or use kind='plain'"
                )
            patches = stem(pixels, keep)
        else:  # its own forward accepts only one size
            patches = choose(stem.norm(stem.proj(pixels).flatten(2).transpose(1, 2)), keep)
        if grid != stem.grid_size:
            # MPS has the operation since PyTorch 2.8, and its gradient only since later.
            known = position.device.type in ("cpu", "cuda")
            there = position if known else position.cpu()
            there = resample_abs_pos_embed(there, list(grid), list(stem.grid_size))
            position = there.to(position.device)
        patches = patches + choose(position[:, 1:].expand(patches.shape[0], -1, -1), keep)
        cls = (backbone.cls_token + position[:, :1]).expand(patches.shape[0], -1, -1)
        tokens = backbone.pos_drop(torch.cat([cls, patches], dim=1))  # (b, 1 + patches, width)
        return backbone.norm(backbone.blocks(backbone.norm_pre(tokens)))

    def grid(self, size: int | None = None) -> tuple[int, int]:
        """Return the rows and columns of patches in a picture with this side in pixels.

        Raises:
            ValueError: If the size is not a multiple of the patch size, or as for `transformer`.
        """
        patch = self.transformer.patch_embed.patch_size[0]
        size = self.config.image_size if size is None else size
        if size < patch or size % patch:
            raise ValueError(f"image size must be a multiple of patch size {patch}; got {size}")
        return size // patch, size // patch

    @property
    def transformer(self) -> Any:
        """The backbone, checked to be a vision transformer whose patches can be selected.

        Raises:
            ValueError: If the backbone is another model, or has no [CLS] or no learned positions.
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
        """Return pictures as floats in [0, 1], resized to this side (``None``: ``image_size``)."""
        pixels = images if images.is_floating_point() else as_float(images)
        size = self.config.image_size if size is None else size
        if pixels.shape[-2:] == (size, size):
            return pixels
        # Resize the whole batch on the device: 32×32 becomes 224×224 only here, not on disk.
        resized = resize(pixels, (size, size), "bicubic")
        return resized.clamp(0, 1)  # bicubic interpolation overshoots at edges

    def normalised(self, images: Images, size: int | None = None) -> Float[Tensor, "b 3 s s"]:
        """Return pictures as the backbone takes them: `resized`, normalised, in its precision."""
        return ((self.resized(images, size) - self.mean) / self.std).to(self.mean.dtype)


@torch.no_grad()
def cls_attention(
    encoder: ImageEncoder, images: Images, size: int | None = None
) -> Float[Tensor, "b heads rows columns"]:
    """Return how much [CLS] attends to each patch in the last block.

    The weights of each head sum to 1 over all tokens; the weight of [CLS] on itself is left out
    here. The encoder runs in its present mode: call ``eval()`` first.

    Args:
        encoder: An encoder whose backbone is a vision transformer.
        images: uint8, or floats in [0, 1]; other sizes are resized.
        size: Side in pixels to resize to; ``None`` for ``image_size``. A larger one gives a finer
            map (position embeddings are interpolated).

    Raises:
        ValueError: As for `ImageEncoder.tokens`.

    References:
        Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO),
        figures 1 and 3.
    """
    last = encoder.transformer.blocks[-1].attn
    seen: list[Tensor] = []  # input of the last attention; fused kernels return no weights
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
        width: Dimension of the encoder's space.
        hidden: Width of the hidden layers.
        dim: Dimension of the shared space.
        depth: Number of hidden layers; 0 leaves one linear map.
        norm: Whether each hidden layer has a batch norm, through which the rows of a batch
            influence each other during training.
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

    It serves as BYOL's projector and predictor, and as MoCo's head. During training, the pictures
    of a batch influence each other through the batch norm, which subtracts their common mean.
    Grill et al. 2020 (BYOL), section 3.3.

    Args:
        width: Dimension of the input.
        hidden: Width of the hidden layer.
        dim: Dimension of the output.
        norm_output: Whether to normalise each output dimension to mean 0 and variance 1, too.
    """

    def __init__(self, width: int, hidden: int, dim: int, *, norm_output: bool = False) -> None:
        super().__init__(
            nn.Linear(width, hidden, bias=False),  # the norm adds a bias of its own
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
            *([nn.BatchNorm1d(dim, affine=False)] if norm_output else []),
        )
