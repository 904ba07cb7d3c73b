"""Multi-crop: two large views of a picture and several small ones."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmssf_lib.presets import ViewsConfig
from cmssf_lib.views.batch import Images, as_float
from cmssf_lib.views.random_view import Views


def multi_crop(
    images: UInt8[Tensor, "b 3 h w"] | Images,
    views: ViewsConfig,
    local_views: ViewsConfig,
    *,
    local_size: int,
    local_crops: int,
    generator: torch.Generator | None = None,
) -> list[Float[Tensor, "b 3 rows columns"]]:
    """Make two global views of each picture and several smaller local ones.

    A local view has fewer pixels, so a transformer gives it fewer tokens: many views cost
    little more than two.

    Args:
        images: uint8, or floats in [0, 1].
        views: How a global view is made; it keeps the picture's size.
        local_views: How a local view is made. What part of the picture it shows is its ``area``.
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
    pixels = as_float(images)
    # All views of one size are drawn at once: twice the batch, not the same work twice.
    out = list(Views(views)(pixels.repeat(2, 1, 1, 1), generator).chunk(2))
    if local_crops:
        copies = pixels.repeat(local_crops, 1, 1, 1)
        out += Views(local_views)(copies, generator, size=local_size).chunk(local_crops)
    return out
