"""Data sets of picture files: CIFAR-10, classes in folders, or any folder without labels."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from cmssf_lib.captions import named_by_class, read_captions
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.data.picture_cache import cache_folder, read_pictures
from cmssf_lib.data.pictures import ENDINGS, PictureFile, find_pictures
from cmssf_lib.files import home

SPLITS = ("train", "test")


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
    try:
        root = _cifar10_root(path)
    except FileNotFoundError:  # no home folder, so nothing was downloaded there
        return None
    for folder in (root, root / "cifar10"):
        for parts in ((CIFAR10.base_folder,), SPLITS):
            if all((folder / part).is_dir() for part in parts):
                return folder
    return None


def _cifar10_root(path: str | Path | None) -> Path:
    return home(path or os.environ.get("CMSSF_DATA") or cache_folder() / "data")


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
    skip_unreadable: bool = False,
) -> Splits:
    """Load pictures laid out as ``train/<class>/*`` and ``test/<class>/*``.

    `cmssf_lib.data.pictures` says which files are read, and what becomes of their pixels.

    Args:
        path: The folder that holds ``train`` and ``test``.
        image_size: Every picture is cropped to its central square and resized to this side;
            ``None`` requires that all pictures have the same size already.
        captions: A table (.csv, .jsonl) with one or more captions for every picture, in the
            columns ``file_name`` ("train/boat/1.png") and ``text``; see `read_captions`. A
            relative path starts in ``path``. ``None`` for class captions.
        name: Shown in figures; by default the name of the folder.
        skip_unreadable: Leave out files that cannot be read, with a warning that names them.

    Returns:
        Training and test set; the classes are the sorted names of the class folders. A class
        folder may hold further folders.

    Raises:
        FileNotFoundError: If the folder, a split or the table is missing, or a split is empty.
        ValueError: If the splits hold different classes, there is only one class or one without
            pictures, a picture cannot be read, sizes differ, or captions and pictures do not match.
    """
    root = home(path)
    (classes, train), (others, test) = (list_pictures(root / split) for split in SPLITS)
    if different := sorted({*classes} ^ {*others}):
        raise ValueError(f"{root}: train and test hold different classes: {different[:5]}")
    listed = {"train": train, "test": test}
    said = _said(root, captions, [f"{s}/{p.file}" for s, found in listed.items() for p in found])
    number, splits = {label: i for i, label in enumerate(classes)}, []
    for split, found in listed.items():
        images, files = read_pictures(root / split, found, image_size, skip_unreadable)
        _require_all(root / split, classes, files)
        labels = torch.tensor([number[file.split("/")[0]] for file in files])
        own = tuple(said[f"{split}/{file}"] for file in files) if said else None
        texts = own or named_by_class(labels, classes)
        shown = f"{name or root.absolute().name} {split}"
        splits.append(ImageTextData(images, labels, texts, tuple(classes), shown))
    return Splits(*splits)


def plain_folder(
    path: str | Path,
    *,
    image_size: int | None = None,
    test: float | int = 0.1,
    captions: str | Path | None = None,
    name: str | None = None,
    skip_unreadable: bool = False,
) -> Splits:
    """Load all pictures of a folder and its subfolders, for learning without labels.

    Every picture has the label 0, the only class "picture". The held-out part is decided by the
    pixels: pictures that look the same stay together, and if pictures are added later, few of the
    old ones change sides.

    Args:
        path: The folder. `cmssf_lib.data.pictures` says which files in it are read.
        image_size: As for `image_folder`.
        test: How many pictures to hold out: a fraction, or a whole number.
        captions: As for `image_folder`, with paths such as "summer/1.png".
        name: As for `image_folder`.
        skip_unreadable: As for `image_folder`.

    Returns:
        Training and test set, which share no picture.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If a picture cannot be read, sizes differ, or one of the parts would be empty.
    """
    root = home(path)
    found = find_pictures(root)
    if not 0 < test < (len(found) if isinstance(test, int) else 1):
        raise ValueError(f"{root}: cannot hold out test={test} of {len(found)} pictures")
    said = _said(root, captions, [picture.file for picture in found])
    images, files = read_pictures(root, found, image_size, skip_unreadable)
    digests = [hashlib.sha256(image.numpy().data).digest() for image in images]
    count = test if isinstance(test, int) else round(test * len(images))
    last = sorted(digests)[: max(1, count)][-1]  # of the held-out part
    held_out = torch.tensor([digest <= last for digest in digests])
    if held_out.all():
        raise ValueError(
            f"{root}: cannot hold out test={test}: only {len({*digests})} pictures differ"
        )
    labels = torch.zeros(len(images), dtype=torch.int64)
    texts = tuple(said[f] for f in files) if said else named_by_class(labels, ["picture"])
    shown = name or root.absolute().name
    data = ImageTextData(images, labels, texts, ("picture",), shown)
    parts = data.subset(~held_out), data.subset(held_out)
    return Splits(*(replace(p, name=f"{shown} {s}") for p, s in zip(parts, SPLITS, strict=True)))


def list_pictures(folder: Path) -> tuple[list[str], list[PictureFile]]:
    """List the classes and the pictures of a split, ``folder/<class>/*``, in a fixed order.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If there are fewer than two classes, or a class has no picture.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: expected train/<class>/* and test/<class>/*")
    entries = [entry for entry in os.scandir(folder) if entry.name[0] != "."]
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    if len(classes) < 2:
        raise ValueError(f"{folder}: found {len(classes)} class folder(s); at least two are needed")
    if loose := [e.name for e in entries if e.is_file() and e.name.lower().endswith(ENDINGS)]:
        lost = f"{folder}: {len(loose)} pictures are left out, because they lie in no class folder"
        warnings.warn(f"{lost} ({min(loose)}, ...)", stacklevel=3)
    found = find_pictures(folder, classes)
    _require_all(folder, classes, [picture.file for picture in found])
    return classes, found


def _said(
    root: Path, captions: str | Path | None, files: Sequence[str]
) -> dict[str, str | tuple[str, ...]]:
    """Read the table, if there is one, before the pictures, which may take long."""
    return {} if captions is None else read_captions(root / home(captions), files)


def _require_all(folder: Path, classes: Sequence[str], files: Iterable[str]) -> None:
    if empty := sorted({*classes} - {file.split("/")[0] for file in files}):
        raise ValueError(
            f"{folder}: {len(empty)} class folder(s) without a picture that can be read: "
            f"{empty[:5]}. Fill or delete them, in train and test"
        )
