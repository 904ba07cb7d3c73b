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


class Run:
    """A training run; without a path it is kept in memory only.

    Args:
        path: Its folder; created when something is saved.

    Attributes:
        path: The folder, or ``None``.
        config: Everything that determines the outcome.
        history: One dictionary an epoch.
        environment: Machine, device and versions.
        results: Metric → number.
        outputs: The arrays from which the results were computed.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []
        self.environment: dict[str, Any] = {}
        self.results: dict[str, float] = {}
        self.outputs: dict[str, np.ndarray] = {}

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Read a run from its folder.

        Raises:
            FileNotFoundError: If there is no run; the message lists the runs in the same parent.
            ValueError: If one of its files is damaged.
        """
        run = cls(path)
        folder = Path(path)
        if not (folder / "config.json").is_file():
            beside = sorted(p.parent.name for p in folder.parent.glob("*/config.json")) or ["none"]
            raise FileNotFoundError(
                f"no run at {folder} (it has no config.json); runs beside it: {', '.join(beside)}"
            )
        for name in ("config", "environment", "results"):
            if (path := folder / f"{name}.json").is_file():
                setattr(run, name, found := files.read_json(path))
                if not isinstance(found, dict):
                    raise ValueError(f"{path} is damaged: it holds {found!r} and no names")
        if (folder / "history.csv").is_file():
            run.history = files.read_table(folder / "history.csv")
        if (folder / "outputs.npz").is_file():
            run.outputs = files.read_arrays(folder / "outputs.npz")
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
        try:
            records = files.records().resolve()
        except FileNotFoundError:
            return False
        return self.path is not None and records in self.path.resolve().parents

    @property
    def command(self) -> str:
        """The shell command that reproduces this run, or that started it."""
        if self.recorded:
            return f"cmssf reproduce {self.name}"
        return str(self.environment.get("command", "a call of fit"))

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint file of an unfinished run; ``None`` for a run in memory."""
        return None if self.path is None else self.path / "checkpoint.safetensors"

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
        """
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("config", "environment", "results"):
            if getattr(self, name):
                files.write_json(self.path / f"{name}.json", getattr(self, name))
        if self.history:
            files.write_table(self.path / "history.csv", self.history)
        if self.outputs:
            files.write_arrays(self.path / "outputs.npz", self.outputs)

    def save_weights(self, method: nn.Module) -> None:
        """Write ``model.safetensors``; does nothing for a run in memory.

        Tensors that half precision represents exactly are stored so (`TrainConfig.half_weights`).
        """
        if self.path is not None:
            tensors = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
            for name, tensor in tensors.items():
                if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
                    tensors[name] = tensor.half()
            files.write_tensors(self.path / "model.safetensors", tensors, {"format": FORMAT})

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.checkpoint is not None and self.checkpoint.is_file()

    @property
    def has_weights(self) -> bool:
        """Whether ``model.safetensors`` exists."""
        return self.path is not None and (self.path / "model.safetensors").is_file()

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
        return files.read_tensors(self.path / "model.safetensors", FORMAT)[0]

    def state(self) -> Literal["new", "under way", "trained", "measured"]:
        """Return how far the run in this folder has come; a run in memory is new.

        A folder in which no step was taken also counts as new: a first try with impossible
        settings must not block the second.

        Raises:
            ValueError: If the folder holds a run with another configuration; the message names
                the fields that differ.
        """
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

    Other folders with a config.json are ignored. A damaged run is skipped with a warning.
    """
    runs = []
    for path in sorted(Path(root).rglob("config.json")):
        try:
            if "train" in (found := Run.load(path.parent)).config:
                runs.append(found)
        except (ValueError, OSError) as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
    return runs
