"""Data: pictures with captions and optional sounds, as one `ImageTextData`.

`digit_scenes` and `digit_questions` make their own pictures and need no download; `cifar10`,
`image_folder` and `plain_folder` read real ones, `arrow_folder` leaves them on disk, and
`as_images` takes pictures in memory. `with_class_captions`, `with_scene_parts` and `with_clues`
replace the captions, `with_tones` adds sounds, and `noisy_pixels`, `noisy_sounds`, `delayed` and
`mispaired` corrupt the data. `load` makes the data set of a preset; `batches` yields the batches
that `fit` uses.
"""

import os
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from cmssf_lib.captions import CIFAR10_CLUES as CIFAR10_CLUES, DIGIT_CLUES as DIGIT_CLUES
from cmssf_lib.data.arrow import arrow_folder as arrow_folder
from cmssf_lib.data.changes import (
    delayed as delayed,
    match_table as match_table,
    mispaired as mispaired,
    noisy_pixels as noisy_pixels,
    noisy_sounds as noisy_sounds,
    with_class_captions as with_class_captions,
    with_clues as with_clues,
    with_scene_parts as with_scene_parts,
    with_tones as with_tones,
)
from cmssf_lib.data.image_text import (
    Batch as Batch,
    ImageTextData as ImageTextData,
    Splits as Splits,
    batches as batches,
)
from cmssf_lib.data.picture_files import (
    cifar10 as cifar10,
    find_cifar10 as find_cifar10,
    image_folder as image_folder,
    plain_folder as plain_folder,
)
from cmssf_lib.data.pictures import AnyPicture as AnyPicture, as_images as as_images
from cmssf_lib.data.questions import (
    QUESTION_KINDS as QUESTION_KINDS,
    digit_questions as digit_questions,
    question_table as question_table,
)
from cmssf_lib.data.scenes import digit_scenes as digit_scenes, tones as tones
from cmssf_lib.data.stored import StoredPictures as StoredPictures
from cmssf_lib.machine import step_seed as step_seed
from cmssf_lib.settings import settings


@settings
class DataConfig:
    """Describe a data set: its pictures, its texts and its sounds."""

    # Source of the pictures. "arrow" leaves them on disk.
    name: Literal["digit_scenes", "cifar10", "image_folder", "plain_folder", "arrow"]
    flavour: Literal["plain", "tinted", "colour", "two"]  # of scenes; "two" adds a question
    # A "clue" is true of several classes. "parts": colour scenes also have shorter captions.
    text: Literal["caption", "parts", "class", "clue"]
    sound: Literal["none", "same", "any"]  # digit scenes only: the digit's tone, or any digit's
    pixel_noise: NonNegativeFloat  # standard deviation, as a fraction of the pixels' range
    sound_noise: NonNegativeFloat  # standard deviation; a tone is two sines of amplitude 0.5
    train: PositiveInt  # number of digit scenes to train on; other data sets are used whole
    test: PositiveInt  # number of digit scenes, or of pictures of a plain folder, to test on
    validation: PositiveInt  # number of training pictures held out for making choices
    image_size: PositiveInt  # side of a digit scene, or of an image folder's pictures, in pixels
    seed: int  # of the digit scenes, clues, tones, noise and the held-out part
    path: str | None = None  # folder of the pictures; None: $CMSSF_DATA (CIFAR-10: or a download)
    captions: str | None = None  # table of captions in a folder; None: class captions
    skip_unreadable: bool = False  # leave out damaged files of a folder, with a warning


def load(config: DataConfig) -> Splits:
    """Load the data set of a preset or of a recorded run.

    Args:
        config: The comments in `DataConfig` explain its fields.

    Returns:
        Training and test set. Each draws its clues, tones and noise with its own seeds, which
        are derived from ``config.seed``.

    Raises:
        ValueError: If two fields contradict each other (sounds with photographs; sounds, clues
            or class captions with two digits; "image_folder" without a path; a captions table
            with another source), a number is too small, or the files cannot be used.
        FileNotFoundError: If the pictures are missing and cannot be downloaded.
    """
    place = config.path or os.environ.get("CMSSF_DATA")
    _require_possible(config, place)
    root, size, skip = str(place), config.image_size, config.skip_unreadable
    how: dict[str, Any] = {"captions": config.captions, "skip_unreadable": skip}
    scenes = {"train": config.train, "test": config.test, "image_size": size, "seed": config.seed}
    if config.name == "cifar10":
        splits = cifar10(config.path)
    elif config.name == "image_folder":
        splits = image_folder(root, image_size=size, **how)
    elif config.name == "plain_folder":
        splits = plain_folder(root, image_size=size, test=config.test, **how)
    elif config.name == "arrow":
        splits = arrow_folder(root, image_size=size)
    elif config.flavour == "two":
        splits = digit_questions(**scenes)
    else:
        splits = digit_scenes(config.flavour, **scenes)
    return Splits(*(_changed(data, config, split) for split, data in enumerate(splits)))


def _require_possible(config: DataConfig, place: str | None) -> None:
    """Raise a ValueError for contradictory fields, before any file is read."""
    scenes, folder = config.name == "digit_scenes", config.name.endswith("_folder")
    arrow, flavour = config.name == "arrow", config.flavour if scenes else ""
    lacking = (folder or arrow) and not place
    text, parts, sound = config.text, config.text == "parts", config.sound != "none"
    two = flavour == "two"
    for impossible, message in (
        (config.captions and not folder, "a captions table needs a folder of pictures"),
        (config.skip_unreadable and not folder, "skip_unreadable needs a folder of pictures"),
        (config.captions and text != "caption", "a captions table needs text='caption'"),
        (parts and flavour != "colour", "only colour scenes have parts: set another text"),
        (two and text != "caption", "two digits come with a question: set text='caption'"),
        (sound and (two or not scenes), "only one-digit scenes have sounds: set sound='none'"),
        (arrow and config.pixel_noise, "pictures on disk get no noise: set pixel_noise=0"),
        (lacking, f"{config.name} needs a folder: set data.path or CMSSF_DATA"),
    ):
        if impossible:
            raise ValueError(message)


def _changed(data: ImageTextData, config: DataConfig, split: int) -> ImageTextData:
    """Apply the configured captions, tones and noise to one split."""
    clue_seed, sound_seed, pixel_seed = (step_seed(config.seed, split, part) for part in range(3))
    if config.text == "clue":  # before the sounds, which may change the meaning of the labels
        clues = DIGIT_CLUES if config.name == "digit_scenes" else CIFAR10_CLUES
        data = with_clues(data, clues, clue_seed)
    elif config.text == "class":
        data = with_class_captions(data)
    elif config.text == "parts":
        data = with_scene_parts(data)
    if config.sound != "none":
        data = with_tones(data, config.sound, noise=config.sound_noise, seed=sound_seed)
    if config.pixel_noise != 0:
        data = noisy_pixels(data, config.pixel_noise, pixel_seed)
    return data
