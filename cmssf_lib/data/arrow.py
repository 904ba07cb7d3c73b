"""Data larger than memory: Arrow files, read through Hugging Face's `datasets`.

`datasets` maps the files into memory and finds any row at once, so that batches are shuffled over
the whole set and a killed run resumes bit for bit; WebDataset only streams, with a buffer for a
shuffle. pyarrow alone would leave the features, the conversion of Parquet and the writing to us.
"""

import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from cmssf_lib.captions import named_by_class
from cmssf_lib.data.given import as_texts
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.data.picture_cache import AT_ONCE, cache_folder
from cmssf_lib.data.picture_files import SPLITS
from cmssf_lib.data.pictures import read_picture
from cmssf_lib.data.stored import StoredPictures
from cmssf_lib.files import home
from cmssf_lib.machine import hide_bars


def arrow_folder(
    path: str | Path, *, image_size: int | None = None, name: str | None = None
) -> Splits:
    """Open pictures that stay on disk, in Arrow or Parquet files with the splits train and test.

    Labels and captions are read into memory, pictures when they are needed. `datasets` writes such
    a folder, from an image folder or from anything that yields pictures one by one::

        from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset

        load_dataset("imagefolder", data_dir="my_data").save_to_disk("my_arrow")


        def rows(split):  # pictures of Pillow, NumPy arrays, or paths
            for picture in my_pictures[split]:
                yield {"image": picture, "label": "cat"}


        kinds = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
        made = {
            split: Dataset.from_generator(rows, kinds, gen_kwargs={"split": split})
            for split in ("train", "test")
        }
        DatasetDict(made).save_to_disk("my_arrow")

    The columns are:

    - **image**: encoded pictures (``Image``), read as `cmssf_lib.data.pictures` says, or arrays
      (``Array3D`` of uint8) with the channels last;
    - **label**, if there is one: a ``ClassLabel`` (``class_encode_column`` makes one of numbers or
      names). Without it all pictures are of the class "picture";
    - **caption** or **text**, if there is one: a text or a list of them. Without it, each picture
      has the caption of its class.

    Args:
        path: What ``save_to_disk`` wrote, or a folder of Parquet files as on the Hugging Face Hub.
            These are converted once, into `cache_folder`, which takes as much room again.
        image_size: As for `image_folder`.
        name: As for `image_folder`.

    Returns:
        Training and test set. Their ``images`` are `StoredPictures`.

    Raises:
        RuntimeError: If the package ``datasets`` is not installed.
        FileNotFoundError: If there is no such folder.
        ValueError: If it cannot be read, or splits or columns are not as above. A picture that
            cannot be decoded is only noticed when it is needed; the message says its row.
    """
    if not (root := home(path)).is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    if not find_spec("datasets"):
        raise RuntimeError("reading Arrow files needs one more package: pip install datasets")
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    if hide_bars() or not (sys.stderr and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    try:
        if (root / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(str(root))
        else:
            kept = str(cache_folder() / "datasets")
            found = datasets.load_dataset(str(root), cache_dir=kept)
        parts = {split: found[split] for split in SPLITS}
    except Exception as error:  # those of datasets and pyarrow have no kind in common
        what = "no Arrow or Parquet files with the splits train and test can be read from"
        raise ValueError(f"{what} {root}: {type(error).__name__}: {error}") from error
    finally:
        if not hidden:
            datasets.enable_progress_bars()
    features = parts["train"].features
    label = features.get("label", datasets.ClassLabel(names=["picture"]))
    texts = [key for key in ("caption", "text") if key in features]
    image = features.get("image")
    fits = isinstance(image, datasets.Image) or getattr(image, "dtype", None) == "uint8"
    fits = fits and isinstance(label, datasets.ClassLabel) and len(texts) < 2
    if not (fits and features == parts["test"].features):
        raise ValueError(
            f"{root}: expected the columns image (an Image, or an Array3D of uint8), perhaps label "
            "(a ClassLabel), perhaps caption or text, all equal in train and test; got "
            f"{features} and {parts['test'].features}"
        )
    splits = []
    for split, part in parts.items():
        shown = f"{name or root.absolute().name} {split}"
        given = part["label"][:] if "label" in features else [0] * len(part)
        labels = torch.tensor([-1 if number is None else number for number in given])
        said = as_texts(part[texts[0]][:]) if texts else named_by_class(labels, label.names)
        images = _stored(part.select_columns(["image"]), image_size, shown)
        splits.append(ImageTextData(images, labels, said, tuple(label.names), shown))
    return Splits(*splits)


def _stored(table: Any, image_size: int | None, what: str) -> StoredPictures:
    """Return the pictures of a split, still on disk; the first one is decoded to try."""
    from datasets import Image

    if arrays := table.features["image"].dtype == "uint8":
        table = table.with_format("numpy", dtype=np.uint8)
    else:
        table = table.cast_column("image", Image(decode=False))

    def held(rows: Sequence[int]) -> Any:
        """Return pictures as they are stored: encoded, or arrays."""
        found = table[rows]["image"]
        if arrays:
            return found
        for row, own in zip(rows, found, strict=True):
            if not (own and own["bytes"]):
                raise ValueError(
                    f"{what}: row {row} holds no picture, or only a path: save_to_disk"
                )
        return [own["bytes"] for own in found]

    def read(rows: list[int]) -> UInt8[np.ndarray, "b 3 height width"]:
        each = zip(rows, held(rows), strict=True)
        pictures = [read_picture(f"in row {row} of {what}", image_size, own) for row, own in each]
        if {picture.shape for picture in pictures} != {shape}:
            raise ValueError(f"{what}: pictures differ in size: set image_size, for instance to 64")
        return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))

    @cache
    def digest() -> str:
        """Return a hash of all pictures, which does not depend on how they are cut into files."""
        digest = hashlib.sha256()
        for start in range(0, len(table), AT_ONCE):
            for given in held(range(start, min(start + AT_ONCE, len(table)))):
                digest.update(f"{len(given)} ".encode())
                digest.update(given)
        return digest.hexdigest()

    shape = read_picture(f"in row 0 of {what}", image_size, held([0])[0]).shape
    return StoredPictures(read, digest, torch.arange(len(table)), shape[:2])
