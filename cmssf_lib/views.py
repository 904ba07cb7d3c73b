"""Random views: what a picture looks like when some of it does not matter.

All views of a batch are made at once, on the device the pictures are on, and every picture
draws its own parameters. Crops, shifts, turns and flips are one affine map of the pixel grid,
so a view is resampled once however many of them it combines.
"""

import math

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.presets import ViewsConfig

Images = Float[Tensor, "b 3 h w"]

# How bright red, green and blue look (ITU-R BT.601), the weights of PIL and torchvision.
LUMA = (0.299, 0.587, 0.114)


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
        return images.float() / 255
    if not images.is_floating_point():
        raise TypeError(f"expected uint8 images, or floats in [0, 1]; got {images.dtype}")
    low, high = images.aminmax() if images.numel() else (images.new_zeros(()),) * 2
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # a NaN fails both comparisons
        raise ValueError(
            f"float images must lie in [0, 1]; these run from {low:.3g} to {high:.3g}. "
            "Divide by 255, or leave the normalisation to the encoder"
        )
    return images.float()


def affine(
    images: Images,
    *,
    area: tuple[float, float] = (1.0, 1.0),
    ratio: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    turn: float = 0.0,
    shear: float = 0.0,
    flip: float = 0.0,
    size: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b 3 rows columns"]:
    """Crop, shift, turn, shear and flip, all in one resampling.

    A crop (``area`` below 1) lies inside the picture. What a shift, a turn or a zoom out
    (``area`` above 1) brings in from outside is black.

    Args:
        images: In [0, 1].
        area: See `ViewsConfig`, as for all the others.
        ratio: Width to height, drawn evenly on a log scale.
        shift: Fraction of the side.
        turn: Radians.
        shear: Slope.
        flip: Probability.
        size: Side of the result; ``None`` keeps height and width.
        generator: Of random numbers, on the device of the images.

    Raises:
        ValueError: If ``flip`` is not a probability.
    """
    b, _, h, w = images.shape
    device = images.device

    def uniform(low: float, high: float) -> Float[Tensor, " b"]:
        return low + (high - low) * torch.rand(b, device=device, generator=generator)

    kept = uniform(*area)
    squeeze = torch.exp(uniform(math.log(ratio[0]), math.log(ratio[1])) / 2)
    wide, high = kept.sqrt() * squeeze, kept.sqrt() / squeeze  # parts of the two sides
    if area[1] <= 1:
        wide, high = wide.clamp(max=1), high.clamp(max=1)
    # A crop may lie anywhere inside; the grid runs from -1 to 1, so the room is 1 - side.
    x = uniform(-1, 1) * (1 - wide).clamp(min=0) + 2 * uniform(-shift, shift)
    y = uniform(-1, 1) * (1 - high).clamp(min=0) + 2 * uniform(-shift, shift)
    angle, slope = uniform(-turn, turn), uniform(-shear, shear)
    mirror = 1 - 2 * _chosen(images, flip, generator).flatten().float()
    cos, sin = angle.cos(), angle.sin()
    # Rows of the map from a pixel of the view to a place in the picture. Both sides of the
    # picture are 2 long on the grid, so what passes from one to the other is rescaled.
    theta = torch.stack(
        [
            torch.stack([mirror * wide * cos, high * (slope - sin) * (h / w), x], dim=1),
            torch.stack([mirror * wide * sin * (w / h), high * cos, y], dim=1),
        ],
        dim=1,
    )  # (b, 2, 3)
    rows, columns = (size, size) if size is not None else (h, w)
    grid = F.affine_grid(theta, [b, 3, rows, columns], align_corners=False)
    # Repeating the outermost pixels keeps a crop at the edge from mixing with black; what
    # lies outside is made black after.
    inside = (grid.abs() <= 1).all(dim=3)[:, None]  # (b, 1, rows, columns)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False) * inside


def pixel_shift(images: Images, pixels: int, generator: torch.Generator | None = None) -> Images:
    """Shift by whole pixels, black moving in: nothing is blurred.

    Args:
        images: In [0, 1].
        pixels: Largest shift either way; each picture draws its own, in both directions.
        generator: Of random numbers, on the device of the images.
    """
    b, _, h, w = images.shape
    padded = F.pad(images, (pixels,) * 4)
    draw = torch.randint(2 * pixels + 1, (2, b, 1), device=images.device, generator=generator)
    rows = draw[0] + torch.arange(h, device=images.device)  # (b, h)
    columns = draw[1] + torch.arange(w, device=images.device)  # (b, w)
    picture = torch.arange(b, device=images.device)[:, None, None]
    # Indexing with tensors around the ":" puts the channels last.
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirror(
    images: Images, probability: float = 0.5, generator: torch.Generator | None = None
) -> Images:
    """Flip each picture left to right with this probability."""
    chosen = _chosen(images, probability, generator)
    return torch.where(chosen, images.flip(3), images)


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
    return torch.where(_chosen(images, probability, generator), out, images)


def grey(images: Images) -> Float[Tensor, "b 1 h w"]:
    """Return how bright each pixel looks."""
    weights = images.new_tensor(LUMA).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def greyscale(
    images: Images, probability: float, generator: torch.Generator | None = None
) -> Images:
    """Take all colour from a picture with this probability."""
    return torch.where(_chosen(images, probability, generator), grey(images), images)


def solarise(
    images: Images, probability: float, generator: torch.Generator | None = None
) -> Images:
    """Invert the pixels above one half with this probability (BYOL, appendix B)."""
    inverted = torch.where(images >= 0.5, 1 - images, images)
    return torch.where(_chosen(images, probability, generator), inverted, images)


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


class Views:
    """Makes one random view of every picture of a batch, as a `ViewsConfig` says."""

    def __init__(self, config: ViewsConfig) -> None:
        self.config = config

    def __call__(
        self,
        images: UInt8[Tensor, "b 3 h w"] | Images,
        generator: torch.Generator | None = None,
    ) -> Images:
        """Return views in [0, 1]; the same generator state gives the same views."""
        c = self.config
        out = as_float(images)
        if c.area != (1.0, 1.0) or c.ratio != (1.0, 1.0) or c.turn or c.shear:
            out = affine(
                out,
                area=c.area,
                ratio=c.ratio,
                shift=c.shift,
                turn=c.turn,
                shear=c.shear,
                flip=c.flip,
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
        return out


def _chosen(
    images: Images, probability: float, generator: torch.Generator | None
) -> Bool[Tensor, "b 1 1 1"]:
    """Draw which pictures a change happens to."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1]; got {probability}")
    draw = torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator)
    return draw < probability
