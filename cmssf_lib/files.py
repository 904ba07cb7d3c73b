"""Files that are written completely or not at all, without pickle."""

import csv
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def home(path: str | Path) -> Path:
    """Return a path in which ``~`` stands for the home folder, as at every door of the library.

    Raises:
        ValueError: If it is empty.
        FileNotFoundError: If the home folder is not known.
    """
    if not str(path):
        raise ValueError("the path is empty: name a file or a folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{path} begins with a home folder that is not known here: write the whole path"
        ) from error


def require_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, before the work whose result goes there.

    Args:
        folder: It need not exist yet, and is not created.

    Raises:
        OSError: The message names the reason.
    """
    place = folder.absolute()
    try:
        while not (place.exists() or place.is_symlink()):
            place = place.parent
        with TemporaryFile(dir=place):  # as root, or on a read-only disk, only a try can tell
            pass
    except OSError as error:
        why = f"nothing can be written in {folder} ({error.strerror}): choose another folder"
        raise OSError(error.errno, why) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Offer a temporary file beside ``path`` to be filled, then move it there atomically.

    Yields:
        The temporary file, which is empty.

    Raises:
        OSError: If it cannot be written; a previous file at ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # as the umask says; safetensors writes for one user only
        yield unfinished
        unfinished.chmod(mode)
        with open(unfinished, "rb+") as file:  # Windows only syncs files open for writing
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        number, why = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        kept = f"{path} could not be written; what was there before is untouched"
        if number == errno.ENOSPC or "No space left" in str(error):
            what = f"the disk is full: {kept}. Free some space and start again"
            raise OSError(errno.ENOSPC, what) from error
        raise OSError(number or errno.EIO, f"{kept} ({why})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically: after a crash either the old or the new one is there."""
    whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with replacing(path) as unfinished:
        save_file(whole, unfinished, dict(metadata))


def read_tensors(
    path: Path, expected_format: str | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote; without an expected format, any safetensors file.

    Raises:
        OSError: If this user may not read the file.
        ValueError: If the file is cut off, damaged, or of another kind.
    """
    with open(path, "rb"):  # safetensors would say of a file that may not be read: it is missing
        pass
    with damage_of(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # Copies, not views of the mapped file: Windows cannot replace a file that is mapped.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    if expected_format is not None and metadata.get("format") != expected_format:
        raise ValueError(
            f"{path} was not written by this library for this purpose: its format is "
            f"{metadata.get('format', 'not stated')!r}, expected {expected_format!r}"
        )
    return tensors, metadata


def lock_folder(folder: Path) -> FileLock:
    """Lock a folder for this process; the lock ends with the process.

    Raises:
        RuntimeError: If another process is training in this folder.
        OSError: If nothing can be written there.
    """
    require_writable(folder)
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
    with replacing(path) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    whole = text.encode("utf-8", "surrogatepass")  # a command may name a file that is not UTF-8
    with replacing(path) as unfinished:
        unfinished.write_bytes(whole)


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: If the file is damaged.
    """
    with damage_of(path):
        return json.loads(path.read_bytes())


def read_table(path: Path) -> list[dict[str, float]]:
    """Read a CSV table of numbers as one dictionary a row; empty cells are left out.

    Raises:
        ValueError: If the file is damaged.
    """
    with damage_of(path), open(path, newline="", encoding="utf-8") as file:
        return [
            {key: float(value) for key, value in row.items() if value != ""}
            for row in csv.DictReader(file, strict=True)
        ]


def write_table(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a CSV table of numbers atomically, with a column for every key of any row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.8g}" for key, value in row.items()} for row in rows)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an ``.npz``.

    Raises:
        ValueError: If the file is damaged.
    """
    with damage_of(path), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@contextmanager
def damage_of(
    path: Path, advice: str = "delete it to start again, or put back a whole copy"
) -> Iterator[None]:
    """Turn the errors of a parser into one that names the file and says what to do."""
    try:
        yield
    except Exception as error:  # a parser may raise anything
        cannot_open = isinstance(error, OSError) and error.filename is not None
        if cannot_open or isinstance(error, MemoryError):
            raise
        raise ValueError(f"{path} is damaged ({error!r}): {advice}") from error


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
        return home(named)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "book" / "runs").is_dir():
            return folder / "book" / "runs"
    raise FileNotFoundError(
        "no folder book/runs here or above: go to the book's repository, or name the folder in "
        "CMSSF_RUNS"
    )
