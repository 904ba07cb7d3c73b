"""What goes wrong with a modality: noise, delay, and parts that belong to something else.

Each function takes data and returns data; with strength zero it changes nothing. The tests of
chapter 2 train on one strength and measure on another.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cmssf_lib.data.image_text import ImageTextData
from cmssf_lib.data.scenes import SAMPLE_RATE, to_uint8

BLOCK = 4096  # pictures at a time: the noise of all of CIFAR-10 at once would take 600 MB


def noisy_pixels(data: ImageTextData, deviation: float, seed: int) -> ImageTextData:
    """Add normal noise to every colour value of every pixel; what leaves the range is clipped.

    Args:
        data: The pictures.
        deviation: Standard deviation of the noise, in parts of the range of a pixel.
        seed: Of the noise.

    Raises:
        ValueError: If the deviation is negative.
    """
    _check_deviation(deviation)
    random = torch.Generator().manual_seed(seed)
    blocks = []
    for block in data.images.split(BLOCK):
        noise = torch.randn(block.shape, generator=random).to(block.device)
        blocks.append(to_uint8(block / 255 + deviation * noise))
    return replace(data, images=torch.cat(blocks))


def noisy_sounds(data: ImageTextData, deviation: float, seed: int) -> ImageTextData:
    """Add normal noise to every sample of every sound.

    Args:
        data: With sounds.
        deviation: Standard deviation of the noise, which comes on top of what is there.
        seed: Of the noise.

    Raises:
        ValueError: If the deviation is negative or the data has no sounds.
    """
    _check_deviation(deviation)
    sounds = _sounds(data)
    noise = torch.randn(sounds.shape, generator=torch.Generator().manual_seed(seed))
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
        raise ValueError(
            f"a delay of {seconds} s does not fit: choose from 0 to the {length / SAMPLE_RATE} s "
            "of the record"
        )
    return replace(data, sounds=sounds.roll(samples, dims=1))


def mispaired(data: ImageTextData, modality: str, rate: float, seed: int) -> ImageTextData:
    """Give a share of the pictures the text or the sound of another picture.

    The chosen ones pass theirs on in a circle, so none keeps its own and the set as a whole
    holds the same texts and sounds as before. Another picture may say the same thing: it is
    the pairing that is broken. A single chosen picture copies that of one not chosen.

    Args:
        data: At least two pictures.
        modality: "text" or "sound".
        rate: The share, from 0 to 1, rounded to whole pictures.
        seed: Draws which pictures, and whose text or sound they get.

    Raises:
        ValueError: If the modality is unknown, the rate lies outside, the data has no sounds
            to pair, or there is only one picture.
    """
    if modality not in ("text", "sound"):
        raise ValueError(f"unknown modality {modality!r}; choose 'text' or 'sound'")
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate is a share from 0 to 1; got {rate}")
    if modality == "sound":
        _sounds(data)
    n = len(data)
    count = round(rate * n)
    if n == 1 and count:
        raise ValueError(f"{data.name} holds one picture: there is no other to take a {modality}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    source = torch.arange(n)
    if count == 1:
        source[order[0]] = order[1]
    else:
        source[order[:count]] = order[:count].roll(1)
    if modality == "text":
        return replace(data, captions=tuple(data.captions[i] for i in source.tolist()))
    sounds = _sounds(data)
    return replace(data, sounds=sounds[source.to(sounds.device)])


def _check_deviation(deviation: float) -> None:
    if not deviation >= 0:
        raise ValueError(f"the deviation is at least 0; got {deviation}")


def _sounds(data: ImageTextData) -> Float[Tensor, "n samples"]:
    if data.sounds is None:
        raise ValueError(
            f"{data.name} has no sounds; load digit scenes with sound='same' or sound='any'"
        )
    return data.sounds
