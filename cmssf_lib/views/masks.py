"""Masks: which patches of a picture an encoder is shown."""

import math

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


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
    noise = torch.rand(b, patches, generator=generator, device=device)
    keep = noise.argsort(dim=1)[:, :kept]  # (b, kept)
    mask = torch.ones(b, patches, dtype=torch.bool, device=device)
    return keep, mask.scatter_(1, keep, False)
