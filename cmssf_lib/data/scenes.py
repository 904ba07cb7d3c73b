"""Digit scenes: data that comes with the book, costs no download and knows its own truth.

Real handwritten digits (scikit-learn's 1,797, 8×8 pixels) are put on small canvases. The
test scenes use digits that never occur in training, so what is measured on them is
recognition and not memory.
"""

import math

import torch
from jaxtyping import Float, Int64, UInt8
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.captions import COLOURS, DIGIT_WORDS, GROUNDS, SIZES, class_caption, scene_caption
from cmssf_lib.data.image_text import ImageTextData, Splits

#: Telephone keys: the two frequencies, in hertz, that sound together for each digit
#: (dual-tone multi-frequency, ITU-T Q.23).
DTMF_HERTZ = (
    (941, 1336),
    (697, 1209),
    (697, 1336),
    (697, 1477),
    (770, 1209),
    (770, 1336),
    (770, 1477),
    (852, 1209),
    (852, 1336),
    (852, 1477),
)
SAMPLE_RATE = 8000
#: Of the sounds that come with scenes: seconds of the record, and of the tone at its beginning.
#: The rest is left for a tone that comes too late.
SOUND_SECONDS, TONE_SECONDS = 0.1, 0.05

# Side of the digit as a fraction of the canvas: one range for plain scenes, and one for
# each word in SIZES.
PLAIN_SIDE = (0.5, 0.8)
SIDES = ((0.50, 0.60), (0.75, 0.90))
TURN = 0.25  # radians either way
FLAVOURS = ("plain", "tinted", "colour")


def digit_scenes(
    flavour: str = "colour",
    *,
    train: int = 4000,
    test: int = 1000,
    image_size: int = 16,
    seed: int = 0,
) -> Splits:
    """Compose scenes with one digit each.

    - **plain**: a white digit at a random place, size and turn on black. Its caption names
      the class: "a photo of a seven".
    - **tinted**: the plain scenes of the same seed, each in a colour of its own, of which one
      channel is full. The brightest channel is the plain scene. The caption says nothing of it.
    - **colour**: a digit of some colour on a coloured, textured ground. Its caption names all
      of it: "a photo of a small red seven on a blue background".

    Args:
        flavour: "plain", "tinted" or "colour".
        train: Number of training scenes.
        test: Number of test scenes, made from other digits.
        image_size: Side of the canvas in pixels, at least 12.
        seed: The same seed gives the same scenes on any machine of the same kind.

    Returns:
        Training and test set, classes "zero" to "nine".

    Raises:
        ValueError: If the flavour is unknown, or a number is too small.
    """
    if flavour not in FLAVOURS:
        raise ValueError(
            f"unknown flavour {flavour!r}; choose one of {', '.join(FLAVOURS)} "
            "(digit_questions makes the scenes with two digits)"
        )
    if train < 1 or test < 1 or image_size < 12:
        raise ValueError(
            f"expected at least one scene a split and 12 pixels; got train={train}, test={test}, "
            f"image_size={image_size}"
        )
    train_ids, test_ids = digit_split()
    return Splits(
        _compose(flavour, train, train_ids, image_size, seed=2 * seed),
        _compose(flavour, test, test_ids, image_size, seed=2 * seed + 1),
    )


