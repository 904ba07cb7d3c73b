"""Pictures in files: listed, decoded once, and kept as one file in the cache.

Decoding tens of thousands of small files takes a while. The cache ($CMSSF_CACHE, by default
``~/.cache/cmssf``) remembers name, size and time of every picture: a changed folder is decoded
again.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


class Listing(NamedTuple):
    """The pictures of one split, not yet read.

    Attributes:
        folder: Holds a folder for each class.
        files: Their paths, in a fixed order.
        labels: The number of each one's class.
        digest: Changes when a file does.
    """

    folder: Path
    files: list[str]  # sixty thousand Path objects would take longer than the cache to read
    labels: list[int]
    digest: str


def cache_folder() -> Path:
    """Return where decoded pictures are kept: $CMSSF_CACHE, or ``~/.cache/cmssf``."""
    return Path(os.environ.get("CMSSF_CACHE") or "~/.cache/cmssf").expanduser()


def decoded(
    listing: Listing, image_size: int | None, skip_unreadable: bool
) -> tuple[UInt8[Tensor, "n 3 h w"], list[int], list[str]]:
    """Return the pictures of one split, from the cache if the folder has not changed.

    Args:
        listing: What `list_pictures` found.
        image_size: Side to which each picture's central square is resized; ``None``: not at all.
        skip_unreadable: Leave out what cannot be read, with a warning.

    Returns:
        The pictures, their labels and their files.

    Raises:
        FileNotFoundError: If there is no picture.
        ValueError: If a picture cannot be read, or sizes differ.
    """
    folder, files, labels, digest = listing
    if not files:
        raise FileNotFoundError(
            f"no picture in {folder}: expected files ending in {', '.join(ENDINGS)} in the "
            "class folders"
        )
    key = hashlib.sha256(f"{folder.resolve()} {image_size} kept".encode()).hexdigest()[:16]
    cached = cache_folder() / f"images-{key}.safetensors"
    images, kept = _from_cache(cached, digest)
    if images is None or (len(kept) < len(files) and not skip_unreadable):
        images, kept = _read_all(folder, files, image_size, skip_unreadable)
        _keep(cached, images, kept, digest)
    elif len(kept) < len(files):
        bad = sorted(set(files) - {files[i] for i in kept})
        warnings.warn(
            f"{folder}: {len(bad)} of {len(files)} pictures could not be read and are left out: "
            + ", ".join(bad[:10]),
            stacklevel=3,
        )
    return images, [labels[i] for i in kept], [files[i] for i in kept]


def _from_cache(cached: Path, digest: str) -> tuple[UInt8[Tensor, "n 3 h w"] | None, list[int]]:
    """Return pictures that were decoded before, and their places in the list of files."""
    if cached.is_file():
        try:
            with safe_open(cached, framework="pt") as opened:
                if (opened.metadata() or {}).get("listing") == digest:
                    return opened.get_tensor("images"), opened.get_tensor("kept").tolist()
        except SafetensorError:
            pass  # a damaged cache is no loss: the pictures are decoded again
    return None, []


def _read_all(
    folder: Path, files: list[str], image_size: int | None, skip_unreadable: bool
) -> tuple[UInt8[Tensor, "n 3 h w"], list[int]]:
    """Decode the pictures of a split; return those that can be read, and their places."""
    faults: list[str] = []

    def read(file: str) -> np.ndarray | None:
        try:
            return read_picture(file, image_size)
        except ValueError as error:
            if not skip_unreadable:
                raise
            faults.append(str(error))
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            pool.map(read, files), f"reading {folder.name}", len(files), leave=False, disable=None
        )
        arrays = {i: array for i, array in enumerate(bar) if array is not None}
    if faults:
        warnings.warn(
            f"{folder}: {len(faults)} of {len(files)} pictures are left out: "
            + "; ".join(sorted(faults)[:10]),
            stacklevel=4,
        )
    if not arrays:
        raise ValueError(f"none of the {len(files)} pictures in {folder} can be read")
    first = next(iter(arrays.values())).shape
    if odd := [files[i] for i, array in arrays.items() if array.shape != first]:
        raise ValueError(
            f"the pictures in {folder} differ in size (first seen at {odd[0]}): give an image_size"
        )
    images = torch.from_numpy(np.stack(list(arrays.values()))).permute(0, 3, 1, 2).contiguous()
    return images, list(arrays)


def _keep(cached: Path, images: UInt8[Tensor, "n 3 h w"], kept: list[int], digest: str) -> None:
    """Write decoded pictures to the cache, or warn that this was not possible."""
    unfinished = cached.with_suffix(f".{os.getpid()}.tmp")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"images": images, "kept": torch.tensor(kept)}
        save_file(tensors, unfinished, metadata={"listing": digest})
        unfinished.replace(cached)
    except (OSError, SafetensorError) as error:  # the pictures are there all the same
        with suppress(OSError):
            unfinished.unlink()
        warnings.warn(
            f"the decoded pictures could not be kept in {cached.parent} ({error}): they will be "
            "decoded again next time. CMSSF_CACHE names another place",
            stacklevel=4,
        )


def list_pictures(folder: Path, class_names: Sequence[str]) -> Listing:
    """List the pictures of a split, ``folder/<class>/*``, in a fixed order."""
    found = Listing(folder, [], [], "")
    digest = hashlib.sha256()
    for label, class_name in enumerate(class_names):
        for entry in sorted(os.scandir(folder / class_name), key=lambda e: e.name):
            if entry.name[0] == "." or not entry.name.lower().endswith(ENDINGS):
                continue  # hidden files such as macOS's "._cat.jpg" are no pictures
            facts = entry.stat()
            digest.update(f"{class_name}/{entry.name} {facts.st_size} {facts.st_mtime_ns}".encode())
            found.files.append(entry.path)
            found.labels.append(label)
    return found._replace(digest=digest.hexdigest())


def read_picture(file: str | Path, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Decode one picture to RGB.

    Args:
        file: Its path.
        image_size: Side to which its central square is resized; ``None``: not at all.

    Raises:
        ValueError: If it cannot be read; the message names it.
    """
    try:
        with Image.open(file) as opened:
            ImageOps.exif_transpose(opened, in_place=True)  # a photo taken sideways stands up
            picture = opened.convert("RGB")
    # Pillow has several ways to say that a file is damaged.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {file}: {error}") from error
    if image_size is not None and picture.size != (image_size, image_size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        picture = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(picture)
