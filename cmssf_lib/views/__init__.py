"""Random views: what a picture looks like when some of it does not matter.

All views of a batch are made at once, on the device the pictures are on, and every picture
draws its own parameters. Crops, shifts, turns and flips are one affine map of the pixel grid,
so a view is resampled once however many of them it combines.
"""

from cmssf_lib.views.batch import as_float
from cmssf_lib.views.colours import (
    LUMA,
    colour_jitter,
    grey,
    greyscale,
    solarise,
    turn_hue,
)
from cmssf_lib.views.crops import multi_crop
from cmssf_lib.views.masks import kept_patches, patch_mask
from cmssf_lib.views.places import affine, erase, mirror, pixel_shift
from cmssf_lib.views.random_view import Views

__all__ = [
    "LUMA",
    "Views",
    "affine",
    "as_float",
    "colour_jitter",
    "erase",
    "grey",
    "greyscale",
    "kept_patches",
    "mirror",
    "multi_crop",
    "patch_mask",
    "pixel_shift",
    "solarise",
    "turn_hue",
]
