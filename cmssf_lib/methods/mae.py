"""MAE: hide most of a picture and predict the hidden part.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners".

    picture → patches → a quarter of them → ImageEncoder ─┐  + mask tokens, + positions
                                                          └→ decoder → pixels of the others
"""

import math
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, PositiveInt
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ConvStem, ImageEncoder
from cmssf_lib.encoders.small_pictures import through_small
from cmssf_lib.losses import EPSILON, mae_loss, patchify, unpatchify
from cmssf_lib.methods.base import Images, Method
from cmssf_lib.settings import BelowOne, settings
from cmssf_lib.views import Views, ViewsConfig, as_float


@settings
class MAEConfig:
    """Masked autoencoder (chapter 4)."""

    mask_ratio: BelowOne  # fraction of the patches that is hidden from the encoder
    width: Annotated[int, Field(ge=4, multiple_of=4)]  # width of the decoder
    depth: PositiveInt  # number of blocks of the decoder
    heads: PositiveInt  # attention heads in each block
    normalise: bool  # whether each target patch is scaled to mean 0 and variance 1
    views: ViewsConfig  # how the picture is augmented before it is masked


class MAE(Method):
    """Learns without labels and without comparing pictures: each picture is its own target.

    The encoder only sees the visible patches, typically a quarter of the tokens. The decoder is
    small and not needed for `features`. It gets the encoded tokens, and one learned mask token in
    each hidden place (section 3).

    A convolutional stem looks beyond the borders of its patches: it would leak pixels of hidden
    patches into visible ones. Here it encodes each patch as a separate picture
    (`ConvStem.apart`), both in training and in `features`. The weights and the arithmetic for
    each patch are those of the other methods' encoder. The price: a token no longer sees the
    pixels just beyond its border. (Blanking the hidden pixels instead would mean four times the
    work, mostly on blank pixels, and batch statistics of mostly blank pictures.)

    Args:
        image_encoder: A vision transformer; trained, and kept.
        config: Mask ratio, decoder, views.

    Raises:
        ValueError: If the mask ratio leaves no patch visible or none hidden, or the decoder's
            width is not a multiple of its number of heads.
    """

    lasting = ("",)  # the decoder too: `reconstruct` needs it
    positions: Tensor

    def __init__(self, image_encoder: ImageEncoder, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        self.grid = self.image_encoder.grid()
        kept_patches(math.prod(self.grid), config.mask_ratio)  # refuses an impossible ratio
        width, heads = config.width, config.heads
        if width % heads:
            raise ValueError(f"the decoder's width {width} does not divide among {heads} heads")
        stem = self.image_encoder.transformer.patch_embed
        if isinstance(stem, ConvStem):
            stem.apart, stem.through = True, through_small
        self.patch: int = stem.patch_size[0]
        self.decoder_embed = nn.Linear(self.image_encoder.width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("positions", sincos(*self.grid, width), persistent=False)
        self.decoder = nn.Sequential(
            # The norms in timm's blocks have epsilon 1e-5; in the published decoder it is 1e-6.
            *(Block(width, heads, qkv_bias=True) for _ in range(config.depth)),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.decoder_pixels = nn.Linear(width, 3 * self.patch**2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hide patches of one view of each picture and predict them.

        Evaluation hides patches too, but of the unchanged pictures.

        Returns:
            As `Method.loss`; the "embeddings" are the [CLS] vectors. There is no "chance".
        """
        images = self.views(batch.images) if self.training else batch.images
        images = self.image_encoder.resized(images)
        patches = patchify(images, self.patch)  # (b, n, values)
        b, n, _ = patches.shape
        keep, mask = patch_mask(b, n, self.config.mask_ratio, device=images.device)
        tokens = self.image_encoder.tokens(images, keep=keep)  # (b, 1 + kept, width)
        loss = mae_loss(self.decode(tokens, keep), patches, mask, self.config.normalise)
        return {"loss": loss, "embeddings": tokens[:, 0].detach()}

    def decode(
        self, tokens: Float[Tensor, "b seen width"], keep: Int64[Tensor, "b kept"]
    ) -> Float[Tensor, "b n values"]:
        """Predict the pixels of every patch, visible or hidden.

        Args:
            tokens: [CLS] and the visible patches, from the encoder.
            keep: Indices of the visible patches.
        """
        cls, seen = self.decoder_embed(tokens).split([1, keep.shape[1]], dim=1)
        # Start with mask tokens everywhere, then put each visible token in its place.
        places = self.mask_token.to(seen.dtype).expand(len(seen), len(self.positions), -1)
        whole = places.scatter(1, keep[:, :, None].expand(-1, -1, seen.shape[2]), seen)
        decoded = self.decoder(torch.cat([cls, whole + self.positions], dim=1))
        return self.decoder_pixels(decoded[:, 1:])

    @torch.no_grad()
    def reconstruct(
        self, images: Images, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "b 3 size size"], Bool[Tensor, "b rows columns"]]:
        """Hide patches and fill in the predictions, for a figure.

        With normalised targets, the network predicts neither the brightness nor the contrast of a
        patch. The true mean and standard deviation of each hidden patch are then used, so a figure
        shows more than the network predicted, and should say so.

        Args:
            images: uint8, or floats in [0, 1].
            generator: Source of random numbers, on the device of the images.

        Returns:
            The pictures with predictions in the hidden places, and which patches were hidden.
        """
        images = self.image_encoder.resized(as_float(images))
        b, n, device = len(images), math.prod(self.grid), images.device
        keep, mask = patch_mask(b, n, self.config.mask_ratio, generator=generator, device=device)
        patches = patchify(images, self.patch)
        guess = self.decode(self.image_encoder.tokens(images, keep=keep), keep)
        if self.config.normalise:
            variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
            guess = guess * (variance + EPSILON).sqrt() + mean
        filled = torch.where(mask[:, :, None], guess.clamp(0, 1), patches)
        return unpatchify(filled, self.patch, *self.grid), mask.reshape(-1, *self.grid)


def sincos(rows: int, columns: int, width: int) -> Float[Tensor, "places width"]:
    """Return position embeddings of a grid: sines and cosines of the row and of the column.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        width: Length of an embedding, a multiple of 4.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5, applied to each direction.
    """
    frequency = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in (y, x)]  # (places, width / 4) each
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


def kept_patches(patches: int, ratio: float) -> int:
    """Return the number of patches that stay visible at a mask ratio.

    Args:
        patches: Number of patches of a picture.
        ratio: Fraction of the patches that is hidden.

    Raises:
        ValueError: If the ratio is not strictly between 0 and 1, or so close to one of them that
            all patches or none would be visible.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"the mask ratio must lie strictly between 0 and 1, got {ratio}")
    # Rounded down, as in the paper's code. 1e-6 because 10 · (1 - 0.9) is just below 1 in floats.
    kept = math.floor(patches * (1 - ratio) + 1e-6)
    if not 0 < kept < patches:
        raise ValueError(
            f"a mask ratio of {ratio} leaves {kept} of {patches} patches visible; at least one "
            "must be visible and one hidden. Change the ratio, or use smaller patches"
        )
    return kept


def patch_mask(
    b: int,
    patches: int,
    ratio: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Int64[Tensor, "b kept"], Bool[Tensor, "b patches"]]:
    """Draw at random which patches of each picture are hidden.

    The patches of each picture are shuffled by sorting random numbers, and the first few stay
    visible. All pictures keep the same number, so the result is one tensor.

    Args:
        b: Number of pictures.
        patches: Number of patches of a picture.
        ratio: Fraction of the patches that is hidden (see `kept_patches`).
        generator: Source of random numbers, on ``device``.
        device: Device of the results.

    Returns:
        The indices of the visible patches, and a mask that is true for the hidden ones.

    Raises:
        ValueError: As `kept_patches`.

    References:
        He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners" (MAE), section 3,
        "Simple implementation".
    """
    kept = kept_patches(patches, ratio)
    noise = torch.rand(b, patches, generator=generator, device=device, dtype=torch.float32)
    keep = noise.argsort(dim=1)[:, :kept]  # (b, kept)
    mask = torch.ones(b, patches, dtype=torch.bool, device=device)
    return keep, mask.scatter_(1, keep, False)
