"""Photographs: CIFAR-10, and any folder of pictures laid out by split and class."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.datasets import CIFAR10

from cmssf_lib.captions import class_caption
from cmssf_lib.data.caption_files import read_captions
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.data.picture_files import cache_folder, decoded, list_pictures

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
    path: str | Path,
    *,
    image_size: int | None = None,
    captions: str | Path | None = None,
    skip_unreadable: bool = False,
    name: str | None = None,
) -> Splits:
    """Load pictures laid out as ``train/<class>/*`` and ``test/<class>/*``.

    Args:
        path: The folder that holds ``train`` and ``test``.
        image_size: Every picture is cropped to its central square and resized to this side;
            ``None`` demands that all have one size already.
        captions: A table with a caption for every picture, as `read_captions` reads it; a file's
            name begins with its split ("train/boat/1.png"). A relative path begins in ``path``.
            ``None`` for class captions.
        skip_unreadable: Go on without the pictures that cannot be read; a warning names them.
        name: Shown in figures; by default the folder's own.

    Returns:
        Training and test set; the classes are the sorted names of the class folders.

    Raises:
        FileNotFoundError: If the folder, a split, any picture in it, or the table is missing.
        ValueError: If the splits hold different classes, there is only one class, a picture
            cannot be read, sizes differ, or captions and pictures do not match one to one.
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
    listed = [list_pictures(root / split, class_names[0]) for split in SPLITS]
    said = None
    if captions is not None:  # before any picture is read, which may take long
        there = [_name(root, file) for listing in listed for file in listing.files]
        said = _captions_of(root / Path(captions).expanduser(), there)
    splits = []
    for split, listing in zip(SPLITS, listed, strict=True):
        images, labels, files = decoded(listing, image_size, skip_unreadable)
        shown = f"{name or root.name} {split}"
        data = _with_class_captions(images, labels, class_names[0], shown)
        if said is not None:
            data = replace(data, captions=tuple(said[_name(root, file)] for file in files))
        splits.append(data)
    return Splits(*splits)


def _name(root: Path, file: str) -> str:
    """Return what a table of captions calls a picture."""
    return Path(file).relative_to(root).as_posix()


def _captions_of(table: Path, there: list[str]) -> dict[str, str]:
    """Read the captions of all pictures that are there, and of no others."""
    said, pictures = read_captions(table), set(there)
    strangers = [(line, name) for name, (line, _) in said.items() if name not in pictures]
    if strangers:
        line, name = min(strangers)
        raise ValueError(
            f"{table}, line {line}: no picture {name}; expected a path such as {there[0]} "
            f"({len(strangers):,} of {len(said):,} captions have no picture)"
        )
    if silent := [name for name in there if name not in said]:
        raise ValueError(
            f"{table}: no caption for {silent[0]} ({len(silent):,} of {len(there):,} pictures "
            "have none)"
        )
    return {name: text for name, (_, text) in said.items()}


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
