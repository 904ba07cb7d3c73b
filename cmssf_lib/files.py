"""Files that are written completely or not at all, without pickle."""

import csv
import errno
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CHECKPOINT_FORMAT = "cmssf-checkpoint-2"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there atomically.

    Raises:
        OSError: If the disk is full; a previous file at ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(unfinished)
        with open(unfinished, "rb+") as file:  # Windows only syncs files open for writing
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if not full:
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: {path} could not be written; what was there before is untouched. "
            "Free some space and start again",
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically: after a crash either the old or the new one is there."""
    replace_file(path, lambda unfinished: save_file(dict(tensors), unfinished, dict(metadata)))


def read_tensors(path: Path, expected_format: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote.

    Raises:
        ValueError: If the file is cut off, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies, not views of the mapped file: Windows cannot replace a file that is mapped.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
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


def write_checkpoint(
    path: Path, method: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Write the weights and the optimizer's state, and everything else as JSON in the header.

    Args:
        path: The safetensors file.
        method: The model.
        optimizer: Its optimizer.
        state: What else to store; JSON must be able to represent it.
    """
    moments = optimizer.state_dict()
    tensors = {f"model.{k}": v for k, v in method.state_dict().items()}
    for index, values in moments["state"].items():
        tensors |= {  # only tensors: Muon also keeps a flag, which it can tell from the group
            f"optimizer.{index}.{name}": value
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
    kept = json.dumps({**state, "param_groups": moments["param_groups"]})
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_tensors(path, whole, {"format": CHECKPOINT_FORMAT, "state": kept})


def read_checkpoint(
    path: Path, method: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore what `write_checkpoint` wrote into the model and its optimizer; return the rest.

    Raises:
        ValueError: If the file is cut off, damaged, or of another kind.
    """
    tensors, metadata = read_tensors(path, CHECKPOINT_FORMAT)
    state: dict[str, Any] = json.loads(metadata["state"])
    method.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            moments[int(index)][name] = value
    groups = state.pop("param_groups")
    optimizer.load_state_dict({"state": dict(moments), "param_groups": groups})
    return state


def lock_folder(folder: Path) -> FileLock:
    """Lock a folder for this process; the lock ends with the process.

    Raises:
        RuntimeError: If another process is training in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RuntimeError(
            f"another process is training in {folder}: wait for it, stop it, or choose another "
            "folder"
        ) from error
    return lock


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed ``.npz`` atomically."""

    def write(unfinished: Path) -> None:
        with open(unfinished, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    replace_file(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    replace_file(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: If the file is damaged.
    """
    with _damage_of(path):
        return json.loads(path.read_bytes())


def read_table(path: Path) -> list[dict[str, float]]:
    """Read a CSV table of numbers as one dictionary a row; empty cells are left out.

    Raises:
        ValueError: If the file is damaged.
    """
    with _damage_of(path), open(path, newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if value != ""}
            for row in csv.DictReader(file, strict=True)
        ]


def write_table(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a CSV table of numbers atomically, with a column for every key of any row."""

    def write(unfinished: Path) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({key: f"{value:.8g}" for key, value in row.items()})

    replace_file(path, write)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an ``.npz``.

    Raises:
        ValueError: If the file is damaged.
    """
    with _damage_of(path), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Turn the errors of a parser into one that names the file."""
    try:
        yield
    except (ValueError, TypeError, EOFError, csv.Error, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as one dictionary with keys such as "train.lr"."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = list(value) if isinstance(value, tuple) else value
    return out


def records() -> Path:
    """Return the folder of the book's records: $CMSSF_RUNS, or the nearest book/runs upwards.

    Raises:
        FileNotFoundError: If there is none.
    """
    if named := os.environ.get("CMSSF_RUNS"):
        return Path(named)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "book" / "runs").is_dir():
            return folder / "book" / "runs"
    raise FileNotFoundError(
        "no folder book/runs here or above: go to the book's repository, or name the folder in "
        "CMSSF_RUNS"
    )
