"""Which part of a picture is seen, and where: crop, shift, turn, shear, flip, erase, masks."""

import math

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
    """Crop, shift, turn, shear and flip, all in one resampling.

    A crop (``area`` at most 1) lies inside the picture; one that is too wide or too high for it is
    cut off. What a shift, a turn or a zoom out (``area`` above 1) brings in from outside is black.
    torchvision's `RandomResizedCrop` draws a crop that does not fit again, so that its crops are
    smaller: with areas of 0.2 to 1 and ratios of 3/4 to 4/3 the mean is 0.540 of the picture
    there and 0.594 here.

    Args:
        images: In [0, 1].
        area: See `ViewsConfig`, as for all the others.
        ratio: Width to height, drawn evenly on a log scale.
        shift: Fraction of each side: of the width across, of the height down.
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
        return low + (high - low) * evenly(b, device, generator)

    kept = uniform(*area)
    squeeze = torch.exp(uniform(math.log(ratio[0]), math.log(ratio[1])) / 2)
    wide, high = kept.sqrt() * squeeze, kept.sqrt() / squeeze  # parts of the two sides
    if area[1] <= 1:
        wide, high = wide.clamp(max=1), high.clamp(max=1)
    # A crop may lie anywhere inside; the grid runs from -1 to 1, so the room is 1 - side.
    x = uniform(-1, 1) * (1 - wide).clamp(min=0) + 2 * uniform(-shift, shift)
    y = uniform(-1, 1) * (1 - high).clamp(min=0) + 2 * uniform(-shift, shift)
    angle, slope = uniform(-turn, turn), uniform(-shear, shear)
    mirror = 1 - 2 * chosen(images, flip, generator).flatten().float()
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
    # Every pixel's place in the picture is its row's part plus its column's part.
    down, along = centres(rows, device), centres(columns, device)
    grid = (down[:, None] * theta[:, None, :, 1] + theta[:, None, :, 2])[:, :, None] + (
        along[:, None] * theta[:, None, :, 0]
    )[:, None]  # (b, rows, columns, 2)
    inside = grid.abs().amax(dim=3) <= 1  # (b, rows, columns)
    out = sample(images, grid)
    if area[1] <= 1 and not (shift or turn or shear):
        return out  # there is only a crop, and nothing lies outside
    return out * inside[:, None]


def sample(
    images: Images, grid: Float[Tensor, "b rows columns 2"]
) -> Float[Tensor, "b 3 rows columns"]:
    """Look pictures up at places (x, y) of a grid from -1 to 1, of which it moves those outside.

    Nothing is read from beyond the middles of the outermost pixels: a crop at the edge must not
    mix with black. This is what `padding_mode="border"` does, which not every device has.
    """
    h, w = images.shape[2:]
    for axis, side in enumerate((w, h)):
        grid[..., axis].clamp_(1 / side - 1, 1 - 1 / side)
    precision = torch.promote_types(images.dtype, torch.float32)  # in half, places are rounded
    out = F.grid_sample(images.to(precision), grid.to(precision), align_corners=False)
    return out.to(images.dtype)


def centres(pixels: int, device: torch.device) -> Float[Tensor, " pixels"]:
    """Return where the middles of so many pixels stand between -1 and 1."""
    return (2 * torch.arange(pixels, device=device, dtype=torch.float32) + 1) / pixels - 1


def pixel_shift(images: Images, pixels: int | tuple[int, int], generator: Random = None) -> Images:
    """Shift by whole pixels, black moving in: nothing is blurred.

    Args:
        images: In [0, 1].
        pixels: Largest shift either way, or one down and one across; each picture draws its own,
            in both directions.
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
    # Indexing with tensors around the ":" puts the channels last.
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirror(images: Images, probability: float = 0.5, generator: Random = None) -> Images:
    """Flip each picture left to right with this probability."""
    return torch.where(chosen(images, probability, generator), images.flip(3), images)


def erase(images: Images, side: float, generator: Random = None) -> Images:
    """Make a square of each picture grey, somewhere: what is left must be enough to know it by.

    The square's centre is any pixel, so at the border less of it is seen (DeVries & Taylor 2017,
    "Improved Regularization of Convolutional Neural Networks with Cutout", section 3).

    Args:
        images: In [0, 1].
        side: Of the square, as a fraction of each side of the picture.
        generator: Of random numbers, on the device of the images.

    Raises:
        ValueError: If the side is not between 0 and 1.
    """
    if not 0 <= side <= 1:
        raise ValueError(f"the erased square's side is a fraction, 0 to 1; got {side}")
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
