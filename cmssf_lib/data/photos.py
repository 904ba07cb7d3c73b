"""Photographs: CIFAR-10, and any folder of pictures, with captions from a table if there is one."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import CIFAR10

from cmssf_lib.captions import named_by_class
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.data.picture_files import cache_folder, list_pictures, read_pictures

SPLITS = ("train", "test")
COLUMNS = ("file_name", "text")  # as in the image folders of the library `datasets`


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
            try:
                return _from_torchvision(folder, download=False)
            except RuntimeError as error:
                raise ValueError(
                    f"{folder / CIFAR10.base_folder} is incomplete or damaged, by torchvision's "
                    "checksums: delete it, and CIFAR-10 is downloaded again"
                ) from error
        if all((folder / split).is_dir() for split in SPLITS):
            # JPEG loses a little of a picture: figures made from such files have to say so.
            kind = "JPEG copy" if any(folder.glob("train/*/*.jp*g")) else "image folder"
            splits = image_folder(folder, name=f"CIFAR-10, {kind}")
            classes, side = len(splits.train.class_names), tuple(splits.train.images.shape[2:])
            if classes != 10 or side != (32, 32):
                raise ValueError(
                    f"{folder} is not CIFAR-10: expected 10 classes of 32×32 pixels, got {classes} "
                    f"of {side}"
                )
            return splits
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _from_torchvision(root, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not in {root} and could not be downloaded: put torchvision's "
            f"{CIFAR10.base_folder}/ or an image folder (train/<class>/*, test/<class>/*) there, "
            "or name its place in CMSSF_DATA; the preset 'quick' needs none of it"
        ) from error


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
    train, test = listed = [list_pictures(root / split) for split in SPLITS]
    if train.classes != test.classes:
        different = sorted({*train.classes} ^ {*test.classes})
        raise ValueError(f"{root}: train and test hold different classes: {different[:5]}")
    said: dict[str, str] = {}
    if captions is not None:  # before any picture is read, which may take long
        said = _captions_of([*train.files, *test.files], root / Path(captions).expanduser())
    classes, splits = train.classes, []
    number = {label: i for i, label in enumerate(classes)}
    for listing in listed:
        images, files = read_pictures(listing, image_size, skip_unreadable)
        labels = torch.tensor([number[file.split("/")[1]] for file in files])
        texts = tuple(said[file] for file in files) if said else named_by_class(labels, classes)
        shown = f"{name or root.name} {listing.folder.name}"
        splits.append(ImageTextData(images, labels, texts, classes, shown))
    return Splits(*splits)


def _captions_of(pictures: list[str], table: Path) -> dict[str, str]:
    """Read the captions of all these pictures, and of no others."""
    said, there = read_captions(table), set(pictures)
    if strangers := [(line, name) for name, (line, _) in said.items() if name not in there]:
        line, name = strangers[0]
        raise ValueError(
            f"{table}, line {line}: no picture {name}; expected a path such as {pictures[0]} "
            f"({len(strangers):,} of {len(said):,} captions have no picture)"
        )
    if silent := [name for name in pictures if name not in said]:
        raise ValueError(
            f"{table}: no caption for {silent[0]} ({len(silent):,} of {len(pictures):,} pictures "
            "have none)"
        )
    return {name: text for name, (_, text) in said.items()}


def read_captions(path: str | Path) -> dict[str, tuple[int, str]]:
    """Read a table of captions, from CSV with a header line or from JSON lines.

    Args:
        path: Ends in ``.csv`` or ``.jsonl``. Columns, or keys, are ``file_name`` and ``text``;
            others are passed over. UTF-8.

    Returns:
        The file's name → the line of its caption, counted from 1, and the caption, without the
        white space around it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file ends in something else, is not UTF-8 or holds no caption; or if a
            line cannot be read, lacks a column, has an empty one, or names a picture that has a
            caption already. The message says which line.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{path}: captions are read from files that end in .csv or .jsonl")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} with captions")
    read = _csv if path.suffix.lower() == ".csv" else _json_lines
    captions: dict[str, tuple[int, str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins with a mark
            for line, row in read(file):
                for column in COLUMNS:
                    if not isinstance(said := row.get(column), str) or not said.strip():
                        got = f"{row!s:.200}"
                        raise ValueError(f"line {line}: expected a text as {column!r}; got {got}")
                name, text = (row[column].strip() for column in COLUMNS)
                if name in captions:
                    first = captions[name][0]
                    raise ValueError(f"line {line}: {name} has a caption already, in line {first}")
                captions[name] = (line, text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it in that encoding") from error
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    if not captions:
        raise ValueError(f"{path} holds no caption")
    return captions


def _csv(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line and its cells by column."""
    rows = csv.DictReader(file, strict=True)
    try:
        header = rows.fieldnames or ()
        if missing := [column for column in COLUMNS if column not in header]:
            raise ValueError(
                f"line 1: no column {' and no '.join(missing)}; the first line names the "
                f"columns, such as {','.join(COLUMNS)}"
            )
        for row in rows:
            if None in row or None in row.values():  # cells without a column, or the reverse
                raise ValueError(
                    f"line {rows.line_num}: not {len(header)} columns as in the first line; a "
                    "caption with a comma stands in quotes"
                )
            yield rows.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {rows.reader.line_num}: {error}") from error


def _json_lines(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line and the object in it."""
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {line}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {line}: expected an object in braces")
        yield line, row
