"""Settings from the command line: ``--set FIELD=VALUE``."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

from cmssf_lib.presets import Preset


def change(chosen: Preset, assignments: Sequence[str]) -> Preset:
    """Return a preset with some numbers changed.

    Args:
        chosen: The preset to start from.
        assignments: Such as "train.lr=0.001" or "cmssf.views.flip=0.5".

    Raises:
        ValueError: If an assignment names no field of the preset, or its value is of another
            kind than the field's.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes FIELD=VALUE, such as train.lr=0.001; got {assignment!r}")
        chosen = _changed(chosen, name.split("."), text, assignment)
    return chosen


def _changed(config: Any, path: Sequence[str], text: str, assignment: str) -> Any:
    known = [field.name for field in fields(config)] if is_dataclass(config) else []
    if not known:
        raise ValueError(f"--set {assignment}: {config!r} has no fields")
    if path[0] not in known:
        raise ValueError(f"--set {assignment}: no field {path[0]!r}; there are {', '.join(known)}")
    old = getattr(config, path[0])
    if len(path) > 1:
        return replace(config, **{path[0]: _changed(old, path[1:], text, assignment)})
    if is_dataclass(old):
        inside = ", ".join(field.name for field in fields(old))
        raise ValueError(f"--set {assignment}: name one of its fields: {inside}")
    try:
        new = _read(old, text)
    except ValueError as error:
        raise ValueError(
            f"--set {assignment}: {path[0]} is a {type(old).__name__}, such as {old!r}"
        ) from error
    parts = get_args(get_type_hints(type(config))[path[0]])
    if isinstance(new, tuple) and Ellipsis not in parts and len(new) != len(parts):
        raise ValueError(
            f"--set {assignment}: {path[0]} takes {len(parts)} values, such as "
            f"{','.join(map(str, old))}"
        )
    return replace(config, **{path[0]: new})


def _read(old: Any, text: str) -> Any:
    """Read a value of the same kind as the old one."""
    if isinstance(old, bool):  # bool("False") is True
        if text not in ("True", "False"):
            raise ValueError(text)
        return text == "True"
    if old is None:  # a path, or a name, that is not set
        return text
    if isinstance(old, tuple):
        return tuple(_read(old[0] if old else 0.0, part) for part in text.split(",") if part)
    return type(old)(text)
