"""MAE: hide most of a picture and guess it.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners".

    picture → patches → a quarter of them → ImageEncoder ─┐  + mask tokens, + positions
                                                          └→ decoder → pixels of the others
"""

import math

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cmssf_lib.data import Batch
from cmssf_lib.encoders import ConvStem, ImageEncoder
from cmssf_lib.losses import mae_loss, patchify, unpatchify
from cmssf_lib.losses.reconstruction import EPSILON
from cmssf_lib.methods.collapse import feature_std, rank
from cmssf_lib.presets import MAEConfig, VisionConfig
from cmssf_lib.timing import stopwatch
from cmssf_lib.views import Views, kept_patches, patch_mask


class MAE(nn.Module):
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
        vision: The image encoder; a vision transformer.
        config: Mask ratio, decoder, views.

    Raises:
        ValueError: If the mask ratio leaves no patch visible or none hidden, or the decoder's
            width does not fit its heads and positions.
    """

    positions: Tensor

    def __init__(self, vision: VisionConfig, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = ImageEncoder(vision)
        self.grid = self.image_encoder.grid()
        kept_patches(math.prod(self.grid), config.mask_ratio)  # refuses what cannot be
        width, heads = config.width, config.heads
        if config.depth < 1 or width < 4 or heads < 1 or width % 4 or width % heads:
            raise ValueError(
                f"the decoder has depth {config.depth}, width {width} and {heads} heads; expected "
                "at least one block, and a width that is a multiple of 4 and of the heads"
            )
        stem = self.image_encoder.transformer.patch_embed
        if isinstance(stem, ConvStem):
            stem.apart = True
        self.patch: int = stem.patch_size[0]
        self.decoder_embed = nn.Linear(self.image_encoder.width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("positions", sincos(*self.grid, width), persistent=False)
        self.decoder = nn.Sequential(
            *(Block(width, heads, qkv_bias=True) for _ in range(config.depth)),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.decoder_pixels = nn.Linear(width, 3 * self.patch**2)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Hide patches of one view of each picture and guess them.

        Evaluation hides patches as well, of the pictures as they are.

        Returns:
            "loss", which is stepped on, and what is only logged: "feature_std" and "rank" of
            [CLS] (see `cmssf_lib.methods.collapse`).
        """
        with stopwatch("views"), torch.no_grad():
            images = self.views(batch.images) if self.training else batch.images
            images = self.image_encoder.resized(images).clamp(0, 1)
            keep, mask = patch_mask(
                len(images), math.prod(self.grid), self.config.mask_ratio, device=images.device
            )
            patches = patchify(images, self.patch)  # (b, n, values)
        tokens = self.image_encoder.tokens(images, keep=keep)  # (b, 1 + kept, width)
        loss = mae_loss(self.decode(tokens, keep), patches, mask, self.config.normalise)
        with stopwatch("logging"), torch.no_grad():
            logged = {"feature_std": feature_std(tokens[:, 0]), "rank": rank(tokens[:, 0])}
        return {"loss": loss, **logged}

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

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)

    def after_step(self, progress: float) -> None:
        """Do nothing: all that MAE learns, it learns by the gradient.

        Args:
            progress: Part of the training that is done, 0 to 1.
        """

    def features(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the encoder's [CLS] vector with all patches visible: no mask, no decoder."""
        return self.image_encoder(images)

    @torch.no_grad()
    def reconstruct(
        self,
        images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"],
        generator: torch.Generator | None = None,
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
        images = self.image_encoder.resized(images).clamp(0, 1)
        keep, mask = patch_mask(
            len(images),
            math.prod(self.grid),
            self.config.mask_ratio,
            generator=generator,
            device=images.device,
        )
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
    hertz = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * hertz for place in (y, x)]  # (places, width / 4) each
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
