"""Pictures from files: CIFAR-10, or any folder of pictures, decoded once and then cached.

Decoding tens of thousands of files takes a while. The cache (`cache_folder`) remembers the name,
size and modification time of every picture, so a changed folder is decoded again.
"""

import hashlib
import os
import warnings
from contextlib import suppress
from functools import partial
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor
from torchvision.datasets import CIFAR10
from tqdm.contrib.concurrent import thread_map

from cmssf_lib.captions import named_by_class, read_captions
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.files import read_tensors, write_tensors

SPLITS = ("train", "test")
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
CACHE_FORMAT = "cmssf-pictures-3"  # a new number invalidates all existing caches


class Listing(NamedTuple):
    """The picture files of one split, ``folder/<class>/*``, before they are read."""

    folder: Path  # named after the split
    classes: tuple[str, ...]
    files: list[str]  # "<split>/<class>/<name>"; 60,000 Path objects would take too long


def cache_folder() -> Path:
    """Return the folder of the cache: $CMSSF_CACHE, by default ``~/.cache/cmssf``."""
    return Path(os.environ.get("CMSSF_CACHE") or "~/.cache/cmssf").expanduser()


def cifar10(path: str | Path | None = None) -> Splits:
    """Load CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 photographs, 32×32, ten classes.

    The search goes first to ``path``, then to ``path/cifar10``. In each it looks for
    torchvision's files, then for an image folder (``train/<class>/*``, ``test/<class>/*``). If
    nothing is found, torchvision downloads its files to ``path`` and checks them.

    Args:
        path: A folder; by default $CMSSF_DATA, or ``data`` in `cache_folder` if that is not set.

    Returns:
        Training and test set with class captions ("a photo of an automobile").

    Raises:
        FileNotFoundError: If the pictures are missing and cannot be downloaded.
        ValueError: If torchvision's files are damaged, or an image folder does not hold ten
            classes of 32×32 pixels.
    """
    folder = find_cifar10(path)
    if folder is None:
        root = _cifar10_root(path)
        try:
            root.mkdir(parents=True, exist_ok=True)
            return _from_torchvision(root, download=True)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"CIFAR-10 is not in {root} and could not be downloaded: set CMSSF_DATA to where "
                f"it is ({CIFAR10.base_folder}/, or an image folder, train/<class>/* and "
                "test/<class>/*). The preset 'quick' does not need it"
            ) from error
    if (files := folder / CIFAR10.base_folder).is_dir():
        try:
            return _from_torchvision(folder, download=False)
        except RuntimeError as error:
            raise ValueError(
                f"{files} is incomplete or damaged: delete it to download CIFAR-10 again"
            ) from error
    # JPEG compression loses detail, so figures must name such a copy.
    kind = "JPEG copy" if any(folder.glob("train/*/*.jp*g")) else "image folder"
    splits = image_folder(folder, name=f"CIFAR-10, {kind}")
    classes, side = len(splits.train.class_names), tuple(splits.train.images.shape[2:])
    if classes != 10 or side != (32, 32):
        raise ValueError(f"{folder}: CIFAR-10 has 10 classes of 32×32, not {classes} of {side}")
    return splits


def find_cifar10(path: str | Path | None = None) -> Path | None:
    """Return the folder that `cifar10` reads, or ``None`` if it would have to download."""
    for folder in (_cifar10_root(path), _cifar10_root(path) / "cifar10"):
        for parts in ((CIFAR10.base_folder,), SPLITS):
            if all((folder / part).is_dir() for part in parts):
                return folder
    return None


def _cifar10_root(path: str | Path | None) -> Path:
    return Path(path or os.environ.get("CMSSF_DATA") or cache_folder() / "data").expanduser()


def _from_torchvision(root: Path, download: bool) -> Splits:
    splits = []
    for split in SPLITS:
        raw = CIFAR10(str(root), train=split == "train", download=download)
        images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
        labels, classes = torch.tensor(raw.targets), tuple(raw.classes)
        captions = named_by_class(labels, classes)
        splits.append(ImageTextData(images, labels, captions, classes, f"CIFAR-10 {split}"))
    return Splits(*splits)


