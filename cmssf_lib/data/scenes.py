"""Digit scenes: data that needs no download, and of which every fact is known.

Real handwritten digits (scikit-learn's 1,797, 8×8 pixels) are put on small canvases. The
test scenes use digits that never occur in training, so what is measured on them is
recognition and not memory. Every digit also has a sound, its telephone tone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

import torch
from jaxtyping import Float, Int64, UInt8
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.nn import functional as F

from cmssf_lib.captions import COLOURS, DIGIT_WORDS, GROUNDS, SIZES, named_by_class, scene_caption
from cmssf_lib.data.image_text import ImageTextData, Splits

#: Telephone keys: the two frequencies, in hertz, that sound together for each digit, those of its
#: row and its column (dual-tone multi-frequency, ITU-T Q.23). 0 stands below 8, then come 1 to 9.
DTMF_HERTZ = ((941, 1336), *product((697, 770, 852), (1209, 1336, 1477)))
SAMPLE_RATE = 8000
#: Of a scene's sound: the whole record, and the tone at its beginning, which may be delayed.
SOUND_SECONDS, TONE_SECONDS = 0.1, 0.05

PLAIN_SIDE = (0.5, 0.8)  # range of the digit's side, as a fraction of the canvas
SIDES = ((0.50, 0.60), (0.75, 0.90))  # the same in colour scenes, for each word in SIZES
TURN = 0.25  # radians either way
Index = Int64[Tensor, " n"]
Shape = int | tuple[int, ...]
FLAVOURS = ("plain", "tinted", "colour")

# Torch's default may be float64, which would also draw other numbers: scenes are always float32.
rand, randn = (partial(draw, dtype=torch.float32) for draw in (torch.rand, torch.randn))


def digit_scenes(
    flavour: str = "colour", *, train: int, test: int, image_size: int = 16, seed: int = 0
) -> Splits:
    """Compose scenes with one digit each (`digit_questions` makes those with two).

    - **plain**: a white digit at a random place, size and turn on black. Its caption names
      the class: "a photo of a seven".
    - **tinted**: the plain scenes of the same seed, each in a random colour that the caption
      does not mention. Its brightest channel is 1: the maximum over channels is the plain scene.
    - **colour**: a digit of some colour on a coloured, textured ground. Its caption names all
      of it: "a photo of a small red seven on a blue background".

    Args:
        flavour: "plain", "tinted" or "colour".
        train: Number of training scenes.
        test: Number of test scenes, made from other handwritten digits.
        image_size: Side of the canvas in pixels, at least 12.
        seed: The same seed gives the same scenes on any machine of the same kind.

    Returns:
        Training and test set, classes "zero" to "nine".

    Raises:
        ValueError: If the flavour is unknown, or a number is too small.
    """
    if flavour not in FLAVOURS:
        raise ValueError(f"unknown flavour {flavour!r}; choose one of {', '.join(FLAVOURS)}")
    seeds = [2 * seed, 2 * seed + 1]
    return both_splits(partial(_compose, flavour), train, test, image_size, seeds)


def both_splits(
    compose: Callable[..., ImageTextData], train: int, test: int, image_size: int, seeds: list[int]
) -> Splits:
    """Compose training and test scenes from different digits: ``compose(n, ids, size, seed)``."""
    if train < 1 or test < 1 or image_size < 12:
        raise ValueError(
            f"expected at least one scene a split and 12 pixels; got train={train}, test={test}, "
            f"image_size={image_size}"
        )
    parts = zip((train, test), digit_split(), seeds, strict=True)
    return Splits(*(compose(n, ids, image_size, seed) for n, ids, seed in parts))


def digit_split() -> tuple[Int64[Tensor, " m"], Int64[Tensor, " k"]]:
    """Divide the handwritten digits, for every seed alike: a quarter is kept for testing."""
    order = torch.randperm(1797, generator=Generator().manual_seed(0))
    return order[449:], order[:449]


def handwritten() -> tuple[Float[Tensor, "n 1 8 8"], Index]:
    """Return scikit-learn's handwritten digits, 1 where there is ink, and which digits they are."""
    ink, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    return ink.float().view(-1, 1, 8, 8) / 16, labels.long()


def _compose(flavour: str, n: int, digit_ids: Index, size: int, seed: int) -> ImageTextData:
    """Draw ``n`` scenes from the digits ``digit_ids``."""
    random = Generator().manual_seed(seed)
    ink, written = handwritten()
    chosen = digit_ids[torch.randint(len(digit_ids), (n,), generator=random)]
    ink, labels = ink[chosen], written[chosen]
    attributes = {"digit_id": chosen}

    if flavour == "colour":
        for key, words in (("colour", COLOURS), ("ground", GROUNDS), ("size", SIZES)):
            attributes[key] = torch.randint(len(words), (n,), generator=random)
        low, high = torch.tensor(SIDES, dtype=torch.float32)[attributes["size"]].T
        ink = place(ink, low + (high - low) * rand(n, generator=random), size, random)
        colour = inks(attributes["colour"], random)
        ground = grounds(attributes["ground"], size, random)
        images = ink * colour[:, :, None, None] + (1 - ink) * ground
        facts = torch.stack([labels, *(attributes[k] for k in ("colour", "ground", "size"))], dim=1)
        captions = tuple(
            scene_caption(digit, tuple(COLOURS)[colour], tuple(GROUNDS)[ground], SIZES[side])
            for digit, colour, ground, side in facts.tolist()
        )
    else:
        side = uniform(n, *PLAIN_SIDE, random)
        images = place(ink, side, size, random).expand(n, 3, size, size)
        if flavour == "tinted":
            tint = uniform((n, 3), 0, 1, random)
            attributes["tint"] = tint / tint.amax(dim=1, keepdim=True)
            images = images * attributes["tint"][:, :, None, None]
        captions = named_by_class(labels, DIGIT_WORDS)
    name = f"digit scenes, {flavour}"
    return ImageTextData(to_uint8(images), labels, captions, DIGIT_WORDS, name, attributes)


