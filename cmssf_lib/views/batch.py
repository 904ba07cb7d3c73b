"""What every view starts from: a batch of pictures as floats, and who is chosen."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Images = Float[Tensor, "b 3 h w"]


def as_float(images: UInt8[Tensor, "b 3 h w"] | Images) -> Images:
    """Turn pictures into float32 in [0, 1].

    Raises:
        ValueError: If the shape is not ``(b, 3, h, w)``, or floats lie outside [0, 1] or are
            not numbers.
        TypeError: If the values are neither uint8 nor floating point.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"expected images of shape (batch, 3, height, width); got {tuple(images.shape)}"
        )
    if images.dtype == torch.uint8:
        return images.float().div_(255)
    if not images.is_floating_point():
        raise TypeError(f"expected uint8 images, or floats in [0, 1]; got {images.dtype}")
    low, high = images.aminmax() if images.numel() else (images.new_zeros(()),) * 2
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # a NaN fails both comparisons
        raise ValueError(
            f"float images must lie in [0, 1]; these run from {low:.3g} to {high:.3g}. "
            "Divide by 255, or leave the normalisation to the encoder"
        )
    return images.float()


def chosen(
    images: Images, probability: float, generator: torch.Generator | None
) -> Bool[Tensor, "b 1 1 1"]:
    """Draw which pictures a change happens to."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1]; got {probability}")
    draw = torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator)
    return draw < probability
