"""Changes to finished data: other texts, a tone for each scene, noise, delay, mixed-up pairs.

Each function takes data and returns data. Those that make it worse change nothing at strength
zero: chapter 2 trains on one strength and measures on another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cmssf_lib.captions import DIGIT_WORDS, named_by_class
from cmssf_lib.data.image_text import ImageTextData
from cmssf_lib.data.scenes import (
    SAMPLE_RATE,
    TONE_SECONDS,
    rand,
    randn,
    require_deviation,
    to_uint8,
    tones,
)
from cmssf_lib.machine import step_seed

MATCHES = ("different", "same")
BLOCK = 4096  # pictures at a time: the noise of all of CIFAR-10 at once would take 600 MB


def with_class_captions(data: ImageTextData) -> ImageTextData:
    """Say about each picture what is true of its whole class, instead of its own caption.

    Returns:
        The same pictures and labels, with captions such as "a photo of a seven".
    """
    captions = named_by_class(data.labels, data.class_names)
    return replace(data, captions=captions, name=f"{data.name}, with class captions")


def with_clues(data: ImageTextData, clues: Mapping[str, Sequence[str]], seed: int) -> ImageTextData:
    """Say about each picture one thing that is true of its class, instead of its caption.

    Args:
        data: Its class names are the ones the clues speak of.
        clues: Each sentence with the classes it is true of, such as `DIGIT_CLUES`.
        seed: Draws which of the true sentences is said, each equally often.

    Returns:
        The same pictures and labels, with clues for captions.

    Raises:
        ValueError: If no clue is true of some class.
    """
    true = [[c for c, classes in clues.items() if name in classes] for name in data.class_names]
    if silent := [name for name, said in zip(data.class_names, true, strict=True) if not said]:
        raise ValueError(f"{data.name}: no clue is true of the class(es) {', '.join(silent)}")
    # A fraction of the list's length: one draw serves lists of every length.
    random = torch.Generator().manual_seed(seed)
    draws = rand(len(data), generator=random).tolist()
    choices = [true[label] for label in data.labels.tolist()]
    captions = tuple(c[int(draw * len(c))] for c, draw in zip(choices, draws, strict=True))
    return replace(data, captions=captions, name=f"{data.name}, with clues")


def with_tones(data: ImageTextData, kind: str, *, noise: float, seed: int) -> ImageTextData:
    """Let a telephone tone be heard with each digit scene.

    - **same**: the tone of the digit that is seen. Either modality is enough to name it.
    - **any**: the digit's own tone with probability one half, else that of another digit, each
      of the nine equally often. The label becomes whether they are the same. Neither modality
      alone says anything about the label; both together determine it. What is seen and what is
      heard are kept as the attributes "digit" and "heard".

    A record is `SOUND_SECONDS` long, the tone sounds during the first `TONE_SECONDS` of it.

    Args:
        data: Digit scenes, labelled with their digits.
        kind: "same" or "any".
        noise: Standard deviation of the noise; each of a tone's two sines has amplitude 0.5.
        seed: Draws which tones, their phases and the noise.

    Returns:
        The same pictures and captions with sounds.

    Raises:
        ValueError: If the kind is unknown, or the classes are not the ten digits.
    """
    if kind not in ("same", "any"):
        raise ValueError(f"unknown sound {kind!r}; choose 'same' or 'any'")
    if data.class_names != DIGIT_WORDS:
        raise ValueError(f"{data.name} has no sound: only scenes with one digit have a tone")
    device, seen = data.images.device, data.labels.cpu()
    heard = seen
    if kind == "any":
        random = torch.Generator().manual_seed(step_seed(seed, 0))
        other = (seen + torch.randint(1, 10, seen.shape, generator=random)) % 10
        heard = torch.where(rand(seen.shape, generator=random) < 0.5, seen, other)
    sounds = tones(heard, seed=step_seed(seed, 1), noise=noise, sounding=TONE_SECONDS)
    data = replace(data, sounds=sounds.to(device))
    if kind == "same":
        return data
    facts = {**data.attributes, "digit": data.labels, "heard": heard.to(device)}
    labels, name = (seen == heard).long().to(device), f"{data.name}, with any tone"
    return replace(data, labels=labels, class_names=MATCHES, name=name, attributes=facts)


def match_table() -> Float64[Tensor, "digits tones answers"]:
    """Return how often each digit, tone and answer of ``with_tones(…, "any")`` come together.

    Returns:
        Probabilities ``(10, 10, 2)`` that sum to one; the answers are `MATCHES`.
    """
    same = torch.eye(10, dtype=torch.float64)
    # Half the time one of ten pairs that match, half the time one of ninety that do not.
    return torch.stack([0.5 * (1 - same) / 90, 0.5 * same / 10], dim=2)


def noisy_pixels(data: ImageTextData, deviation: float, seed: int) -> ImageTextData:
    """Add normal noise to every colour value of every pixel; what leaves the range is clipped.

    Args:
        data: The pictures.
        deviation: Standard deviation of the noise, as a fraction of a pixel's range.
        seed: Of the noise.

    Raises:
        ValueError: If the deviation is negative.
    """
    require_deviation("the noise", deviation)
    random = torch.Generator().manual_seed(seed)
    blocks = []
    for block in torch.split(data.images, BLOCK):
        noise = randn(block.shape, generator=random).to(block.device)
        blocks.append(to_uint8(block.float() / 255 + deviation * noise))
    return replace(data, images=torch.cat(blocks))


def noisy_sounds(data: ImageTextData, deviation: float, seed: int) -> ImageTextData:
    """Add normal noise to every sample of every sound.

    Args:
        data: With sounds.
        deviation: Standard deviation of the noise, which is added to the noise already there.
        seed: Of the noise.

    Raises:
        ValueError: If the deviation is negative or the data has no sounds.
    """
    require_deviation("the noise", deviation)
    sounds = _sounds(data)
    noise = randn(sounds.shape, generator=torch.Generator().manual_seed(seed))
    return replace(data, sounds=sounds + deviation * noise.to(sounds.device))


def delayed(data: ImageTextData, seconds: float) -> ImageTextData:
    """Let every sound start later; what leaves the record at its end comes in at its start.

    A tone that fills the first half of the record is heard whole up to a delay of that length.

    Args:
        data: With sounds, at `SAMPLE_RATE` samples a second.
        seconds: From 0 to the length of the record.

    Raises:
        ValueError: If the delay lies outside, or the data has no sounds.
    """
    sounds = _sounds(data)
    samples, length = round(seconds * SAMPLE_RATE), sounds.shape[1]
    if not 0 <= samples <= length:
        raise ValueError(f"the delay is 0 to {length / SAMPLE_RATE} s, the record; got {seconds}")
    return replace(data, sounds=sounds.roll(samples, dims=1))


def mispaired(data: ImageTextData, modality: str, rate: float, seed: int) -> ImageTextData:
    """Give a share of the pictures the text or the sound of another picture.

    The chosen pictures pass theirs on in a circle, so none keeps its own and the set as a whole
    holds the same texts and sounds as before. Another picture may say the same thing: it is
    the pairing that is broken. A single chosen picture copies that of one not chosen.

    Args:
        data: At least two pictures.
        modality: "text" or "sound".
        rate: The share, from 0 to 1, rounded to whole pictures.
        seed: Draws which pictures, and whose text or sound they get.

    Raises:
        ValueError: If the modality is unknown, the rate is not a share, the data has no sounds
            to pair, or there is only one picture.
    """
    if modality not in ("text", "sound"):
        raise ValueError(f"unknown modality {modality!r}; choose 'text' or 'sound'")
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate is a share from 0 to 1; got {rate}")
    sounds = _sounds(data) if modality == "sound" else None
    n = len(data)
    count = round(rate * n)
    if n == 1 and count:
        raise ValueError(f"{data.name} holds one picture: there is no other to take a {modality}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    source = torch.arange(n)
    source[order[:count]] = order[1:2] if count == 1 else order[:count].roll(1)
    if sounds is not None:
        return replace(data, sounds=sounds[source.to(sounds.device)])
    return replace(data, captions=tuple(data.captions[i] for i in source.tolist()))


def _sounds(data: ImageTextData) -> Float[Tensor, "n samples"]:
    if data.sounds is None:
        raise ValueError(f"{data.name} has no sounds; load digit scenes with sound='same'")
    return data.sounds
