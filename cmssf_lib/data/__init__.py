"""Data: pictures with captions and perhaps sounds, in memory as one `ImageTextData`.

`digit_scenes` and `digit_questions` are embedded and need no download; `cifar10` and
`image_folder` read real pictures. `with_class_captions` and `with_clues` change what is said,
`with_tones` adds a sound, and `noisy_pixels`, `noisy_sounds`, `delayed` and `mispaired` make the
data worse. `load` does what a preset names; `batches` hands out what `fit` trains on.
"""

import os
from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from cmssf_lib.captions import CIFAR10_CLUES as CIFAR10_CLUES, DIGIT_CLUES as DIGIT_CLUES
from cmssf_lib.data.changes import (
    delayed as delayed,
    match_table as match_table,
    mispaired as mispaired,
    noisy_pixels as noisy_pixels,
    noisy_sounds as noisy_sounds,
    with_class_captions as with_class_captions,
    with_clues as with_clues,
    with_tones as with_tones,
)
from cmssf_lib.data.image_text import (
    Batch as Batch,
    ImageTextData as ImageTextData,
    Splits as Splits,
    batches as batches,
)
from cmssf_lib.data.picture_files import cifar10 as cifar10, image_folder as image_folder
from cmssf_lib.data.questions import (
    QUESTION_KINDS as QUESTION_KINDS,
    digit_questions as digit_questions,
    question_table as question_table,
)
from cmssf_lib.data.scenes import digit_scenes as digit_scenes, tones as tones
from cmssf_lib.machine import step_seed as step_seed
from cmssf_lib.settings import settings


@settings
class DataConfig:
    """Which data: what is seen, what is said and what is heard."""

    name: Literal["digit_scenes", "cifar10", "image_folder"]  # which pictures
    flavour: Literal["plain", "tinted", "colour", "two"]  # of scenes; "two" digits: a question
    text: Literal["caption", "class", "clue"]  # "class" and no more; a "clue" fits several classes
    sound: Literal["none", "same", "any"]  # in digit scenes: the digit's tone, any (fits or not?)
    pixel_noise: NonNegativeFloat  # standard deviation, as a fraction of the pixels' range
    sound_noise: NonNegativeFloat  # standard deviation; a tone has two sines of 0.5
    train: PositiveInt  # number of digit scenes to train on; other data is taken whole
    test: PositiveInt  # number of digit scenes to test on
    validation: PositiveInt  # training pictures held out, for every choice made along the way
    image_size: PositiveInt  # side of a digit scene, or of an image folder's pictures, in pixels
    seed: int  # of the digit scenes, clues, tones, noise and of the held-out part
    path: str | None = None  # folder of the pictures; None: $CMSSF_DATA (CIFAR-10: or a download)
    captions: str | None = None  # table of captions in an image folder; None: class captions


def load(config: DataConfig) -> Splits:
    """Load the data that a preset or a recorded run names.

    Args:
        config: What its fields mean is said beside them.

    Returns:
        Training and test set. Clues, tones and noise are drawn for each from seeds of its own,
        which follow from ``config.seed``.

    Raises:
        ValueError: If a field names something unknown, or two fields do not go together: a
            sound with photographs, a sound or clues with two digits, "image_folder" without a
            path, captions from a table with other data.
        FileNotFoundError: If the pictures are not there and cannot be downloaded.
    """
    place = config.path or os.environ.get("CMSSF_DATA")
    _require_possible(config, place)
    sizes = {"train": config.train, "test": config.test, "image_size": config.image_size}
    if config.name == "cifar10":
        splits = cifar10(config.path)
    elif config.name == "image_folder":
        splits = image_folder(str(place), image_size=config.image_size, captions=config.captions)
    elif config.flavour == "two":
        splits = digit_questions(**sizes, seed=config.seed)
    else:
        splits = digit_scenes(config.flavour, **sizes, seed=config.seed)
    return Splits(*(_changed(data, config, split) for split, data in enumerate(splits)))


def _require_possible(config: DataConfig, place: str | None) -> None:
    """Raise a ValueError for what cannot be loaded, before anything is read."""
    scenes, folder = config.name == "digit_scenes", config.name == "image_folder"
    two, sound = scenes and config.flavour == "two", config.sound != "none"
    for impossible, message in (
        (config.captions and not folder, "captions from a table belong to name='image_folder'"),
        (sound and not scenes, "photographs have no sound: set sound='none'"),
        (sound and two, "scenes with two digits have no sound: set sound='none'"),
        (two and config.text != "caption", "two digits have a question: set text='caption'"),
        (folder and not place, "image_folder needs train/ and test/ in data.path or CMSSF_DATA"),
    ):
        if impossible:
            raise ValueError(message)


def _changed(data: ImageTextData, config: DataConfig, split: int) -> ImageTextData:
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
