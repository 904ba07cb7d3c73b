"""Random views (augmentations): changes to a picture that should not change its meaning.

All views of a batch are made at once, on the device of the pictures, and every picture draws
its own parameters. Crops, shifts, rotations, shears and flips are combined into one affine map
of the pixel grid, so each view is resampled at most once.
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
    resize as resize,
)

Range = tuple[PositiveFloat, PositiveFloat]


@settings
class ViewsConfig:
    """Describe the random views of a picture; the defaults leave it unchanged.

    A crop that does not fit into the picture is cut to fit, while torchvision draws a new one.
    With a largest area of 1, crops are therefore a little larger here (see `affine`).
    """

    area: Range = (1.0, 1.0)  # smallest and largest fraction of the picture that a crop keeps
    ratio: Range = (1.0, 1.0)  # smallest and largest ratio of a crop's width to its height
    shift: NonNegativeFloat = 0.0  # largest shift, as a fraction of each side; black moves in
    turn: NonNegativeFloat = 0.0  # largest rotation either way, in radians
    shear: NonNegativeFloat = 0.0  # largest shear either way, as a slope
    flip: Fraction = 0.0  # probability of a left-right flip
    brightness: NonNegativeFloat = 0.0  # the factor is drawn from 1 ± this
    contrast: NonNegativeFloat = 0.0  # likewise
    saturation: NonNegativeFloat = 0.0  # likewise
    # Largest shift of the hue either way, as a fraction of the colour circle.
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    jitter: Fraction = 1.0  # probability that the four colour changes are applied at all
    grey: Fraction = 0.0  # probability of turning the picture grey
    solarise: Fraction = 0.0  # probability of inverting the bright pixels
    erase: Fraction = 0.0  # side of a square to paint grey, as a fraction of the picture's sides


class Views(nn.Module):
    """Make one random view of every picture of a batch, as described by a `ViewsConfig`.

    It has no parameters or buffers, so it leaves no trace in a state dict. It is a module so
    that a profiler's hooks can time it like any other part of a method.
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
        """Return float32 views in [0, 1]; the same generator state gives the same views.

        Args:
            images: uint8, or floats in [0, 1].
            generator: Of random numbers, on the device of the images.
            size: Side of the views in pixels; ``None`` keeps the size of the pictures. There is no
                low-pass filter: a view with less than half the resolution of what it shows turns
                fine stripes into coarse ones (aliasing).
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
        else:  # shift by whole pixels instead of resampling, which is cheaper and stays sharp
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

    A local view has fewer pixels, so a transformer makes fewer tokens of it, and several local
    views cost little.

    Args:
        images: uint8, or floats in [0, 1].
        views: Makes the global views, at the size of the pictures.
        local_views: Makes the local views. Its ``area`` says how much of the picture they show.
        local_size: Side of a local view in pixels.
        local_crops: Number of local views of each picture; zero is allowed.
        generator: Of random numbers, on the device of the images.

    Returns:
        The two global views, then the local ones; row i of each view shows picture i.

    Raises:
        ValueError: If the number of local views is negative, or their size is not positive.

    References:
        Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments" (SwAV), section 3.2; Caron et al. 2021 (DINO), section 3.1.
    """
    if local_crops < 0 or local_size < 1:
        raise ValueError(
            f"expected local_crops >= 0 and local_size >= 1; got {local_crops} and {local_size}"
        )
    # Make all views of one size in one call, on a repeated batch, which is faster.
    out = list(views(images.repeat(2, 1, 1, 1), generator).chunk(2))
    if local_crops:
        copies = images.repeat(local_crops, 1, 1, 1)
        out += local_views(copies, generator, size=local_size).chunk(local_crops)
    return out
