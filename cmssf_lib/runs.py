"""A run on disk: its settings, its history, its results.

Its folder holds::

    <run>/config.json         everything that determines the outcome
    <run>/history.csv         one row an epoch
    <run>/environment.json    date, versions, processor, commit
    <run>/results.json        metric → number
    <run>/outputs.npz         test embeddings, predictions, labels
    <run>/model.safetensors   weights
    <run>/checkpoint.safetensors   the state of an unfinished run; deleted when it is done

Every file is written under a temporary name and then moved, so a crash or a full disk leaves the
old one intact. Nothing is pickled.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from cmssf_lib import files

#: Settings that do not affect the result: they may change when a run is resumed. The pictures may
#: have moved to another folder; the fingerprint says whether they are the same.
MAY_CHANGE = ("train.checkpoint_minutes", "cmssf.chunk", "cmssf.micro_batch", "data.path")
FORMAT = "cmssf-weights-1"
FILES = ["config.json", "environment.json", "start.json", "history.csv", "outputs.npz"]
FILES += ["results.json"]  # the last: with it a run is measured
WEIGHTS, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
READ: dict[str, Callable[[Path], Any]]
READ = {".json": files.read_json, ".csv": files.read_table, ".npz": files.read_arrays}


class Run:
    """A training run; without a path it is kept in memory only.

    Args:
        path: Its folder; created when something is saved. It may hold other files, but none with
            the name of a file of a run, unless it holds a run.

    Attributes:
        path: The folder, or ``None``.
        config: Everything that determines the outcome.
        start: The numbers of the first step, before its update, named as in the history.
        history: One dictionary an epoch.
        environment: Machine, device and versions.
        results: Metric → number.
        outputs: The arrays from which the results were computed.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else files.home(path)
        self.config: dict[str, Any] = {}
        self.start: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.environment: dict[str, Any] = {}
        self.results: dict[str, float] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self._may_write = False  # whether the folder was found to hold a run, or none of its files

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Read a run from its folder.

        Raises:
            FileNotFoundError: If there is no run; the message lists the runs in the same parent.
            ValueError: If one of its files is damaged.
        """
        run = cls(path)
        folder = run.path or Path()
        if not (folder / "config.json").is_file():
            beside = sorted(p.parent.name for p in folder.parent.glob("*/config.json")) or ["none"]
            raise FileNotFoundError(
                f"no run at {folder} (it has no config.json); runs beside it: {', '.join(beside)}"
            )
        for path in (folder / name for name in FILES if (folder / name).is_file()):
            setattr(run, path.stem, found := READ[path.suffix](path))
            if path.suffix == ".json" and not isinstance(found, dict):
                raise ValueError(f"{path} is damaged: it holds {found!r} and no names")
        if odd := [k for k, v in run.results.items() if not isinstance(v, int | float)]:
            raise ValueError(f"{folder / 'results.json'} is damaged: {odd[0]} is no number")
        return run

    @property
    def name(self) -> str:
        """The folder's path below the nearest folder "runs", such as "quick/cmssf"."""
        if self.path is None:
            return "in memory"
        path = self.path.resolve()
        roots = [folder for folder in path.parents if folder.name == "runs"]  # the nearest first
        if self.recorded:
            roots = [files.records().resolve()]
        return path.relative_to(roots[0] if roots else path.parent).as_posix()

    @property
    def recorded(self) -> bool:
        """Whether it is one of the book's recorded runs."""
        with suppress(FileNotFoundError):
            if self.path is not None:
                return files.records().resolve() in self.path.resolve().parents
        return False

    @property
    def command(self) -> str:
        """The shell command that reproduces this run, or that started it."""
        if self.recorded:
            return f"cmssf reproduce {self.name}"
        return str(self.environment.get("command", "a call of fit"))

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint file of an unfinished run; ``None`` for a run in memory."""
        return None if self.path is None else self.path / CHECKPOINT

    def series(self, column: str) -> list[float]:
        """Return one column of the history.

        Raises:
            KeyError: If there is no such column; the message lists the columns.
        """
        if not self.history or column not in self.history[-1]:
            known = ", ".join(self.history[-1]) if self.history else "none: no epoch is done"
            raise KeyError(f"the history of {self.name} has no column {column!r}; it has {known}")
        return [row[column] for row in self.history]

    def save(self) -> None:
        """Write everything but the weights; does nothing for a run in memory.

        Raises:
            OSError: If the disk is full; existing files stay intact.
            ValueError: If the folder holds such files, and they are not those of a run.
        """
        if self.path is None:
            return
        self._require_own_folder()
        write: dict[str, Callable[[Path, Any], None]]
        write = {".json": files.write_json, ".csv": files.write_table, ".npz": files.write_arrays}
        for path in (self.path / name for name in FILES):
            if content := getattr(self, path.stem):
                write[path.suffix](path, content)

    def _require_own_folder(self) -> None:
        """Refuse a folder in which a run would replace what is no run's."""
        if self.path is None or self._may_write:
            return
        there = [name for name in (*FILES, WEIGHTS, CHECKPOINT) if (self.path / name).exists()]
        config = self.path / FILES[0]
        if there and not (config.is_file() and _describes_run(files.read_json(config))):
            raise ValueError(
                f"{self.path} holds {', '.join(there)}, not written by a run: writing there would "
                "destroy that, so choose another folder"
            )
        self._may_write = True

    def save_weights(self, method: nn.Module) -> None:
        """Write ``model.safetensors``, which ends a run; does nothing for a run in memory.

        Tensors that half precision represents exactly are stored so (`TrainConfig.half_weights`).
        """
        if self.path is not None:
            self._require_own_folder()
            tensors = dict(method.state_dict())
            for name, tensor in tensors.items():
                if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
                    tensors[name] = tensor.half()
            files.write_tensors(self.path / WEIGHTS, tensors, {"format": FORMAT})
            (self.path / CHECKPOINT).unlink(missing_ok=True)

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.checkpoint is not None and self.checkpoint.is_file()

    @property
    def has_weights(self) -> bool:
        """Whether ``model.safetensors`` exists."""
        return self.path is not None and (self.path / WEIGHTS).is_file()

    def weights(self) -> dict[str, torch.Tensor]:
        """Read ``model.safetensors``.

        Raises:
            FileNotFoundError: If the run has no weights (recorded quick runs hold none), or is
                not finished.
            ValueError: If the file is damaged.
        """
        if self.path is None or not self.has_weights:
            lacking = "holds no weights; make it again with"
            why = "is not finished; go on with" if self.begun else lacking
            raise FileNotFoundError(f"the run {self.name} {why}: {self.command}")
        return files.read_tensors(self.path / WEIGHTS, FORMAT)[0]

    def state(self) -> Literal["new", "under way", "trained", "measured"]:
        """Return how far the run in this folder has come; a run in memory is new.

        A folder in which no step was taken also counts as new: a first try with impossible
        settings must not block the second.

        Raises:
            ValueError: If the folder holds a run with another configuration (the message names
                the fields that differ), or files that a run would replace and did not write.
        """
        self._require_own_folder()
        if self.path is None or not (self.path / "config.json").is_file():
            return "new"
        old = Run.load(self.path)
        if not (self.begun or self.has_weights or old.history or old.results):
            return "new"
        recorded, asked = files.flat(old.config), files.flat(self.config)
        differ = [
            f"{key} (recorded {recorded.get(key)!r}, asked for {asked.get(key)!r})"
            for key in sorted(recorded.keys() | asked.keys())
            if recorded.get(key) != asked.get(key) and key not in MAY_CHANGE
        ]
        if differ:
            raise ValueError(
                f"{self.path} holds a run with another configuration: {'; '.join(differ)}. "
                "Go on with the recorded one, or choose another folder"
            )
        if old.results:
            return "measured"
        return "trained" if self.has_weights and not self.begun else "under way"


def all_runs(root: str | Path) -> list[Run]:
    """Load every run below a folder, by name.

    A damaged run, or a config.json of something else, is skipped with a warning that names it.
    """
    runs = []
    for path in sorted(files.home(root).rglob("config.json")):
        try:
            if not _describes_run((found := Run.load(path.parent)).config):
                raise ValueError(f"{path} describes no run")
            runs.append(found)
        except (ValueError, OSError) as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
    return runs


def _describes_run(config: Any) -> bool:
    """Return whether the content of a config.json is that of a run."""
    train = config.get("train") if isinstance(config, Mapping) else None
    return isinstance(train, Mapping) and isinstance(config.get("data_fingerprint"), str)
