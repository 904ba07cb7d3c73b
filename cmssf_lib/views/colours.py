"""Conversion of pixels to floats (`as_float`), and views that change colours."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Images = Float[Tensor, "b 3 h w"]
Random = torch.Generator | None  # on the device of the images; None: PyTorch's default there

# Perceived brightness of red, green and blue (ITU-R BT.601), as in PIL and torchvision.
LUMA = (0.299, 0.587, 0.114)


def as_float(images: UInt8[Tensor, "b 3 h w"] | Images) -> Images:
    """Convert pictures to float32 in [0, 1], and check them.

    Checking that floats lie in [0, 1] makes the CPU wait for the GPU. It is therefore done only
    here, where pictures enter the library; other functions rely on it.

    Raises:
        ValueError: If the shape is not ``(b, 3, h, w)``, or floats are NaN or outside [0, 1].
        TypeError: If it is no tensor, or its values are neither uint8 nor floating point.
    """
    if not isinstance(images, Tensor):
        got = type(images).__name__
        raise TypeError(f"expected a tensor; got {got}: `cmssf_lib.data.as_images` makes one")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (batch, 3, height, width); got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float().div_(255)
    if not images.is_floating_point():
        raise TypeError(f"expected uint8 images, or floats in [0, 1]; got {images.dtype}")
    # An exported graph cannot branch on values. PyTorch 2.6 tells compiling from exporting nowhere.
    if getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)():
        return images.float()
    low, high = images.aminmax() if images.numel() else (images.new_zeros(()),) * 2
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # a NaN fails both comparisons
        raise ValueError(
            f"float images must lie in [0, 1]; these run from {low:.3g} to {high:.3g}. Divide by "
            "255, and do not normalise them: the encoder does that"
        )
    return images.float()


def chosen(images: Images, probability: float, generator: Random) -> Bool[Tensor, "b 1 1 1"]:
    """Draw which pictures to change."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability must lie in [0, 1]; got {probability}")
    return evenly(len(images), images.device, generator)[:, None, None, None] < probability


def evenly(n: int, device: torch.device, generator: Random) -> Float[Tensor, " n"]:
    """Draw uniform numbers between 0 and 1, in float32 for any type of pictures or default."""
    return torch.rand(n, device=device, generator=generator, dtype=torch.float32)


def colour_jitter(
    images: Images,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    probability: float = 1.0,
    generator: Random = None,
) -> Images:
    """Change brightness, contrast, saturation and hue, each by its own random amount.

    The four changes are those of SimCLR (its appendix A), but always in this order.

    Args:
        images: In [0, 1].
        brightness: The factor is drawn from 1 ± this; likewise for the next two.
        contrast: Blends with the picture's mean grey.
        saturation: Blends with the grey picture.
        hue: Largest shift either way, as a fraction of the colour circle, at most 0.5.
        probability: Probability that a picture is changed at all.
        generator: Of random numbers, on the device of the images.
    """

    def factor(strength: float) -> Float[Tensor, "b 1 1 1"]:
        draw = evenly(len(images), images.device, generator)[:, None, None, None]
        return (1 + strength * (2 * draw - 1)).to(images.dtype)

    # These operations are cheap, so their cost is memory traffic. Each line below therefore
    # allocates one new tensor and then works in place (the underscores).
    out = images
    if brightness:
        out = (out * factor(brightness)).clamp_(0, 1)
    if contrast:
        mean, f = grey(out).mean(dim=(1, 2, 3), keepdim=True), factor(contrast)
        out = (out * f).add_(mean * (1 - f)).clamp_(0, 1)
    if saturation:
        base, f = grey(out), factor(saturation)
        out = (out * f).add_(base * (1 - f)).clamp_(0, 1)
    if hue:
        out = turn_hue(out, (factor(hue) - 1).flatten())
    return torch.where(chosen(images, probability, generator), out, images)


def grey(images: Images) -> Float[Tensor, "b 1 h w"]:
    """Return the perceived brightness of each pixel."""
    red, green, blue = images.chunk(3, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def greyscale(images: Images, probability: float, generator: Random = None) -> Images:
    """Turn each picture grey with this probability."""
    return torch.where(chosen(images, probability, generator), grey(images), images)


def solarise(images: Images, probability: float, generator: Random = None) -> Images:
    """Invert each picture's pixels from one half up with this probability (BYOL, appendix B)."""
    inverted = torch.where(images >= 0.5, 1 - images, images)
    return torch.where(chosen(images, probability, generator), inverted, images)


def turn_hue(images: Images, turns: Float[Tensor, " b"]) -> Images:
    """Shift the hue of each picture along the colour circle.

    Args:
        images: In [0, 1].
        turns: Fraction of a full turn for each picture; one third turns red into green.
    """
    red, green, blue = images.unbind(1)  # (b, h, w) each
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low  # 0 for grey
    # The pixel's hue: red is at 0, green at 1/3, blue at 2/3. The first two lines work in sixths
    # of a turn, times chroma; the division then gives turns. A grey pixel gets 0.
    smallest = max(1e-12, torch.finfo(images.dtype).tiny)  # also above zero in half precision
    hue = torch.where(green == value, blue - red + 2 * chroma, red - green + 4 * chroma)
    hue = torch.where(red == value, green - blue, hue).div_(6 * chroma.clamp_(min=smallest))
    hue.add_((turns % 1)[:, None, None].to(hue.dtype))
    # How far the hue is past each channel's own place, in turns. One turn is added to all,
    # because `frac` rounds towards zero.
    place = torch.arange(3, device=hue.device, dtype=hue.dtype) * 2 % 3 / 3  # 0, 2/3, 1/3
    past = hue[:, None] + (1 + place.view(3, 1, 1))  # (b, 3, h, w)
    # A channel is full within 1/6 of its own place, and zero within 1/6 of the opposite place.
    full = past.frac_().sub_(0.5).abs_().mul_(6).sub_(1).clamp_(0, 1)
    return full.mul_(chroma[:, None]).add_(low[:, None])
