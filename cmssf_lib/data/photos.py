"""Photographs: CIFAR-10, and any folder of pictures laid out by split and class.

Decoding tens of thousands of small files takes a while, so a folder is decoded once and kept
as one file in the cache ($CMSSF_CACHE, by default ``~/.cache/cmssf``). The cache remembers
name, size and time of every picture: a changed folder is decoded again.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.datasets import CIFAR10
from tqdm.auto import tqdm

from cmssf_lib.captions import class_caption
from cmssf_lib.data.image_text import ImageTextData, Splits

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
SPLITS = ("train", "test")


def cifar10(path: str | Path | None = None) -> Splits:
    """Load CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 photographs, 32×32, ten classes.

    Looked for in this order: torchvision's files and an image folder (``train/<class>/*``,
    ``test/<class>/*``), each in ``path`` itself and in ``path/cifar10``; else it is downloaded
    there, with torchvision's checksum.

    Args:
        path: A folder; ``None`` for $CMSSF_DATA, and without that ``~/.cache/cmssf/data``.

    Returns:
        Training and test set with class captions ("a photo of an automobile").

    Raises:
        FileNotFoundError: If the pictures are not there and cannot be downloaded.
        ValueError: If torchvision's files there are damaged, or an image folder does not hold
            the ten classes at 32×32 pixels.
    """
    root = Path(path or os.environ.get("CMSSF_DATA") or cache_folder() / "data").expanduser()
    for folder in (root, root / "cifar10"):
        if (folder / CIFAR10.base_folder).is_dir():
            return _torchvision_cifar10(folder)
        if all((folder / split).is_dir() for split in SPLITS):
            # JPEG loses a little of a picture: figures made from such files have to say so.
            lossy = next((folder / SPLITS[0]).glob("*/*.jp*g"), None) is not None
            name = "CIFAR-10, JPEG copy" if lossy else "CIFAR-10, image folder"
            splits = image_folder(folder, name=name)
            if len(splits.train.class_names) != 10 or splits.train.images.shape[2:] != (32, 32):
                raise ValueError(
                    f"{folder} is not CIFAR-10: expected 10 classes of 32×32 pixels, got "
                    f"{len(splits.train.class_names)} of {tuple(splits.train.images.shape[2:])}"
                )
            return splits
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _torchvision_cifar10(root, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not in {root} and could not be downloaded: put torchvision's "
            f"{CIFAR10.base_folder}/ or an image folder (train/<class>/*, test/<class>/*) there, "
            "or name its place in CMSSF_DATA; the preset 'quick' needs none of it"
        ) from error


def _torchvision_cifar10(root: Path, download: bool = False) -> Splits:
    splits = []
    for split in SPLITS:
        try:
            raw = CIFAR10(str(root), train=split == "train", download=download)
        except RuntimeError as error:
            if download:
                raise
            raise ValueError(
                f"{root / CIFAR10.base_folder} is incomplete or damaged, by torchvision's "
                "checksums: delete it, and CIFAR-10 is downloaded again"
            ) from error
        images = torch.from_numpy(np.transpose(raw.data, (0, 3, 1, 2)).copy())
        splits.append(_with_class_captions(images, raw.targets, raw.classes, f"CIFAR-10 {split}"))
    return Splits(*splits)


def image_folder(
    path: str | Path, *, image_size: int | None = None, name: str | None = None
) -> Splits:
    """Load pictures laid out as ``train/<class>/*`` and ``test/<class>/*``.

    Args:
        path: The folder that holds ``train`` and ``test``.
        image_size: Every picture is cropped to its central square and resized to this side;
            ``None`` demands that all have one size already.
        name: Shown in figures; by default the folder's own.

    Returns:
        Training and test set; the classes are the sorted names of the class folders, the
        captions class captions.

    Raises:
        FileNotFoundError: If the folder, a split, or any picture in it is missing.
        ValueError: If the splits hold different classes, there is only one class, a picture
            cannot be read, or sizes differ.
    """
    root = Path(path).expanduser()
    class_names: list[list[str]] = []
    for split in SPLITS:
        if not (root / split).is_dir():
            raise FileNotFoundError(
                f"no folder {root / split}: pictures are laid out as train/<class>/* and "
                "test/<class>/*"
            )
        folders = (e for e in os.scandir(root / split) if e.is_dir() and e.name[0] != ".")
        class_names.append(sorted(e.name for e in folders))
    if class_names[0] != class_names[1]:
        different = sorted(set(class_names[0]) ^ set(class_names[1]))
        raise ValueError(f"{root}: train and test hold different classes: {different[:5]}")
    if len(class_names[0]) < 2:
        raise ValueError(
            f"{root}: found {len(class_names[0])} class folder(s) under train/; "
            "learning to tell classes apart takes at least two"
        )
    splits = []
    for split in SPLITS:
        images, labels = _decoded(root / split, class_names[0], image_size)
        shown = f"{name or root.name} {split}"
        splits.append(_with_class_captions(images, labels, class_names[0], shown))
    return Splits(*splits)


