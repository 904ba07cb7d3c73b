"""Pictures in files: listed, decoded once, and kept as one file in the cache.

Decoding tens of thousands of small files takes a while. The cache ($CMSSF_CACHE, by default
``~/.cache/cmssf``) remembers name, size and time of every picture: a changed folder is decoded
again.
"""

import hashlib
import json
import os
import warnings
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.contrib.concurrent import thread_map

from cmssf_lib.files import replace_file

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
Pictures = UInt8[Tensor, "n 3 h w"]
CACHE_VERSION = 2  # a higher number makes every cache be made again


class Listing(NamedTuple):
    """The pictures of one split, ``folder/<class>/*``, not yet read."""

    folder: Path  # named after the split
    classes: tuple[str, ...]
    files: list[str]  # "<split>/<class>/<name>": sixty thousand Path objects would take too long
    digest: str  # changes when a file does


def cache_folder() -> Path:
    """Return where decoded pictures are kept: $CMSSF_CACHE, or ``~/.cache/cmssf``."""
    return Path(os.environ.get("CMSSF_CACHE") or "~/.cache/cmssf").expanduser()


def list_pictures(folder: Path) -> Listing:
    """List the pictures of a split in a fixed order.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If there are fewer than two classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: pictures are laid out as train/<class>/* and test/<class>/*"
        )
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    if len(classes) < 2:
        raise ValueError(f"{folder}: found {len(classes)} class folder(s); at least two are needed")
    # glob passes over hidden files: what macOS calls "._cat.jpg" is no picture.
    found = glob(f"{folder.name}/*/*", root_dir=folder.parent)
    found = sorted((file for file in found if file.lower().endswith(ENDINGS)), key=os.path.split)
    if not found:
        raise FileNotFoundError(
            f"no picture in {folder}: expected files ending in {', '.join(ENDINGS)} in its folders"
        )
    files = [file.replace(os.sep, "/") for file in found]
    stats = [os.stat(f"{folder.parent}/{file}") for file in files]
    facts = repr((files, [(s.st_size, s.st_mtime_ns) for s in stats]))
    return Listing(folder, tuple(classes), files, hashlib.sha256(facts.encode()).hexdigest())


def read_pictures(listing: Listing, size: int | None, skip: bool) -> tuple[Pictures, list[str]]:
    """Return the pictures of one split, from the cache if the folder has not changed.

    Args:
        listing: What `list_pictures` found.
        size: Side to which each picture's central square is resized; ``None``: not at all.
        skip: Leave out what cannot be read, with a warning.

    Returns:
        The pictures, and the file that each is from.

    Raises:
        ValueError: If a picture cannot be read, or sizes differ.
    """
    folder, files = listing.folder, listing.files
    settings = f"{folder.resolve()} {size} {CACHE_VERSION}"
    key = hashlib.sha256(settings.encode()).hexdigest()[:16]
    cached = cache_folder() / f"images-{key}.safetensors"
    images, faults = None, {}
    # A missing or damaged cache is no loss: the pictures are decoded again.
    with suppress(OSError, SafetensorError), safe_open(cached, framework="pt") as opened:
        about = opened.metadata() or {}
        if about.get("listing") == listing.digest:
            # A copy: the file itself stays mapped while its tensor lives, and Windows does not
            # replace a mapped file.
            images, faults = opened.get_tensor("images").clone(), json.loads(about["faults"])
    if images is None or (faults and not skip):
        images, faults = _decode(listing, size, skip)
        about = {"listing": listing.digest, "faults": json.dumps(faults)}
        try:
            replace_file(cached, lambda path: save_file({"images": images}, path, metadata=about))
        except (OSError, SafetensorError) as error:  # the pictures are there all the same
            warnings.warn(
                f"the decoded pictures could not be kept in {cached.parent} ({error}): they will "
                "be decoded again next time. CMSSF_CACHE names another place",
                stacklevel=3,
            )
    if faults:
        warnings.warn(
            f"{folder}: {len(faults)} of {len(files)} pictures are left out: "
            + "; ".join(list(faults.values())[:10]),
            stacklevel=3,
        )
    return images, [file for file in files if file not in faults]


def _decode(listing: Listing, size: int | None, skip: bool) -> tuple[Pictures, dict[str, str]]:
    """Read the pictures of a split; return them, and why the others cannot be read."""
    folder, files = listing.folder, listing.files

    def read(file: str) -> np.ndarray | str:
        try:
            return read_picture(f"{folder.parent}/{file}", size)
        except ValueError as error:
            if not skip:
                raise
            return str(error)

    found = thread_map(read, files, desc=f"reading {folder.name}", leave=False, disable=None)
    pairs = list(zip(files, found, strict=True))
    faults = {file: reason for file, reason in pairs if isinstance(reason, str)}
    arrays = [array for array in found if not isinstance(array, str)]
    if not arrays:
        reason = next(iter(faults.values()))
        raise ValueError(f"none of the {len(found)} pictures in {folder} can be read; {reason}")
    odd = [file for file, a in pairs if not isinstance(a, str) and a.shape != arrays[0].shape]
    if odd:
        raise ValueError(
            f"the pictures in {folder} differ in size (first seen at {odd[0]}): give an image_size"
        )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), faults


def read_picture(file: str | Path, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Decode one picture to RGB, the way it is held (as its EXIF data say).

    Args:
        file: Its path.
        image_size: Side to which its central square is resized; ``None``: not at all.

    Raises:
        ValueError: If it cannot be read; the message names it.
    """
    try:
        with Image.open(file) as opened:
            ImageOps.exif_transpose(opened, in_place=True)  # a photo taken sideways stands up
            picture: Image.Image = opened
            if picture.mode.startswith("I"):  # 16 bits of grey, all white if they were cut to 8
                picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
            picture = picture.convert("RGB")
    # Pillow has several ways to say that a file is damaged.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {file}: {error}") from error
    if image_size is not None and picture.size != (image_size, image_size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        picture = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(picture)
