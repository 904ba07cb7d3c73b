"""Data: pictures with captions and perhaps sounds, in memory as one `ImageTextData`.

`digit_scenes` and `digit_questions` are embedded and need no download; `cifar10` and
`image_folder` read real pictures. `with_class_captions`, `with_clues`, `with_tones` and the
functions of `corrupt` change what is said and heard. `load` does what a preset names; `batches`
hands out what `fit` trains on.
"""

import os

from cmssf_lib.data.batch import Batch, batches, step_seed
from cmssf_lib.data.caption_files import read_captions
from cmssf_lib.data.clues import (
    CIFAR10_CLUES,
    DIGIT_CLUES,
    TEXTS,
    with_class_captions,
    with_clues,
)
from cmssf_lib.data.corrupt import delayed, mispaired, noisy_pixels, noisy_sounds
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.data.photos import cifar10, image_folder
from cmssf_lib.data.questions import (
    ANSWERS,
    QUESTION_KINDS,
    ask,
    digit_questions,
    question_table,
)
from cmssf_lib.data.scenes import FLAVOURS, digit_scenes, tones
from cmssf_lib.data.sounds import MATCHES, SOUNDS, match_table, with_tones
from cmssf_lib.presets import DataConfig

__all__ = [
    "ANSWERS",
    "CIFAR10_CLUES",
    "DIGIT_CLUES",
    "MATCHES",
    "QUESTION_KINDS",
    "Batch",
    "ImageTextData",
    "Splits",
    "ask",
    "batches",
    "cifar10",
    "delayed",
    "digit_questions",
    "digit_scenes",
    "image_folder",
    "load",
    "match_table",
    "mispaired",
    "noisy_pixels",
    "noisy_sounds",
    "question_table",
    "read_captions",
    "tones",
    "with_class_captions",
    "with_clues",
    "with_tones",
]


def load(config: DataConfig) -> Splits:
    """Load the data that a preset or a recorded run names.

    Args:
        config: Its ``name`` is "digit_scenes", "cifar10" or "image_folder"; what its other
            fields mean is said there.

    Returns:
        Training and test set. Clues, tones and noise are drawn for each from seeds of its own,
        which follow from ``config.seed``.

    Raises:
        ValueError: If a field names something unknown, or two fields do not go together: a
            sound with photographs, a sound or clues with two digits, "image_folder" without a
            path, captions from a table with other data.
        FileNotFoundError: If the pictures are not there and cannot be downloaded.
    """
    _check(config)
    splits = _pictures(config)
    return Splits(*(_prepared(data, config, split) for split, data in enumerate(splits)))


def _pictures(config: DataConfig) -> Splits:
    """Load the pictures with their captions, as they are."""
    sizes = {"train": config.train, "test": config.test, "image_size": config.image_size}
    if config.name == "cifar10":
        return cifar10(config.path)
    if config.name == "image_folder":
        path, size = config.path or os.environ.get("CMSSF_DATA"), config.image_size
        if path is None:
            raise ValueError(
                "the data 'image_folder' needs a folder with train/ and test/: name it in "
                "data.path or CMSSF_DATA"
            )
        return image_folder(path, image_size=size, captions=config.captions)
    if config.flavour == "two":
        return digit_questions(**sizes, seed=config.seed)
    return digit_scenes(config.flavour, **sizes, seed=config.seed)


def _prepared(data: ImageTextData, config: DataConfig, split: int) -> ImageTextData:
    """Give one split its clues, tones and noise."""
    clue_seed, sound_seed, pixel_seed = (step_seed(config.seed, split, part) for part in range(3))
    if config.text == "clue":  # before the sound, which may change what the labels mean
        clues = DIGIT_CLUES if config.name == "digit_scenes" else CIFAR10_CLUES
        data = with_clues(data, clues, clue_seed)
    elif config.text == "class":
        data = with_class_captions(data)
    if config.sound != "none":
        data = with_tones(data, config.sound, noise=config.sound_noise, seed=sound_seed)
    if config.pixel_noise != 0:
        data = noisy_pixels(data, config.pixel_noise, pixel_seed)
    return data


def _check(config: DataConfig) -> None:
    """Refuse what cannot be, before anything is read."""
    for what, given, choices in (
        ("data", config.name, ("digit_scenes", "cifar10", "image_folder")),
        ("flavour", config.flavour, (*FLAVOURS, "two")),
        ("text", config.text, TEXTS),
        ("sound", config.sound, SOUNDS),
    ):
        if given not in choices:
            raise ValueError(f"unknown {what} {given!r}; choose one of {', '.join(choices)}")
    for field in ("pixel_noise", "sound_noise"):
        if not (deviation := getattr(config, field)) >= 0:
            raise ValueError(f"{field} is a standard deviation, at least 0; got {deviation}")
    if config.captions is not None and config.name != "image_folder":
        raise ValueError(
            f"a table of captions belongs to the data 'image_folder'; got captions="
            f"{config.captions!r} with {config.name!r}"
        )
    if config.sound != "none" and config.name != "digit_scenes":
        raise ValueError(
            f"photographs have no sound: with the data {config.name!r}, sound is 'none', not "
            f"{config.sound!r}"
        )
    if config.name == "digit_scenes" and config.flavour == "two":
        if config.sound != "none":
            raise ValueError("scenes with two digits have no sound: set sound='none'")
        if config.text != "caption":
            raise ValueError("the text of two-digit scenes is a question: set text='caption'")
