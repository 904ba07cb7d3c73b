"""A run on disk: what decided it, how it went, what came out.

    <run>/config.json         everything that decides the outcome
    <run>/history.csv         a row an epoch
    <run>/environment.json    date, versions, processor, commit
    <run>/results.json        metric → number
    <run>/outputs.npz         test embeddings, predictions, labels
    <run>/model.safetensors   weights
    <run>/checkpoint.safetensors   where an unfinished run goes on; gone when it is done

Every file is written beside its place and then moved there, so a crash or a full disk leaves
the old one whole. Nothing is pickled.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn

from cmssf_lib.data import ImageTextData
from cmssf_lib.runs.command import train_command
from cmssf_lib.runs.files import (
    read_arrays,
    read_json,
    read_table,
    read_tensors,
    replace_file,
    write_arrays,
    write_json,
    write_tensors,
)
from cmssf_lib.runs.setup import build, records


class Run:
    """A training run; without a path it lives in memory only.

    Args:
        path: Its folder, made if it is not there.

    Attributes:
        path: The folder, or ``None``.
        config: Everything that decides the outcome.
        history: One dictionary an epoch.
        environment: What it ran on.
        results: Metric → number.
        outputs: Arrays behind the results.
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
            FileNotFoundError: If there is no run; the message names the runs beside it.
            ValueError: If one of its files is damaged.
        """
        run = cls(path)
        folder = Path(path)
        if not (folder / "config.json").is_file():
            beside = sorted(p.parent.name for p in folder.parent.glob("*/config.json"))
            raise FileNotFoundError(
                f"no run at {folder} (it has no config.json); runs beside it: "
                f"{', '.join(beside) or 'none'}"
            )
        run.config = read_json(folder / "config.json")
        for name in ("environment", "results"):
            if (folder / f"{name}.json").is_file():
                setattr(run, name, read_json(folder / f"{name}.json"))
        if (folder / "history.csv").is_file():
            run.history = read_table(folder / "history.csv")
        if (folder / "outputs.npz").is_file():
            run.outputs = read_arrays(folder / "outputs.npz")
        return run

    @property
    def name(self) -> str:
        """The folder's name, with those above it up to "runs", such as "quick/cmssf"."""
        if self.path is None:
            return "in memory"
        if self.recorded:
            return self.path.resolve().relative_to(records().resolve()).as_posix()
        *above, last = self.path.resolve().parts
        if "runs" not in above:
            return last
        below = above[len(above) - above[::-1].index("runs") :]  # the last folder of this name
        return "/".join([*below, last])

    @property
    def recorded(self) -> bool:
        """Whether it is one of the book's recorded runs."""
        try:
            root = records().resolve()
        except FileNotFoundError:
            return False
        return self.path is not None and self.path.resolve().is_relative_to(root)

    @property
    def command(self) -> str:
        """The shell command that makes this run again."""
        if self.recorded:
            return f"cmssf reproduce {self.name}"
        return train_command(self.config) if "method" in self.config else "a call of fit"

    @property
    def finished(self) -> bool:
        """Whether every epoch has been trained; of a run without any: whether it was measured."""
        epochs = self.config["train"]["epochs"]
        return len(self.history) >= epochs and bool(self.history or self.results)

    def series(self, column: str) -> list[float]:
        """Return one column of the history.

        Raises:
            KeyError: If there is no such column; the message names those there are.
        """
        if not self.history or column not in self.history[-1]:
            known = ", ".join(self.history[-1]) if self.history else "none: no epoch is done"
            raise KeyError(f"the history of {self.name} has no column {column!r}; it has {known}")
        return [row[column] for row in self.history]

    def save(self) -> None:
        """Write all but the weights; nothing happens to a run in memory.

        Raises:
            OSError: If the disk is full; the files that were there stay whole.
        """
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("config", "environment", "results"):
            if getattr(self, name):
                write_json(self.path / f"{name}.json", getattr(self, name))
        if self.history:
            replace_file(self.path / "history.csv", self._write_history)
        if self.outputs:
            write_arrays(self.path / "outputs.npz", self.outputs)

    def _write_history(self, path: Path) -> None:
        columns = list(dict.fromkeys(key for row in self.history for key in row))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            for row in self.history:
                writer.writerow({key: f"{value:.8g}" for key, value in row.items()})

    def save_weights(self, method: nn.Module) -> None:
        """Write ``model.safetensors``; nothing happens to a run in memory.

        Numbers that half precision holds exactly are written so (`TrainConfig.half_weights`).
        """
        if self.path is not None:
            tensors = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
            for name, tensor in tensors.items():
                if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
                    tensors[name] = tensor.half()
            write_tensors(self.path / "model.safetensors", tensors, {"format": "cmssf-weights-1"})

    def method(self, data: ImageTextData) -> nn.Module:
        """Build the run's method, fill it with its weights and set it to evaluation mode.

        Args:
            data: The training data, whose captions the tokenizer was built from.

        Raises:
            FileNotFoundError: If the run has no weights (recorded quick runs hold none), or is
                not finished.
            ValueError: If the weights are damaged or belong to another model.
        """
        if self.path is None or not (self.path / "model.safetensors").is_file():
            if self.path is not None and (self.path / "checkpoint.safetensors").is_file():
                raise FileNotFoundError(
                    f"the run {self.name} is not finished; go on with what began it: {self.command}"
                    f"{'' if self.recorded else f' --run {self.path}'}"
                )
            raise FileNotFoundError(
                f"the run {self.name} holds no weights; make it again with: {self.command}"
            )
        config = self.config
        if "vision" in config:  # the weights are here, whatever they began as
            config = {**config, "vision": {**config["vision"], "weights": ""}}
        method = build(config, data)
        tensors, _ = read_tensors(self.path / "model.safetensors", "cmssf-weights-1")
        own = method.state_dict()
        differ = sorted(
            key
            for key in own.keys() | tensors.keys()
            if key not in own or key not in tensors or own[key].shape != tensors[key].shape
        )
        if differ:
            raise ValueError(
                f"the weights of {self.name} do not fit the model its config.json describes; "
                f"missing, unexpected or of another shape: {', '.join(differ[:5])}"
            )
        method.load_state_dict(tensors)
        return method.eval()

    def lock(self) -> FileLock:
        """Return a lock that only one process at a time can hold; it dies with its process.

        Raises:
            RuntimeError: If another process is training in this folder.
        """
        assert self.path is not None, "a run in memory needs no lock"
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RuntimeError(
                f"another process is training in {self.path}: wait for it, stop it, or choose "
                "another folder"
            ) from error
        return lock


def all_runs(root: str | Path) -> list[Run]:
    """Load every run below a folder, by name; other folders with a config.json are passed over."""
    found = [p.parent for p in sorted(Path(root).rglob("config.json"))]
    return [Run.load(folder) for folder in found if "train" in read_json(folder / "config.json")]