def _with_class_captions(
    images: UInt8[Tensor, "n 3 h w"], labels: Sequence[int], class_names: Sequence[str], name: str
) -> ImageTextData:
    captions = [class_caption(class_name) for class_name in class_names]
    return ImageTextData(
        images=images,
        labels=torch.tensor(labels),
        captions=tuple(captions[label] for label in labels),
        class_names=tuple(class_names),
        name=name,
    )


def cache_folder() -> Path:
    """Return where decoded pictures are kept: $CMSSF_CACHE, or ``~/.cache/cmssf``."""
    return Path(os.environ.get("CMSSF_CACHE") or "~/.cache/cmssf").expanduser()


def _decoded(
    folder: Path, class_names: Sequence[str], image_size: int | None
) -> tuple[UInt8[Tensor, "n 3 h w"], list[int]]:
    """Return the pictures of one split, from the cache if the folder has not changed."""
    files, labels, listing = _listing(folder, class_names)
    if not files:
        raise FileNotFoundError(
            f"no picture in {folder}: expected files ending in {', '.join(ENDINGS)} in the "
            "class folders"
        )
    key = hashlib.sha256(f"{folder.resolve()} {image_size}".encode()).hexdigest()[:16]
    cached = cache_folder() / f"images-{key}.safetensors"
    if cached.is_file():
        try:
            with safe_open(cached, framework="pt") as opened:
                if (opened.metadata() or {}).get("listing") == listing:
                    return opened.get_tensor("images"), labels
        except SafetensorError:
            pass  # a damaged cache is no loss: the pictures are decoded again
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(lambda file: _read(file, image_size), files)
        arrays = list(
            tqdm(decoded, f"reading {folder.name}", len(files), leave=False, disable=None)
        )
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        odd = next(f for f, a in zip(files, arrays, strict=True) if a.shape != arrays[0].shape)
        raise ValueError(
            f"the pictures in {folder} differ in size (first seen at {odd}): give an image_size"
        )
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    unfinished = cached.with_suffix(f".{os.getpid()}.tmp")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        save_file({"images": images}, unfinished, metadata={"listing": listing})
        unfinished.replace(cached)
    except (OSError, SafetensorError) as error:  # the pictures are there all the same
        with suppress(OSError):
            unfinished.unlink()
        warnings.warn(
            f"the decoded pictures could not be kept in {cached.parent} ({error}): they will be "
            "decoded again next time. CMSSF_CACHE names another place",
            stacklevel=2,
        )
    return images, labels


def _listing(folder: Path, class_names: Sequence[str]) -> tuple[list[str], list[int], str]:
    """List the pictures of a split in a fixed order, with a digest that changes when they do."""
    files: list[str] = []  # sixty thousand Path objects would take longer than the cache to read
    labels: list[int] = []
    digest = hashlib.sha256()
    for label, class_name in enumerate(class_names):
        for entry in sorted(os.scandir(folder / class_name), key=lambda e: e.name):
            if entry.name[0] == "." or not entry.name.lower().endswith(ENDINGS):
                continue  # hidden files such as macOS's "._cat.jpg" are no pictures
            facts = entry.stat()
            digest.update(f"{class_name}/{entry.name} {facts.st_size} {facts.st_mtime_ns}".encode())
            files.append(entry.path)
            labels.append(label)
    return files, labels, digest.hexdigest()


def _read(file: str, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Decode one picture to RGB."""
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
