"""Data: pictures with captions, held in memory as one `ImageTextData`.

`digit_scenes` is embedded and needs no download; `cifar10` and `image_folder` read real
pictures; `load` takes whichever a preset names; `batches` hands out what `fit` trains on.
"""

from cmssf_lib.data.image_text import Batch, ImageTextData, Splits, batches
from cmssf_lib.data.photos import cifar10, image_folder
from cmssf_lib.data.scenes import digit_scenes, tones
from cmssf_lib.presets import DataConfig

__all__ = [
    "Batch",
    "ImageTextData",
    "Splits",
    "batches",
    "cifar10",
    "digit_scenes",
    "image_folder",
    "load",
    "tones",
]


def load(config: DataConfig) -> Splits:
    """Load the data that a preset or a recorded run names.

    Args:
        config: Its ``name`` is "digit_scenes", "cifar10" or "image_folder".

    Returns:
        Training and test set.

    Raises:
        ValueError: If the name is none of these, or "image_folder" comes without a path.
        FileNotFoundError: If the pictures are not there and cannot be downloaded.
    """
    if config.name == "digit_scenes":
        return digit_scenes(
            config.flavour,
            train=config.train,
            test=config.test,
            image_size=config.image_size,
            seed=config.seed,
        )
    if config.name == "cifar10":
        return cifar10(config.path)
    if config.name == "image_folder":
        if config.path is None:
            raise ValueError("the data 'image_folder' needs a path: a folder with train/ and test/")
        return image_folder(config.path, image_size=config.image_size)
    raise ValueError(
        f"unknown data {config.name!r}; choose 'digit_scenes', 'cifar10' or 'image_folder'"
    )