def image_folder(
    path: str | Path,
    *,
    image_size: int | None = None,
    captions: str | Path | None = None,
    name: str | None = None,
) -> Splits:
    """Load pictures laid out as ``train/<class>/*`` and ``test/<class>/*``.

    Args:
        path: The folder that holds ``train`` and ``test``.
        image_size: Every picture is cropped to its central square and resized to this side;
            ``None`` requires that all pictures have the same size already.
        captions: A table (.csv, .jsonl) with a caption for every picture, in the columns
            ``file_name`` ("train/boat/1.png", starting with the split) and ``text``. A relative
            path starts in ``path``. ``None`` for class captions.
        name: Shown in figures; by default the name of the folder.

    Returns:
        Training and test set; the classes are the sorted names of the class folders.

    Raises:
        FileNotFoundError: If the folder, a split or the table is missing, or a split is empty.
        ValueError: If the splits hold different classes, there is only one class, a picture
            cannot be read, sizes differ, or captions and pictures do not match one to one.
    """
    root = Path(path).expanduser()
    train, test = listed = [list_pictures(root / split) for split in SPLITS]
    if train.classes != test.classes:
        different = sorted({*train.classes} ^ {*test.classes})
        raise ValueError(f"{root}: train and test hold different classes: {different[:5]}")
    said: dict[str, str] = {}
    if captions is not None:  # check them before reading the pictures, which may take long
        table = root / Path(captions).expanduser()
        said = read_captions(table, [*train.files, *test.files])
    classes, splits = train.classes, []
    number = {label: i for i, label in enumerate(classes)}
    for listing in listed:
        images = read_pictures(listing, image_size)
        labels = torch.tensor([number[file.split("/")[1]] for file in listing.files])
        texts = tuple(said[f] for f in listing.files) if said else named_by_class(labels, classes)
        shown = f"{name or root.name} {listing.folder.name}"
        splits.append(ImageTextData(images, labels, texts, classes, shown))
    return Splits(*splits)


def list_pictures(folder: Path) -> Listing:
    """List the pictures of a split in a fixed order.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If there are fewer than two classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: expected train/<class>/* and test/<class>/*")
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    if len(classes) < 2:
        raise ValueError(f"{folder}: found {len(classes)} class folder(s); at least two are needed")
    # glob skips hidden files such as "._cat.jpg", which macOS writes and which are not pictures.
    found = glob(f"{folder.name}/*/*", root_dir=folder.parent)
    found = sorted((file for file in found if file.lower().endswith(ENDINGS)), key=os.path.split)
    if not found:
        raise FileNotFoundError(f"no picture in {folder}/*: expected {', '.join(ENDINGS)} files")
    return Listing(folder, tuple(classes), [file.replace(os.sep, "/") for file in found])


def read_pictures(listing: Listing, size: int | None) -> UInt8[Tensor, "n 3 h w"]:
    """Return the pictures of one split, from the cache if no file has changed.

    Args:
        listing: The result of `list_pictures`.
        size: Side to which each picture's central square is resized; ``None`` for no resizing.

    Raises:
        ValueError: If a picture cannot be read, or sizes differ.
    """
    folder = listing.folder
    paths = [f"{folder.parent}/{file}" for file in listing.files]
    facts = [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, paths)]
    digest = hashlib.sha256(repr((listing.files, facts)).encode()).hexdigest()
    key = hashlib.sha256(f"{folder.resolve()} {size}".encode()).hexdigest()[:16]
    cached = cache_folder() / f"images-{key}.safetensors"
    # If the cache is missing or damaged, the pictures are simply decoded again.
    with suppress(OSError, ValueError):
        tensors, about = read_tensors(cached, CACHE_FORMAT)
        if about["listing"] == digest:
            return tensors["images"]
    images = _decode(paths, size, folder)
    try:
        write_tensors(cached, {"images": images}, {"format": CACHE_FORMAT, "listing": digest})
    except (OSError, SafetensorError) as error:  # only a warning: the pictures can be used anyway
        why = f"cannot keep the decoded pictures in {cached.parent} ({error})"
        again = "they will be decoded again next time. Set CMSSF_CACHE to another folder"
        warnings.warn(f"{why}: {again}", stacklevel=3)
    return images


def _decode(paths: list[str], size: int | None, folder: Path) -> UInt8[Tensor, "n 3 h w"]:
    """Decode all pictures of a split."""
    read = partial(read_picture, image_size=size)
    arrays = thread_map(read, paths, desc=f"reading {folder.name}", leave=False, disable=None)
    odd = [p for p, array in zip(paths, arrays, strict=True) if array.shape != arrays[0].shape]
    if odd:
        raise ValueError(f"{folder}: pictures differ in size (first at {odd[0]}): set image_size")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def read_picture(file: str | Path, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Decode one picture to RGB, upright according to its EXIF data.

    Args:
        file: Its path.
        image_size: Side to which its central square is resized; ``None`` for no resizing.

    Raises:
        ValueError: If it cannot be read; the message names it.
    """
    try:
        with Image.open(file) as opened:
            ImageOps.exif_transpose(opened, in_place=True)
            picture: Image.Image = opened
            if picture.mode.startswith("I"):  # 16-bit grey; convert("RGB") would make it all white
                picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
            picture = picture.convert("RGB")
    # Pillow raises several kinds of error for damaged files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {file}: {error}") from error
    if image_size is not None and picture.size != (image_size, image_size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        picture = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(picture)
