"""MAE: hide most of a picture and guess it.

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

    mask_ratio: BelowOne  # part of the patches that is hidden from the encoder
    width: Annotated[int, Field(ge=4, multiple_of=4)]  # of the decoder
    depth: PositiveInt  # blocks of the decoder
    heads: PositiveInt  # attention heads in each
    normalise: bool  # whether each target patch is brought to mean 0 and variance 1
    views: ViewsConfig  # how the picture is varied before it is masked


class MAE(Method):
    """Learns without labels, and without comparing pictures: every picture is its own teacher.

    The encoder sees the visible patches and nothing else, a quarter of the tokens. The decoder,
    small and thrown away afterwards, gets them together with one learned mask token for each
    hidden place (section 3).

    A convolutional stem looks over the borders of its patches: it would carry pixels of a hidden
    patch into a visible one, and the answer into the question. Here it takes every patch for a
    picture of its own (`ConvStem.apart`), in training and in `features` alike. The weights, their
    number and the arithmetic for each patch are those of the other methods' encoder. The
    price: a token no longer knows the pixels just beyond its border. (Blanking the hidden
    pixels instead would convolve three quarters of nothing, four times the work, and leave
    the norms with statistics of mostly blank pictures.)

    Args:
        image_encoder: A vision transformer; trained, and kept.
        config: Mask ratio, decoder, views.

    Raises:
        ValueError: If the mask ratio leaves no patch visible or none hidden, or the decoder's
            width does not fit its heads and positions.
    """

    lasting = ("",)  # the decoder as well: `reconstruct` shows what was learned
    positions: Tensor

    def __init__(self, image_encoder: ImageEncoder, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        self.grid = self.image_encoder.grid()
        kept_patches(math.prod(self.grid), config.mask_ratio)  # refuses what cannot be
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
            # timm's blocks have norms of epsilon 1e-5; the published decoder's have 1e-6.
            *(Block(width, heads, qkv_bias=True) for _ in range(config.depth)),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.decoder_pixels = nn.Linear(width, 3 * self.patch**2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hide patches of one view of each picture and guess them.

        Evaluation hides patches as well, of the pictures as they are.

        Returns:
            As `Method.loss`; the "embeddings" are the [CLS] vectors. There is no "chance".
        """
        images = self.views(batch.images) if self.training else batch.images
        images = self.image_encoder.resized(images)
        keep, mask = patch_mask(
            len(images), math.prod(self.grid), self.config.mask_ratio, device=images.device
        )
        patches = patchify(images, self.patch)  # (b, n, values)
        tokens = self.image_encoder.tokens(images, keep=keep)  # (b, 1 + kept, width)
        loss = mae_loss(self.decode(tokens, keep), patches, mask, self.config.normalise)
        return {"loss": loss, "embeddings": tokens[:, 0].detach()}

    def decode(
        self, tokens: Float[Tensor, "b seen width"], keep: Int64[Tensor, "b kept"]
    ) -> Float[Tensor, "b n values"]:
        """Guess every patch, seen or not.

        Args:
            tokens: [CLS] and the visible patches, from the encoder.
            keep: Where the visible patches stand.
        """
        cls, seen = self.decoder_embed(tokens).split([1, keep.shape[1]], dim=1)
        # Mask tokens everywhere, then each visible token to its place.
        places = self.mask_token.to(seen.dtype).expand(len(seen), len(self.positions), -1)
        whole = places.scatter(1, keep[:, :, None].expand(-1, -1, seen.shape[2]), seen)
        decoded = self.decoder(torch.cat([cls, whole + self.positions], dim=1))
        return self.decoder_pixels(decoded[:, 1:])

    @torch.no_grad()
    def reconstruct(
        self, images: Images, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "b 3 size size"], Bool[Tensor, "b rows columns"]]:
        """Hide patches and fill in the guesses, for a figure.

        Where the targets are normalised, the network says what is in a patch but not how bright
        it is; the hidden patch's own mean and deviation are then put back. A figure made so
        shows more than the network knew, and should say so.

        Args:
            images: uint8, or floats in [0, 1].
            generator: Of random numbers, on the device of the images.

        Returns:
            The pictures, guesses in their hidden places; and which patches were hidden.
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
    """Return a code for each place of a grid: sines and cosines of its row and its column.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5, once for each direction.

    Args:
        rows: Of the grid.
        columns: Of the grid.
        width: Of the code, a multiple of 4.
    """
    frequency = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in (y, x)]  # (places, width / 4) each
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


def kept_patches(patches: int, ratio: float) -> int:
    """Return how many of the patches stay visible when a part of them is hidden.

    Args:
        patches: Of a picture.
        ratio: Part that is hidden.

    Raises:
        ValueError: If the ratio is not strictly between 0 and 1, or so near to one of them that
            every patch or none would be visible.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"the mask ratio lies between 0 and 1, both excluded; got {ratio}")
    # Rounded down, as in the paper's code; 10 · (1 - 0.9) is a little under 1 in floats.
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
    """Draw for each picture which patches are hidden.

    Every picture's patches are shuffled by sorting random numbers; the first few stay. So all
    pictures keep equally many, and a batch of them is one tensor.

    Args:
        b: Number of pictures.
        patches: Patches of a picture.
        ratio: Part that is hidden (see `kept_patches`).
        generator: Of random numbers, on ``device``.
        device: Where the results are wanted.

    Returns:
        Where the visible patches stand, and a mask that is true for the hidden ones.

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
