"""Many pictures of one size, decoded once and then cached.

Decoding tens of thousands of files takes a while. The cache (`cache_folder`) remembers the name,
size and modification time of every picture, so a changed folder is decoded again.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from cmssf_lib.data.pictures import PictureFile, quiet_decoders, read_picture
from cmssf_lib.files import read_tensors, write_tensors
from cmssf_lib.machine import hide_bars

CACHE_FORMAT = "cmssf-pictures-4"  # a new number invalidates all existing caches
AT_ONCE = 256  # pictures decoded before the next ones begin: a fault stops early
Tensors = Mapping[str, Tensor]
Pixels = UInt8[np.ndarray, "h w 3"]
T = TypeVar("T")


def cache_folder() -> Path:
    """Return the folder of the cache: $CMSSF_CACHE, by default ``~/.cache/cmssf``.

    Raises:
        FileNotFoundError: If the home folder is needed for that, and this user has none.
    """
    try:
        return Path(os.environ.get("CMSSF_CACHE") or "~/.cache/cmssf").expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"no folder for the cache ({error}): set CMSSF_CACHE") from error


def from_cache(name: str, expected_format: str) -> tuple[Tensors, Mapping[str, str]]:
    """Return what `to_cache` wrote; nothing if it is missing, damaged or not ours to read."""
    with suppress(Exception):
        return read_tensors(cache_folder() / name, expected_format)
    return {}, {}


def to_cache(name: str, tensors: Tensors, about: Mapping[str, str]) -> None:
    """Write a file of the cache; if that fails, only warn, because nothing is lost but time."""
    try:
        write_tensors(cache_folder() / name, tensors, about)
    except (OSError, SafetensorError) as error:
        what = "what was made from the pictures cannot be kept, and will be made again next time"
        warnings.warn(f"{what} ({error}). Set CMSSF_CACHE to another folder", stacklevel=4)


def read_pictures(
    folder: Path, found: Sequence[PictureFile], size: int | None, skip_unreadable: bool
) -> tuple[UInt8[Tensor, "n 3 h w"], list[str]]:
    """Return the pictures of a folder and their files, from the cache if no file has changed.

    Args:
        folder: Where the pictures are.
        found: The result of `find_pictures`.
        size: Side to which each picture's central square is resized; ``None`` for no resizing.
        skip_unreadable: Leave out files that cannot be read, with a warning that names them.

    Raises:
        ValueError: If the size is not positive, a picture cannot be read, or sizes differ.
    """
    if size is not None and size < 1:
        raise ValueError(f"image_size must be positive; got {size}")
    digest = hashlib.sha256(repr(found).encode()).hexdigest()
    key = hashlib.sha256(repr((str(folder.resolve()), size)).encode()).hexdigest()[:16]
    tensors, about = from_cache(f"images-{key}.safetensors", CACHE_FORMAT)
    faults = json.loads(about.get("faults", "{}"))  # by file
    if about.get("listing") == digest and (skip_unreadable or not faults):
        tell_left_out(folder, faults, len(found))
    else:
        images, faults = _decode(folder, found, size, skip_unreadable)
        tensors = {"images": images}
        about = {"format": CACHE_FORMAT, "listing": digest, "faults": json.dumps(faults)}
        to_cache(f"images-{key}.safetensors", tensors, about)
    return tensors["images"], [picture.file for picture in found if picture.file not in faults]


def _decode(
    folder: Path, found: Sequence[PictureFile], size: int | None, skip_unreadable: bool
) -> tuple[UInt8[Tensor, "n 3 h w"], dict[str, str]]:
    """Decode pictures; return them, and for each file that cannot be read the reason."""

    def read(picture: PictureFile) -> Pixels:
        return read_picture(folder / picture.file, size)

    arrays, faults = list[Pixels](), dict[str, str]()
    for batch in in_batches(found, read, faults, skip_unreadable):
        arrays += batch.values()
        for picture, pixels in batch.items():
            if pixels.shape != arrays[0].shape:
                side = min(*arrays[0].shape[:2], *pixels.shape[:2], 224)
                raise ValueError(
                    f"{folder}: pictures differ in size (first at {folder / picture.file}): set "
                    f"image_size, for instance image_size={side - side % 16 or side}"
                )
    tell_left_out(folder, faults, len(found))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), faults


def in_batches(
    found: Sequence[PictureFile],
    read: Callable[[PictureFile], T],
    faults: dict[str, str],
    skip_unreadable: bool,
) -> Iterator[dict[PictureFile, T]]:
    """Yield what ``read`` makes of each file that it can read, a batch at a time, in many threads.

    Args:
        found: The result of `find_pictures`.
        read: Called for each file.
        faults: For each file that cannot be read, the reason is added here.
        skip_unreadable: Go on after a batch with such a file.

    Raises:
        ValueError: If a file cannot be read, and none may be skipped.
    """

    def attempt(picture: PictureFile) -> T | None:
        try:
            return read(picture)
        except (OSError, ValueError) as error:
            faults[picture.file] = str(error)
            return None

    starts = range(0, len(found), AT_ONCE)
    with quiet_decoders(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tqdm(starts, "reading pictures", leave=False, disable=hide_bars()):
            batch = found[start : start + AT_ONCE]
            made: Any = zip(batch, pool.map(attempt, batch), strict=True)
            yield {picture: got for picture, got in made if picture.file not in faults}
            if faults and not skip_unreadable:
                first = min(faults.values())
                raise ValueError(f"{first}. Repair or delete it, or set skip_unreadable")


def tell_left_out(folder: Path, faults: Mapping[str, str], count: int) -> None:
    """Warn of files that cannot be read, and refuse a folder in which that is all of them."""
    if faults:
        lost = f"{folder}: {len(faults)} of {count} pictures are left out: "
        warnings.warn(lost + "; ".join(sorted(faults.values())[:10]), stacklevel=4)
    if len(faults) == count:
        raise ValueError(f"none of the {count} pictures in {folder} can be read")
