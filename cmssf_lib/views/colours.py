"""Views that change colours: brightness, contrast, saturation, hue, grey, solarised."""

import torch
from jaxtyping import Float
from torch import Tensor

from cmssf_lib.views.batch import Images, chosen

# How bright red, green and blue look (ITU-R BT.601), the weights of PIL and torchvision.
LUMA = (0.299, 0.587, 0.114)


def colour_jitter(
    images: Images,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> Images:
    """Change brightness, contrast, saturation and hue, each by an amount of its own.

    The four changes are those of SimCLR (its appendix A). Their order is fixed here.

    Args:
        images: In [0, 1].
        brightness: A factor is drawn from 1 ± this; likewise the next two.
        contrast: Blends with the picture's mean grey.
        saturation: Blends with the grey picture.
        hue: Part of the colour circle, at most 0.5 either way.
        probability: That a picture is changed at all.
        generator: Of random numbers, on the device of the images.
    """

    def factor(strength: float) -> Float[Tensor, "b 1 1 1"]:
        draw = torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator)
        return 1 + strength * (2 * draw - 1)

    out = images
    if brightness:
        out = (out * factor(brightness)).clamp(0, 1)
    if contrast:
        mean = grey(out).mean(dim=(1, 2, 3), keepdim=True)
        out = (mean + (out - mean) * factor(contrast)).clamp(0, 1)
    if saturation:
        base = grey(out)
        out = (base + (out - base) * factor(saturation)).clamp(0, 1)
    if hue:
        out = turn_hue(out, (factor(hue) - 1).flatten())
    return torch.where(chosen(images, probability, generator), out, images)


def grey(images: Images) -> Float[Tensor, "b 1 h w"]:
    """Return how bright each pixel looks."""
    weights = images.new_tensor(LUMA).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def greyscale(
    images: Images, probability: float, generator: torch.Generator | None = None
) -> Images:
    """Take all colour from a picture with this probability."""
    return torch.where(chosen(images, probability, generator), grey(images), images)


def solarise(
    images: Images, probability: float, generator: torch.Generator | None = None
) -> Images:
    """Invert the pixels above one half with this probability (BYOL, appendix B)."""
    inverted = torch.where(images >= 0.5, 1 - images, images)
    return torch.where(chosen(images, probability, generator), inverted, images)


def turn_hue(images: Images, turns: Float[Tensor, " b"]) -> Images:
    """Turn the colour circle, by way of hue, saturation and value.

    Args:
        images: In [0, 1].
        turns: Part of a full turn for each picture; one third makes red green.
    """
    value, place = images.max(dim=1)
    spread = value - images.min(dim=1).values  # (b, h, w)
    red, green, blue = images.unbind(1)
    safe = torch.where(spread > 0, spread, 1)
    sixths = torch.stack([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4])
    hue = sixths.gather(0, place[None])[0] + 6 * turns[:, None, None]  # in sixths of a turn
    # Each channel falls and rises along the circle; red is full at 0, green at 2, blue at 4.
    k = (torch.stack([5 + hue, 3 + hue, 1 + hue], dim=1)) % 6
    return value[:, None] - spread[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
