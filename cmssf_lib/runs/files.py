"""Files that are there whole or not at all, and nothing pickled among them."""

import csv
import errno
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file in one stroke: it is there whole, or the old one still is."""
    replace_file(path, lambda unfinished: save_file(dict(tensors), unfinished, dict(metadata)))


def read_tensors(path: Path, expected_format: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote.

    Raises:
        ValueError: If the file is cut off, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}): delete it to start again, "
            "or put back a whole copy"
        ) from error
    if metadata.get("format") != expected_format:
        raise ValueError(
            f"{path} was not written by this library for this purpose: its format is "
            f"{metadata.get('format', 'not stated')!r}, expected {expected_format!r}"
        )
    return tensors, metadata


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then move it there in one stroke.

    Raises:
        OSError: If the disk is full; what was at ``path`` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(unfinished)
        with open(unfinished, "rb+") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: {path} could not be written; what was there before is "
                "untouched. Free some space and start again",
            ) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed ``.npz`` in one stroke."""

    def write(unfinished: Path) -> None:
        with open(unfinished, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    replace_file(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one stroke, readable by people too."""
    text = json.dumps(content, indent=2) + "\n"
    replace_file(path, lambda unfinished: unfinished.write_text(text))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_table(path: Path) -> list[dict[str, float]]:
    """Read a table of numbers, a dictionary a row; empty cells are left out.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with open(path, newline="") as file:
            return [
                {key: float(value) for key, value in row.items() if value != ""}
                for row in csv.DictReader(file, strict=True)
            ]
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an ``.npz``.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
