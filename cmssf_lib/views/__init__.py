"""Random views: what a picture looks like when some of it does not matter.

All views of a batch are made at once, on the device the pictures are on, and every picture
draws its own parameters. Crops, shifts, turns and flips are one affine map of the pixel grid,
so a view is resampled once however many of them it combines.
"""

from typing import Annotated

from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from cmssf_lib.settings import Fraction, settings
from cmssf_lib.views.colours import (
    LUMA as LUMA,
    Images,
    Random,
    as_float as as_float,
    colour_jitter as colour_jitter,
    grey as grey,
    greyscale as greyscale,
    solarise as solarise,
    turn_hue as turn_hue,
)
from cmssf_lib.views.geometry import (
    affine as affine,
    erase as erase,
    mirror as mirror,
    pixel_shift as pixel_shift,
)

Range = tuple[PositiveFloat, PositiveFloat]


@settings
class ViewsConfig:
    """How a random view of a picture is made; zeros and ones leave it as it is.

    A crop that does not fit into the picture is cut off at its sides, where torchvision draws
    another: with a largest area of 1 crops here are a little larger (see `affine`).
    """

    area: Range = (1.0, 1.0)  # smallest and largest part that a crop keeps
    ratio: Range = (1.0, 1.0)  # smallest and largest width to height of a crop
    shift: NonNegativeFloat = 0.0  # largest shift, a part of each side; black moves in
    turn: NonNegativeFloat = 0.0  # largest rotation either way, in radians
    shear: NonNegativeFloat = 0.0  # largest shear either way, a slope
    flip: Fraction = 0.0  # probability of a left-right flip
    brightness: NonNegativeFloat = 0.0  # a factor is drawn from 1 ± this
    contrast: NonNegativeFloat = 0.0  # likewise
    saturation: NonNegativeFloat = 0.0  # likewise
    # Largest turn of the colour circle either way, a part of it.
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    jitter: Fraction = 1.0  # probability that the four colour changes happen at all
    grey: Fraction = 0.0  # probability of losing all colour
    solarise: Fraction = 0.0  # probability of inverting the bright pixels
    erase: Fraction = 0.0  # side of a square that is made grey, as a fraction of each side


class Views(nn.Module):
    """Makes one random view of every picture of a batch, as a `ViewsConfig` says.

    A module without parameters or buffers: a state dict knows nothing of it, and whoever times a
    step can hang a clock on it like on any other part.
    """

    def __init__(self, config: ViewsConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        images: UInt8[Tensor, "b 3 h w"] | Images,
        generator: Random = None,
        size: int | None = None,
    ) -> Float[Tensor, "b 3 rows columns"]:
        """Return views in float32 and in [0, 1]; the same generator state gives the same views.

        Args:
            images: uint8, or floats in [0, 1].
            generator: Of random numbers, on the device of the images.
            size: Side of the views in pixels; ``None`` keeps that of the pictures. A view is
                resampled without a filter: below half the side of what it shows, fine stripes
                turn into coarse ones.
        """
        c = self.config
        out = as_float(images)
        other_size = size is not None and out.shape[2:] != (size, size)
        if other_size or c.area != (1.0, 1.0) or c.ratio != (1.0, 1.0) or c.turn or c.shear:
            out = affine(
                out,
                area=c.area,
                ratio=c.ratio,
                shift=c.shift,
                turn=c.turn,
                shear=c.shear,
                flip=c.flip,
                size=size,
                generator=generator,
            )
        else:  # nothing to resample: whole pixels are moved, which is cheaper and sharper
            if c.shift:
                down, across = (round(c.shift * side) for side in out.shape[2:])
                out = pixel_shift(out, (down, across), generator)
            if c.flip:
                out = mirror(out, c.flip, generator)
        if c.brightness or c.contrast or c.saturation or c.hue:
            out = colour_jitter(
                out,
                brightness=c.brightness,
                contrast=c.contrast,
                saturation=c.saturation,
                hue=c.hue,
                probability=c.jitter,
                generator=generator,
            )
        for change, amount in ((greyscale, c.grey), (solarise, c.solarise), (erase, c.erase)):
            if amount:
                out = change(out, amount, generator)
        return out


def multi_crop(
    images: UInt8[Tensor, "b 3 h w"] | Images,
    views: Views,
    local_views: Views,
    *,
    local_size: int,
    local_crops: int,
    generator: Random = None,
) -> list[Float[Tensor, "b 3 rows columns"]]:
    """Make two global views of each picture and several smaller local ones.

    A local view has fewer pixels, so a transformer gives it fewer tokens: many views cost
    little more than two.

    Args:
        images: uint8, or floats in [0, 1].
        views: Makes a global view; it keeps the picture's size.
        local_views: Makes a local view. What part of the picture it shows is its ``area``.
        local_size: Side of a local view in pixels.
        local_crops: Number of local views of a picture; zero is allowed.
        generator: Of random numbers, on the device of the images.

    Returns:
        The two global views, then the local ones; row i of each shows picture i.

    Raises:
        ValueError: If the number of local views is negative or their size not positive.

    References:
        Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments" (SwAV), section 3.2; Caron et al. 2021 (DINO), section 3.1.
    """
    if local_crops < 0 or local_size < 1:
        raise ValueError(
            f"expected local_crops of at least 0 and local_size of at least 1; got {local_crops} "
            f"and {local_size}"
        )
    # All views of one size are drawn at once: twice the batch, not the same work twice.
    out = list(views(images.repeat(2, 1, 1, 1), generator).chunk(2))
    if local_crops:
        copies = images.repeat(local_crops, 1, 1, 1)
        out += local_views(copies, generator, size=local_size).chunk(local_crops)
    return out
