"""Changes to existing data: new captions, added tones, noise, delay, and wrong pairs.

Each function takes a data set and returns a new one. At strength zero a corruption leaves the
data unchanged: chapter 2 trains at one strength and tests at others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cmssf_lib.captions import DIGIT_WORDS, named_by_class, scene_parts
from cmssf_lib.data import scenes
from cmssf_lib.data.image_text import ImageTextData
from cmssf_lib.machine import step_seed

MATCHES = ("different", "same")
BLOCK = 4096  # pictures per block: noise for all of CIFAR-10 at once would take 600 MB


def with_class_captions(data: ImageTextData) -> ImageTextData:
    """Replace each picture's own captions by the caption of its class.

    Returns:
        The same pictures and labels, with captions such as "a photo of a seven".
    """
    captions = named_by_class(data.labels, data.class_names)
    return replace(data, captions=captions, name=f"{data.name}, with class captions")


def with_scene_parts(data: ImageTextData) -> ImageTextData:
    """Give each colour scene several captions: its whole one first, then its parts.

    A model that is trained on them understands "a red seven" too; `scene_parts` says how the
    words are left out.

    Raises:
        ValueError: If the data are not colour scenes.
    """
    if data.class_names != DIGIT_WORDS or not scenes.WORDS.keys() <= data.attributes.keys():
        raise ValueError(f"{data.name}: only captions of colour scenes can be taken apart")
    facts = scenes.in_words(data.attributes)
    captions = tuple(map(scene_parts, data.labels.tolist(), *facts))
    return replace(data, captions=captions, name=f"{data.name}, with parts of captions")


def with_clues(data: ImageTextData, clues: Mapping[str, Sequence[str]], seed: int) -> ImageTextData:
    """Replace each picture's captions by a random clue that is true of its class.

    Args:
        data: The clues must use its class names.
        clues: Each sentence with the classes it is true of, such as `DIGIT_CLUES`.
        seed: Of the draw among the clues of a class; each is equally likely.

    Returns:
        The same pictures and labels, with clues as captions.

    Raises:
        ValueError: If a class has no clue that is true of it, or a clue has no list of classes.
    """
    if lone := [clue for clue, classes in clues.items() if isinstance(classes, str)]:
        raise ValueError(
            f"the clue {lone[0]!r} needs a list of classes: a single text holds others"
        )
    true = [[c for c, classes in clues.items() if name in classes] for name in data.class_names]
    if silent := [name for name, own in zip(data.class_names, true, strict=True) if not own]:
        raise ValueError(f"{data.name}: no clue is true of the class(es) {', '.join(silent)}")
    # Draw fractions of a list's length, because the classes have different numbers of clues.
    draws = scenes.uniform(len(data), 0, 1, scenes.generator(seed)).tolist()
    choices = [true[label] for label in data.labels.tolist()]
    captions = tuple(c[int(draw * len(c))] for c, draw in zip(choices, draws, strict=True))
    return replace(data, captions=captions, name=f"{data.name}, with clues")


def with_tones(data: ImageTextData, kind: str, *, noise: float, seed: int) -> ImageTextData:
    """Add a telephone tone to each digit scene.

    - **same**: the tone of the digit in the picture. Either modality is enough to name it.
    - **any**: with probability one half the tone of the digit in the picture, otherwise that of
      another digit, each of the nine equally likely. The new label says whether picture and
      tone show the same digit. Neither modality alone tells anything about this label; both
      together determine it. The attributes "digit" and "heard" keep the two digits.

    A recording lasts `SOUND_SECONDS`; the tone fills its first `TONE_SECONDS`.

    Args:
        data: Digit scenes, labelled with their digits.
        kind: "same" or "any".
        noise: Standard deviation of the noise; each of a tone's two sines has amplitude 0.5.
        seed: Of the choice of tones, their phases and the noise.

    Returns:
        The same pictures and captions, with sounds; for "any" with the new labels.

    Raises:
        ValueError: If the kind is unknown, or the classes are not the ten digits.
    """
    if kind not in ("same", "any"):
        raise ValueError(f"unknown sound {kind!r}; choose 'same' or 'any'")
    if data.class_names != DIGIT_WORDS:
        raise ValueError(f"{data.name}: tones need scenes with one digit, labelled zero to nine")
    device, seen = data.images.device, data.labels.cpu()
    heard = seen
    if kind == "any":
        random = torch.Generator().manual_seed(step_seed(seed, 0))
        other = (seen + torch.randint(1, 10, seen.shape, generator=random)) % 10
        heard = torch.where(scenes.uniform(len(data), 0, 1, random) < 0.5, seen, other)
    sounds = scenes.tones(heard, seed=step_seed(seed, 1), noise=noise, sounding=scenes.TONE_SECONDS)
    data = replace(data, sounds=sounds.to(device))
    if kind == "same":
        return data
    facts = {**data.attributes, "digit": data.labels, "heard": heard.to(device)}
    labels, name = (seen == heard).long().to(device), f"{data.name}, with any tone"
    return replace(data, labels=labels, class_names=MATCHES, name=name, attributes=facts)


def match_table() -> Float64[Tensor, "digits tones answers"]:
    """Return the joint distribution of digit, tone and answer in ``with_tones(…, "any")``.

    Returns:
        Probabilities ``(10, 10, 2)`` that sum to one; the answers are `MATCHES`.
    """
    same = torch.eye(10, dtype=torch.float64)
    # Half the probability goes to the ten matching pairs, half to the ninety others.
    return torch.stack([0.5 * (1 - same) / 90, 0.5 * same / 10], dim=2)


def noisy_pixels(data: ImageTextData, deviation: float, seed: int) -> ImageTextData:
    """Add Gaussian noise to every colour value of every pixel, and clip the sum to the range.

    Args:
        data: Its pictures get the noise.
        deviation: Standard deviation of the noise, as a fraction of a pixel's range.
        seed: Of the noise.

    Raises:
        ValueError: If the deviation is negative.
    """
    random, noisy = scenes.generator(seed), []
    for block in data.images.split(BLOCK):
        noise = scenes.gaussian(block.shape, deviation, random).to(block.device)
        noisy.append(scenes.to_uint8(block.float() / 255 + noise))
    return replace(data, images=torch.cat(noisy))


def noisy_sounds(data: ImageTextData, deviation: float, seed: int) -> ImageTextData:
    """Add Gaussian noise to every sample of every sound, on top of any noise already there.

    Args:
        data: Must have sounds.
        deviation: Standard deviation of the added noise.
        seed: Of the noise.

    Raises:
        ValueError: If the deviation is negative or the data has no sounds.
    """
    sounds = _sounds(data)
    added = scenes.gaussian(sounds.shape, deviation, scenes.generator(seed))
    return replace(data, sounds=sounds + added.to(sounds.device))


def delayed(data: ImageTextData, seconds: float) -> ImageTextData:
    """Delay every sound; samples shifted past the end of a recording reappear at its start.

    A tone that fills the first half of a recording stays in one piece up to a delay of half the
    recording.

    Args:
        data: Must have sounds, at `SAMPLE_RATE` samples per second.
        seconds: From 0 to the length of a recording.

    Raises:
        ValueError: If the delay is out of this range, or the data has no sounds.
    """
    sounds = _sounds(data)
    samples, length = round(seconds * scenes.SAMPLE_RATE), sounds.shape[1]
    if not 0 <= samples <= length:
        raise ValueError(f"seconds must be from 0 to {length / scenes.SAMPLE_RATE}; got {seconds}")
    return replace(data, sounds=sounds.roll(samples, dims=1))


def mispaired(data: ImageTextData, modality: str, rate: float, seed: int) -> ImageTextData:
    """Give a fraction of the pictures the text or the sound of another picture.

    The chosen pictures pass theirs on in a circle, so none keeps its own and the data set as a
    whole keeps its texts and sounds. A new caption may happen to equal the old one, because
    captions repeat. If only one picture is chosen, it copies from a picture that is not.

    Args:
        data: At least two pictures.
        modality: "text" or "sound".
        rate: The fraction, from 0 to 1; it is rounded to whole pictures.
        seed: Of the choice of pictures, and of whose text or sound they get.

    Raises:
        ValueError: If the modality is unknown, the rate is not from 0 to 1, the data has no
            sounds to mix up, or the only picture would be chosen.
    """
    if modality not in ("text", "sound"):
        raise ValueError(f"unknown modality {modality!r}; choose 'text' or 'sound'")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be from 0 to 1; got {rate}")
    sounds = _sounds(data) if modality == "sound" else None
    n = len(data)
    count = round(rate * n)
    if n == 1 and count:
        raise ValueError(f"{data.name} has only one picture, so no other {modality} to give it")
    order = torch.randperm(n, generator=scenes.generator(seed))
    source = torch.arange(n)
    source[order[:count]] = order[1:2] if count == 1 else order[:count].roll(1)
    if sounds is not None:
        return replace(data, sounds=sounds[source.to(sounds.device)])
    return replace(data, captions=tuple(data.captions[i] for i in source.tolist()))


def _sounds(data: ImageTextData) -> Float[Tensor, "n samples"]:
    if data.sounds is None:
        raise ValueError(f"{data.name} has no sounds; load digit scenes with sound='same'")
    return data.sounds
