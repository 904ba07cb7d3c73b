"""The shell command that trains what a configuration says."""

import shlex
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from cmssf_lib.presets import preset
from cmssf_lib.runs.setup import preset_of


def train_command(config: Mapping[str, Any]) -> str:
    """Return the ``cmssf train`` line of a run: its preset, and what is otherwise than there.

    Raises:
        ValueError: If it was not trained by ``cmssf train``, or its preset is not known.
    """
    recorded, usual = preset_of(config), preset(config["preset"], config["method"])
    sections = [name for name, value in config.items() if isinstance(value, Mapping)]
    changes = [
        f"--set {shlex.quote(f'{section}.{change}')}"
        for section in sections
        for change in _changes(getattr(usual, section), getattr(recorded, section))
    ]
    return " ".join(["cmssf train", config["method"], "--preset", config["preset"], *changes])


def _changes(usual: Any, recorded: Any) -> list[str]:
    """List the fields that differ, as "field=value" or "section.field=value"."""
    found = []
    for name in (field.name for field in fields(usual)):
        old, new = getattr(usual, name), getattr(recorded, name)
        if is_dataclass(old):
            found += [f"{name}.{change}" for change in _changes(old, new)]
        elif old != new and new is not None:
            text = ",".join(map(str, new)) if isinstance(new, tuple) else str(new)
            found.append(f"{name}={text}")
    return found