def digit_split() -> tuple[Int64[Tensor, " m"], Int64[Tensor, " k"]]:
    """Divide the handwritten digits for good: three quarters to train, a quarter to test."""
    n = len(load_digits().target)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[n // 4 :], order[: n // 4]


def _compose(
    flavour: str, n: int, digit_ids: Int64[Tensor, " m"], size: int, seed: int
) -> ImageTextData:
    """Draw ``n`` scenes from the digits ``digit_ids``."""
    random = torch.Generator().manual_seed(seed)
    digits = load_digits()
    chosen = digit_ids[torch.randint(len(digit_ids), (n,), generator=random)]
    labels = torch.from_numpy(digits.target).long()[chosen]
    ink = torch.from_numpy(digits.images).float()[chosen, None] / 16  # (n, 1, 8, 8) in [0, 1]
    attributes = {"digit_id": chosen}

    if flavour in ("plain", "tinted"):
        side = uniform(n, *PLAIN_SIDE, random)
        images = place(ink, side, size, random).expand(n, 3, size, size)
        if flavour == "tinted":
            tint = torch.rand(n, 3, generator=random)
            attributes["tint"] = tint / tint.amax(dim=1, keepdim=True)
            images = images * attributes["tint"][:, :, None, None]
        captions = tuple(class_caption(DIGIT_WORDS[label]) for label in labels.tolist())
    else:
        for key, words in (("colour", COLOURS), ("ground", GROUNDS), ("size", SIZES)):
            attributes[key] = torch.randint(len(words), (n,), generator=random)
        low, high = torch.tensor(SIDES)[attributes["size"]].T
        side = low + (high - low) * torch.rand(n, generator=random)
        ink = place(ink, side, size, random)
        colour = torch.tensor(list(COLOURS.values()))[attributes["colour"]]  # (n, 3)
        ground = torch.tensor(list(GROUNDS.values()))[attributes["ground"]]
        colour = colour + 0.05 * torch.randn(n, 3, generator=random)
        ground = ground[:, :, None, None] + texture(n, size, random)
        images = ink * colour[:, :, None, None] + (1 - ink) * ground
        captions = tuple(
            scene_caption(digit, tuple(COLOURS)[c], tuple(GROUNDS)[g], SIZES[s])
            for digit, c, g, s in zip(
                labels.tolist(),
                attributes["colour"].tolist(),
                attributes["ground"].tolist(),
                attributes["size"].tolist(),
                strict=True,
            )
        )
    return ImageTextData(
        images=to_uint8(images),
        labels=labels,
        captions=captions,
        class_names=DIGIT_WORDS,
        name=f"digit scenes, {flavour}",
        attributes=attributes,
    )


def place(
    ink: Float[Tensor, "n 1 8 8"],
    side: Float[Tensor, " n"],
    size: int,
    random: torch.Generator,
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
    centre = (2 * torch.rand(n, 2, generator=random) - 1) * (1 - side)[:, None]
    # affine_grid asks, for each pixel of the canvas, where in the digit it comes from:
    # shift the centre to the origin, turn back, divide by the side.
    cos, sin = torch.cos(turn) / side, torch.sin(turn) / side
    rotation = torch.stack([cos, sin, -sin, cos], dim=1).view(n, 2, 2)
    shift = -rotation @ centre[:, :, None]  # (n, 2, 1)
    grid = F.affine_grid(torch.cat([rotation, shift], dim=2), [n, 1, size, size], False)
    return F.grid_sample(ink, grid, align_corners=False)


def texture(n: int, size: int, random: torch.Generator) -> Float[Tensor, "n 1 size size"]:
    """Draw grounds of light and dark stripes, each with a direction, width and phase, and grain."""
    angle = uniform(n, 0, math.pi, random)[:, None, None]
    waves = uniform(n, 1, 3, random)[:, None, None]
    phase = uniform(n, 0, 2 * math.pi, random)[:, None, None]
    strength = uniform(n, 0, 0.15, random)[:, None, None]
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    along = x * torch.cos(angle) + y * torch.sin(angle)  # (n, size, size)
    stripes = strength * torch.sin(2 * math.pi * waves * along + phase)
    grain = 0.03 * torch.randn(n, size, size, generator=random)
    return (stripes + grain)[:, None]


def tones(
    labels: Int64[Tensor, " n"],
    *,
    seed: int = 0,
    seconds: float = 0.1,
    noise: float = 0.3,
    start: float = 0.0,
    sounding: float | None = None,
) -> Float[Tensor, "n samples"]:
    """Sound each digit as its telephone key: two sines of any phase, with noise.

    Args:
        labels: Digits 0 to 9.
        seed: Draws phases and noise.
        seconds: Length of each record.
        noise: Standard deviation of the added noise; each sine has amplitude 0.5. The noise
            is heard through the whole record.
        start: When the tone sets in, in seconds.
        sounding: For how many seconds it sounds; ``None`` for the rest of the record.

    Returns:
        Waveforms at `SAMPLE_RATE` samples a second.

    Raises:
        ValueError: If a label is not a digit, the noise is negative, or the tone does not lie
            within the record.
    """
    if len(labels) and (labels.min() < 0 or labels.max() > 9):
        raise ValueError("only the digits 0 to 9 have a telephone tone")
    if noise < 0:
        raise ValueError(f"the noise is a standard deviation, at least 0; got {noise}")
    random = torch.Generator().manual_seed(seed)
    n, samples = len(labels), round(seconds * SAMPLE_RATE)
    first = round(start * SAMPLE_RATE)
    last = samples if sounding is None else first + round(sounding * SAMPLE_RATE)
    if not 0 <= first <= last <= samples:
        raise ValueError(
            f"a tone of {sounding} s that starts at {start} s does not lie within a record of "
            f"{seconds} s"
        )
    time = torch.arange(samples) / SAMPLE_RATE
    hertz = torch.tensor(DTMF_HERTZ, dtype=torch.float32)[labels.cpu()]  # (n, 2)
    phase = 2 * math.pi * torch.rand(n, 2, 1, generator=random)
    waves = torch.sin(2 * math.pi * hertz[:, :, None] * time + phase)  # (n, 2, samples)
    waves[:, :, :first] = 0
    waves[:, :, last:] = 0
    return 0.5 * waves.sum(dim=1) + noise * torch.randn(n, samples, generator=random)


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Turn pictures in [0, 1] into bytes, clipping what lies outside."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


def uniform(n: int, low: float, high: float, random: torch.Generator) -> Float[Tensor, " n"]:
    """Draw ``n`` numbers evenly between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(n, generator=random)
