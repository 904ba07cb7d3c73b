"""Digit scenes: data that needs no download and in which every fact is known.

Real handwritten digits (scikit-learn's 1,797, 8×8 pixels) are placed on small canvases. The
test scenes use digits that never occur in training, so they measure recognition rather than
memory. Every digit also has a sound, its telephone tone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

import psutil
import torch
from jaxtyping import Float, Int64, UInt8
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.nn import functional as F

from cmssf_lib.captions import COLOURS, DIGIT_WORDS, GROUNDS, SIZES, named_by_class, scene_caption
from cmssf_lib.data.image_text import ImageTextData, Splits

#: For each digit, the frequencies in hertz of its row and its column on a telephone keypad, which
#: sound together (dual-tone multi-frequency, ITU-T Q.23). The 0 comes first; it is below the 8.
DTMF_HERTZ = ((941, 1336), *product((697, 770, 852), (1209, 1336, 1477)))
SAMPLE_RATE = 8000
#: Length of a scene's recording, and of the tone at its start. `delayed` moves the tone.
SOUND_SECONDS, TONE_SECONDS = 0.1, 0.05

PLAIN_SIDE = (0.5, 0.8)  # range of the digit's side, as a fraction of the canvas
SIDES = ((0.50, 0.60), (0.75, 0.90))  # the same in colour scenes, for each word in SIZES
TURN = 0.25  # largest rotation either way, in radians
Index = Int64[Tensor, " n"]
Shape = int | tuple[int, ...]
Bound = float | Float[Tensor, " n"]
#: What the attributes of a colour scene are indices into.
WORDS = {"colour": tuple(COLOURS), "ground": tuple(GROUNDS), "size": SIZES}


def digit_scenes(
    flavour: str = "colour", *, train: int, test: int, image_size: int = 16, seed: int = 0
) -> Splits:
    """Compose scenes with one digit each (`digit_questions` makes those with two).

    - **plain**: a white digit of random size, place and rotation on black. Its caption names
      the class: "a photo of a seven".
    - **tinted**: the plain scenes of the same seed, each in a random colour that the caption
      does not mention. The colour's brightest channel is 1, so the maximum over the channels
      is the plain scene.
    - **colour**: a coloured digit on a textured ground of another colour. Its caption names
      everything: "a photo of a small red seven on a blue background".

    Args:
        flavour: "plain", "tinted" or "colour".
        train: Number of training scenes.
        test: Number of test scenes, made from other handwritten digits.
        image_size: Side of the canvas in pixels, at least 12.
        seed: The same seed gives the same scenes on every machine of the same kind.

    Returns:
        Training and test set with the classes "zero" to "nine".

    Raises:
        ValueError: If the flavour is unknown, or a number is too small.
    """
    if flavour not in ("plain", "tinted", "colour"):
        raise ValueError(f"unknown flavour {flavour!r}; choose one of plain, tinted, colour")
    seeds = [2 * seed, 2 * seed + 1]
    return both_splits(partial(_compose, flavour), train, test, image_size, seeds)


def both_splits(
    compose: Callable[..., ImageTextData], train: int, test: int, image_size: int, seeds: list[int]
) -> Splits:
    """Call ``compose(n, ids, size, seed)`` for each split, with different handwritten digits."""
    if train < 1 or test < 1 or image_size < 12:
        raise ValueError(
            f"need at least 1 scene per split and 12 pixels; got {train=}, {test=}, {image_size=}"
        )
    needed, free = 18 * 3 * (train + test) * image_size**2, psutil.virtual_memory().available
    if needed > free:  # 18 bytes a value while they are composed, one in the end
        raise MemoryError(
            f"{train + test:,} scenes of {image_size} pixels need {needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free: choose fewer or smaller ones"
        )
    parts = zip((train, test), digit_split(), seeds, strict=True)
    return Splits(*(compose(n, ids, image_size, seed) for n, ids, seed in parts))


def digit_split() -> tuple[Int64[Tensor, " m"], Int64[Tensor, " k"]]:
    """Return the ids of the training digits and of the test digits (a quarter), always the same."""
    order = torch.randperm(1797, generator=Generator().manual_seed(0))
    return order[449:], order[:449]


def handwritten() -> tuple[Float[Tensor, "n 1 8 8"], Index]:
    """Return scikit-learn's handwritten digits, with 1 for full ink, and their labels."""
    ink, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    return ink.float().view(-1, 1, 8, 8) / 16, labels.long()


def _compose(flavour: str, n: int, digit_ids: Index, size: int, seed: int) -> ImageTextData:
    """Compose ``n`` scenes with handwritten digits from ``digit_ids``."""
    random = generator(seed)
    ink, written = handwritten()
    chosen = digit_ids[torch.randint(len(digit_ids), (n,), generator=random)]
    ink, labels = ink[chosen], written[chosen]
    attributes = {"digit_id": chosen}
    if flavour == "colour":
        for key, words in WORDS.items():
            attributes[key] = torch.randint(len(words), (n,), generator=random)
        low, high = torch.tensor(SIDES, dtype=torch.float32)[attributes["size"]].T
        ink = place(ink, uniform(n, low, high, random), size, random)
        colour = inks(attributes["colour"], random)
        ground = grounds(attributes["ground"], size, random)
        images = ink * colour[:, :, None, None] + (1 - ink) * ground
        captions = tuple(map(scene_caption, labels.tolist(), *in_words(attributes)))
    else:
        images = place(ink, uniform(n, *PLAIN_SIDE, random), size, random).expand(n, 3, size, size)
        if flavour == "tinted":
            tint = uniform((n, 3), 0, 1, random)
            attributes["tint"] = tint / tint.amax(dim=1, keepdim=True)
            images = images * attributes["tint"][:, :, None, None]
        captions = named_by_class(labels, DIGIT_WORDS)
    name = f"digit scenes, {flavour}"
    return ImageTextData(to_uint8(images), labels, captions, DIGIT_WORDS, name, attributes)


