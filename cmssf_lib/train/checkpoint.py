"""Where an unfinished run goes on, and why it refuses to go on as another."""

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cmssf_lib.runs import Run, preset_of, read_tensors, write_tensors

FORMAT = "cmssf-checkpoint-1"
#: Settings that say how a result is reached, and not which: they may change on the way.
HOW = ("train.checkpoint_minutes", "cmssf.chunk", "cmssf.micro_batch")
#: The pictures may have moved; the fingerprint says whether they are the same.
WHERE = ("data.path",)


class Checkpoint:
    """Where an unfinished run goes on: weights, optimizer, history and the running sums.

    One safetensors file; what is not a tensor stands as JSON in its header. Every process reads
    it, and one ``writes``.

    Attributes:
        sums: Of each logged quantity over the current epoch's steps.
    """

    def __init__(
        self,
        run: Run,
        method: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        writes: bool = True,
    ) -> None:
        self.run, self.method, self.optimizer, self.writes = run, method, optimizer, writes
        self.path = None if run.path is None else run.path / "checkpoint.safetensors"
        self.sums: dict[str, float] = defaultdict(float)

    def load(self) -> int:
        """Put method, optimizer and history back where they were; return the steps done."""
        if self.path is None or self.run.path is None:
            return 0
        if state(self.run) in ("trained", "measured"):
            raise ValueError(
                f"{self.run.path} holds a finished run: choose another folder, or delete it to "
                "train again"
            )
        if not self.path.is_file():
            if self.writes:
                self._room_for_two()
                self.run.save()
            return 0
        tensors, metadata = read_tensors(self.path, FORMAT)
        kept = json.loads(metadata["state"])
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        self.method.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments[int(index)][name] = value
        self.optimizer.load_state_dict(
            {"state": dict(moments), "param_groups": kept["param_groups"]}
        )
        self.run.history = kept["history"]
        self.sums.update(kept["sums"])
        self.sums["seconds"] = kept["seconds"]
        return int(kept["done"])

    def save(self, done: int, seconds: float) -> None:
        """Write the state after ``done`` steps, ``seconds`` of them in the current epoch."""
        if self.path is None or not self.writes:
            return
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{k}": v for k, v in self.method.state_dict().items()}
        for index, moments in optimizer["state"].items():
            tensors |= {  # Muon also keeps a flag, which follows from the group
                f"optimizer.{index}.{name}": value
                for name, value in moments.items()
                if isinstance(value, Tensor)
            }
        content = {
            "done": done,
            "seconds": seconds,
            "sums": dict(self.sums),
            "history": self.run.history,
            "param_groups": optimizer["param_groups"],
        }
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        write_tensors(self.path, whole, {"format": FORMAT, "state": json.dumps(content)})

    def remove(self) -> None:
        """Delete the checkpoint of a run that is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _room_for_two(self) -> None:
        """Refuse to start where the first checkpoints would not fit."""
        assert self.run.path is not None
        weights = sum(t.numel() * t.element_size() for t in self.method.state_dict().values())
        needed = 2 * 3 * weights  # weights and two moments, the new file beside the old
        free = shutil.disk_usage(self.run.path).free
        if free < needed:
            raise OSError(
                f"{self.run.path} has {free / 1e6:.0f} MB free and checkpoints take "
                f"{needed / 1e6:.0f} MB: free some space or choose another folder"
            )


def state(run: Run) -> Literal["new", "under way", "trained", "measured"]:
    """Say how far the run in this run's folder has come; a run in memory is new.

    A folder in which no step was taken is new as well: a first try with a setting that could not
    work must not bind the second.

    Raises:
        ValueError: If a run was begun there with another configuration.
    """
    if run.path is None or not (run.path / "config.json").is_file():
        return "new"
    old = Run.load(run.path)
    stopped = (run.path / "checkpoint.safetensors").is_file()
    weights = (run.path / "model.safetensors").is_file()
    if not (stopped or weights or old.history or old.results):
        return "new"
    refuse_other_config(old.config, run)
    if old.results:
        return "measured"
    return "trained" if weights and not stopped else "under way"


def refuse_other_config(recorded: Mapping[str, Any], run: Run) -> None:
    """Raise if a run in this folder was started with another configuration.

    Raises:
        ValueError: Naming the fields that differ and both values.
    """
    if "method" in recorded:  # a setting that is younger than the run had its default then
        full = preset_of(recorded)
        recorded = {
            key: asdict(getattr(full, key)) if isinstance(value, Mapping) else value
            for key, value in recorded.items()
        }

    def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in config.items():
            if isinstance(value, Mapping):
                out |= flat(value, f"{prefix}{key}.")
            else:
                out[prefix + key] = list(value) if isinstance(value, tuple) else value
        return out

    old, new = flat(recorded), flat(run.config)
    differ = [
        f"{key} (recorded {old.get(key)!r}, asked for {new.get(key)!r})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in (*HOW, *WHERE)
    ]
    if differ:
        raise ValueError(
            f"{run.path} holds a run with another configuration: {'; '.join(differ)}. "
            "Go on with the recorded one, or choose another folder"
        )