def place(
    ink: Float[Tensor, "n 1 8 8"], side: Float[Tensor, " n"], size: int, random: Generator
) -> Float[Tensor, "n 1 size size"]:
    """Put each digit on an empty canvas, slightly turned, anywhere it fits.

    Args:
        ink: The digits, 1 where there is ink.
        side: Each digit's side as a fraction of the canvas.
        size: Side of the canvas in pixels.
        random: Draws place and turn.
    """
    n = len(ink)
    turn = uniform(n, -TURN, TURN, random)
    centre = uniform((n, 2), -1, 1, random) * (1 - side)[:, None]
    # affine_grid asks, for each pixel of the canvas, where in the digit it comes from:
    # shift the centre to the origin, turn back, divide by the side.
    cos, sin = torch.cos(turn) / side, torch.sin(turn) / side
    rotation = torch.stack([cos, sin, -sin, cos], dim=1).view(n, 2, 2)
    shift = -rotation @ centre[:, :, None]  # (n, 2, 1)
    grid = F.affine_grid(torch.cat([rotation, shift], dim=2), [n, 1, size, size], False)
    return F.grid_sample(ink, grid, align_corners=False)


def grounds(index: Index, size: int, random: Generator) -> Float[Tensor, "n 3 size size"]:
    """Draw the `GROUNDS` at these places: stripes of some direction, width and phase, and grain."""
    n = len(index)
    angle = uniform((n, 1, 1), 0, math.pi, random)
    waves = uniform((n, 1, 1), 1, 3, random)
    phase = uniform((n, 1, 1), 0, 2 * math.pi, random)
    strength = uniform((n, 1, 1), 0, 0.15, random)
    line = torch.linspace(0, 1, size, dtype=torch.float32)
    along = line * torch.cos(angle) + line[:, None] * torch.sin(angle)  # (n, size, size)
    stripes = strength * torch.sin(2 * math.pi * waves * along + phase)
    texture = stripes + 0.03 * randn((n, size, size), generator=random)
    return shades(GROUNDS, index)[:, :, None, None] + texture[:, None]


def tones(
    labels: Index,
    *,
    seed: int = 0,
    seconds: float = SOUND_SECONDS,
    noise: float = 0.3,
    sounding: float | None = None,
) -> Float[Tensor, "n samples"]:
    """Make the sound of each digit's telephone key: two sines of random phase, with noise.

    Args:
        labels: Digits 0 to 9.
        seed: Draws phases and noise.
        seconds: Length of each record.
        noise: Standard deviation of the added noise; each sine has amplitude 0.5. The noise
            is heard through the whole record.
        sounding: For how many seconds from its beginning the tone sounds; ``None`` for all.

    Returns:
        Waveforms at `SAMPLE_RATE` samples a second, float32.

    Raises:
        ValueError: If a label is not a digit, the noise is negative, or the tone is longer
            than the record.
    """
    if len(labels) and (labels.min() < 0 or labels.max() > 9):
        raise ValueError("only the digits 0 to 9 have a telephone tone")
    require_deviation("the noise", noise)
    random = Generator().manual_seed(seed)
    n, samples = len(labels), round(seconds * SAMPLE_RATE)
    end = samples if sounding is None else round(sounding * SAMPLE_RATE)
    if not 0 <= end <= samples:
        raise ValueError(f"a tone of {sounding} s does not fit a record of {seconds} s")
    time = torch.arange(samples, dtype=torch.float32) / SAMPLE_RATE
    hertz = torch.tensor(DTMF_HERTZ, dtype=torch.float32)[labels.cpu()]  # (n, 2)
    phase = uniform((n, 2, 1), 0, 2 * math.pi, random)
    waves = torch.sin(2 * math.pi * hertz[:, :, None] * time + phase)  # (n, 2, samples)
    waves[:, :, end:] = 0
    return 0.5 * waves.sum(dim=1) + noise * randn((n, samples), generator=random)


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Turn pictures in [0, 1] into bytes, clipping what lies outside."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


def require_deviation(what: str, value: float) -> None:
    """Raise a ValueError unless ``value`` can be a standard deviation."""
    if not value >= 0:
        raise ValueError(f"{what} is a standard deviation, at least 0; got {value}")


def inks(index: Index, random: Generator) -> Float[Tensor, "n 3"]:
    """Return the digits' `COLOURS` at these places, as RGB, each a little off."""
    return shades(COLOURS, index) + 0.05 * randn((len(index), 3), generator=random)


def shades(palette: Mapping[str, Sequence[float]], index: Index) -> Float[Tensor, "n 3"]:
    """Return the colours that stand in a palette at these places, as RGB in [0, 1]."""
    return torch.tensor(list(palette.values()), dtype=torch.float32)[index]


def uniform(shape: Shape, low: float, high: float, random: Generator) -> Float[Tensor, "..."]:
    """Draw numbers evenly between ``low`` and ``high``."""
    return low + (high - low) * rand(shape, generator=random)
