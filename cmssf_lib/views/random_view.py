"""One random view of every picture of a batch: all changes of a `ViewsConfig`, in their order."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmssf_lib.presets import ViewsConfig
from cmssf_lib.views.batch import Images, as_float
from cmssf_lib.views.colours import colour_jitter, greyscale, solarise
from cmssf_lib.views.places import affine, erase, mirror, pixel_shift


class Views:
    """Makes one random view of every picture of a batch, as a `ViewsConfig` says."""

    def __init__(self, config: ViewsConfig) -> None:
        self.config = config

    def __call__(
        self,
        images: UInt8[Tensor, "b 3 h w"] | Images,
        generator: torch.Generator | None = None,
        size: int | None = None,
    ) -> Float[Tensor, "b 3 rows columns"]:
        """Return views in [0, 1]; the same generator state gives the same views.

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
                out = pixel_shift(out, round(c.shift * images.shape[-1]), generator)
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
        if c.grey:
            out = greyscale(out, c.grey, generator)
        if c.solarise:
            out = solarise(out, c.solarise, generator)
        if c.erase:
            out = erase(out, c.erase, generator)
        return out