def in_words(attributes: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the colours, the grounds and the sizes of colour scenes, in words."""
    return [[words[i] for i in attributes[key].tolist()] for key, words in WORDS.items()]


def place(
    ink: Float[Tensor, "n 1 8 8"], side: Float[Tensor, " n"], size: int, random: Generator
) -> Float[Tensor, "n 1 size size"]:
    """Put each digit on an empty canvas, slightly rotated, at a random place inside.

    Args:
        ink: The digits, with 1 for full ink.
        side: Each digit's side as a fraction of the canvas.
        size: Side of the canvas in pixels.
        random: Generator for the places and rotations.
    """
    n = len(ink)
    turn = uniform(n, -TURN, TURN, random)
    centre = uniform((n, 2), -1, 1, random) * (1 - side)[:, None]
    # affine_grid needs the map from a pixel of the canvas to its source in the digit: shift the
    # digit's centre to the origin, rotate back, divide by the side.
    cos, sin = torch.cos(turn) / side, torch.sin(turn) / side
    rotation = torch.stack([cos, sin, -sin, cos], dim=1).view(n, 2, 2)
    shift = -rotation @ centre[:, :, None]  # (n, 2, 1)
    grid = F.affine_grid(torch.cat([rotation, shift], dim=2), [n, 1, size, size], False)
    return F.grid_sample(ink, grid, align_corners=False)


def grounds(index: Index, size: int, random: Generator) -> Float[Tensor, "n 3 size size"]:
    """Draw grounds in these colours of `GROUNDS`, with random stripes and grain."""
    n = len(index)
    angle = uniform((n, 1, 1), 0, math.pi, random)
    waves = uniform((n, 1, 1), 1, 3, random)
    phase = uniform((n, 1, 1), 0, 2 * math.pi, random)
    strength = uniform((n, 1, 1), 0, 0.15, random)
    line = torch.linspace(0, 1, size, dtype=torch.float32)
    along = line * torch.cos(angle) + line[:, None] * torch.sin(angle)  # (n, size, size)
    stripes = strength * torch.sin(2 * math.pi * waves * along + phase)
    texture = stripes + gaussian((n, size, size), 0.03, random)
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
        seed: Of the phases and the noise.
        seconds: Length of each recording.
        noise: Standard deviation of the noise, which fills the whole recording; each sine has
            amplitude 0.5.
        sounding: Length of the tone in seconds, from the start of the recording; ``None`` for
            the whole recording.

    Returns:
        Waveforms at `SAMPLE_RATE` samples per second, float32.

    Raises:
        ValueError: If a label is not a digit, the noise is negative, or the tone is longer
            than the recording.
    """
    if len(labels) and (labels.min() < 0 or labels.max() > 9):
        raise ValueError("only the digits 0 to 9 have a telephone tone")
    random = generator(seed)
    n, samples = len(labels), round(seconds * SAMPLE_RATE)
    end = samples if sounding is None else round(sounding * SAMPLE_RATE)
    if not 0 <= end <= samples:
        raise ValueError(f"a tone of {sounding} s does not fit a recording of {seconds} s")
    time = torch.arange(samples, dtype=torch.float32) / SAMPLE_RATE
    hertz = torch.tensor(DTMF_HERTZ, dtype=torch.float32)[labels.cpu()]  # (n, 2)
    phase = uniform((n, 2, 1), 0, 2 * math.pi, random)
    waves = torch.sin(2 * math.pi * hertz[:, :, None] * time + phase)  # (n, 2, samples)
    waves[:, :, end:] = 0
    return 0.5 * waves.sum(dim=1) + gaussian((n, samples), noise, random)


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Convert pictures in [0, 1] to uint8, and clip values outside this range."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


def inks(index: Index, random: Generator) -> Float[Tensor, "n 3"]:
    """Return the RGB values of these `COLOURS`, each with a small random deviation."""
    return shades(COLOURS, index) + gaussian((len(index), 3), 0.05, random)


def shades(palette: Mapping[str, Sequence[float]], index: Index) -> Float[Tensor, "n 3"]:
    """Return the colours of a palette at these indices, as RGB in [0, 1]."""
    return torch.tensor(list(palette.values()), dtype=torch.float32)[index]


def generator(seed: int) -> Generator:
    """Return a generator of random numbers; a seed of more than 64 bits is a ValueError."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed={seed} has more than 64 bits: choose a smaller one")
    return Generator().manual_seed(seed)


def uniform(shape: Shape, low: Bound, high: Bound, random: Generator) -> Float[Tensor, "..."]:
    """Draw uniform numbers between ``low`` and ``high``, always in float32.

    PyTorch's default may be float64, which would draw different numbers from the same seed.
    """
    return low + (high - low) * torch.rand(shape, generator=random, dtype=torch.float32)


def gaussian(shape: Shape, deviation: float, random: Generator) -> Float[Tensor, "..."]:
    """Draw normal numbers of mean 0, always in float32 (see `uniform`).

    Raises:
        ValueError: If the standard deviation is negative or not a number.
    """
    if not deviation >= 0:
        raise ValueError(f"the noise's standard deviation must be at least 0; got {deviation}")
    return deviation * torch.randn(shape, generator=random, dtype=torch.float32)
