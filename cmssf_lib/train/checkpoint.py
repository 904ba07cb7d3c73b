"""The checkpoint of an unfinished training: everything that an exact resume needs."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmssf_lib.files import damage_of, read_tensors, write_tensors

CHECKPOINT_FORMAT = "cmssf-checkpoint-2"


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
    with damage_of(path):
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
