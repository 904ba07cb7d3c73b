"""Views that change geometry: crop, shift, rotation, shear, flip, and erasing a square."""

import math
import warnings

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.views.colours import Images, Random, chosen, evenly


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
    generator: Random = None,
) -> Float[Tensor, "b 3 rows columns"]:
    """Crop, shift, rotate, shear and flip, all in one resampling.

    A crop (``area`` at most 1) lies inside the picture; if it is too wide or too high, it is cut
    to fit. Pixels from outside the picture, which a shift, a rotation or a zoom out (``area``
    above 1) brings in, are black. torchvision's `RandomResizedCrop` draws a new crop if one does
    not fit, so its crops are smaller: with areas of 0.2 to 1 and ratios of 3/4 to 4/3, the mean
    area is 0.540 of the picture there and 0.594 here.

    Args:
        images: In [0, 1].
        area: Smallest and largest fraction of the picture; see `ViewsConfig` for this and the rest.
        ratio: Width to height, drawn uniformly on a log scale.
        shift: As a fraction of the width and of the height.
        turn: In radians.
        shear: As a slope.
        flip: Probability.
        size: Side of the result; ``None`` keeps height and width.
        generator: Of random numbers, on the device of the images.

    Raises:
        ValueError: If ``flip`` is not a probability.
    """
    b, _, h, w = images.shape
    device = images.device

    def uniform(low: float, high: float) -> Float[Tensor, " b"]:
        return low + (high - low) * evenly(b, device, generator)

    kept = uniform(*area)
    squeeze = torch.exp(uniform(math.log(ratio[0]), math.log(ratio[1])) / 2)
    wide, high = kept.sqrt() * squeeze, kept.sqrt() / squeeze  # as fractions of the two sides
    if area[1] <= 1:
        wide, high = wide.clamp(max=1), high.clamp(max=1)
    # A crop may lie anywhere inside. The grid runs from -1 to 1, so its centre moves by 1 - side.
    x = uniform(-1, 1) * (1 - wide).clamp(min=0) + 2 * uniform(-shift, shift)
    y = uniform(-1, 1) * (1 - high).clamp(min=0) + 2 * uniform(-shift, shift)
    angle, slope = uniform(-turn, turn), uniform(-shear, shear)
    mirror = 1 - 2 * chosen(images, flip, generator).flatten().float()
    cos, sin = angle.cos(), angle.sin()
    # The map from a pixel of the view to a place in the picture. On the grid both sides of the
    # picture have length 2, so the terms that mix the axes are rescaled.
    to_x = [mirror * wide * cos, high * (slope - sin) * (h / w), x]
    to_y = [mirror * wide * sin * (w / h), high * cos, y]
    theta = torch.stack(to_x + to_y, dim=1).view(b, 1, 2, 3)
    rows, columns = (size, size) if size is not None else (h, w)
    # Each pixel's place in the picture is the sum of a row term and a column term.
    row_term = centres(rows, device)[:, None] * theta[..., 1] + theta[..., 2]  # (b, rows, 2)
    column_term = centres(columns, device)[:, None] * theta[..., 0]  # (b, columns, 2)
    grid = row_term[:, :, None] + column_term[:, None]  # (b, rows, columns, 2)
    inside = grid.abs().amax(dim=3) <= 1  # (b, rows, columns)
    out = sample(images, grid)
    if area[1] <= 1 and not (shift or turn or shear):
        return out  # a crop alone never leaves the picture
    return out * inside[:, None]


def sample(
    images: Images, grid: Float[Tensor, "b rows columns 2"]
) -> Float[Tensor, "b 3 rows columns"]:
    """Sample pictures at the points (x, y) of a grid from -1 to 1.

    Points beyond the centres of the outermost pixels are moved there, in place, so that a crop at
    the edge does not mix with black. This does what `padding_mode="border"` would do, but works on
    every device.
    """
    h, w = images.shape[2:]
    for axis, side in enumerate((w, h)):
        grid[..., axis].clamp_(1 / side - 1, 1 - 1 / side)
    precision = torch.promote_types(images.dtype, torch.float32)  # half would round the points
    out = F.grid_sample(images.to(precision), grid.to(precision), align_corners=False)
    return out.to(images.dtype)


def resize(
    maps: Float[Tensor, "b c h w"], size: tuple[int, int], mode: str
) -> Float[Tensor, "b c rows columns"]:
    """Resize without aliasing, on the CPU if their device cannot (MPS before PyTorch 2.8).

    Args:
        maps: Pictures, or other planes.
        size: Height and width of the result.
        mode: "bilinear" or "bicubic".
    """
    try:
        return F.interpolate(maps, size, mode=mode, antialias=True)
    except NotImplementedError:
        warnings.warn(f"no resizing on {maps.device.type}: it is done on the CPU", stacklevel=2)
        return F.interpolate(maps.cpu(), size, mode=mode, antialias=True).to(maps.device)


def centres(pixels: int, device: torch.device) -> Float[Tensor, " pixels"]:
    """Return the centres of this many pixels on an axis from -1 to 1."""
    return (2 * torch.arange(pixels, device=device, dtype=torch.float32) + 1) / pixels - 1


def pixel_shift(images: Images, pixels: int | tuple[int, int], generator: Random = None) -> Images:
    """Shift each picture by whole pixels, without blur; black moves in.

    Args:
        images: In [0, 1].
        pixels: Largest shift either way, or a pair (down, across). Each picture draws its own
            shift along both axes.
        generator: Of random numbers, on the device of the images.
    """
    b, _, h, w = images.shape
    device = images.device
    down, across = (pixels, pixels) if isinstance(pixels, int) else pixels
    padded = F.pad(images, (across, across, down, down))

    def moved(side: int, most: int) -> Int64[Tensor, "b side"]:
        first = torch.randint(2 * most + 1, (b, 1), device=device, generator=generator)
        return first + torch.arange(side, device=device)

    rows, columns = moved(h, down), moved(w, across)
    picture = torch.arange(b, device=device)[:, None, None]
    # Because index tensors surround the ":", PyTorch puts the channels last.
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirror(images: Images, probability: float = 0.5, generator: Random = None) -> Images:
    """Flip each picture left to right with this probability."""
    return torch.where(chosen(images, probability, generator), images.flip(3), images)


def erase(images: Images, side: float, generator: Random = None) -> Images:
    """Paint a random square of each picture grey, so that the rest must suffice to recognise it.

    The square is centred on any pixel, so at the border part of it is cut off (DeVries & Taylor
    2017, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3).

    Args:
        images: In [0, 1].
        side: Of the square, as a fraction of each side of the picture.
        generator: Of random numbers, on the device of the images.

    Raises:
        ValueError: If the side is not between 0 and 1.
    """
    if not 0 <= side <= 1:
        raise ValueError(f"the erased square's side must be from 0 to 1; got {side}")
    b, _, *sides = images.shape
    inside = []
    for pixels in sides:
        length = round(side * pixels)
        place = torch.arange(pixels, device=images.device)
        first = torch.randint(pixels, (b, 1), device=images.device, generator=generator)
        first = first - length // 2
        inside.append((first <= place) & (place < first + length))  # (b, pixels)
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (b, 1, h, w)
    return images.masked_fill(square, 0.5)
