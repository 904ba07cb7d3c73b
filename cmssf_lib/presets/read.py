"""Configurations read back from JSON."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from cmssf_lib.presets.configs import ViewsConfig

T = TypeVar("T")


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Fill a configuration from JSON: lists become tuples, unknown fields are an error.

    Args:
        kind: One of the configurations; a mapping inside it is a `ViewsConfig`, whatever the
            field is called.
        values: Field → value; a field that is missing has its default.

    Raises:
        ValueError: If a field is unknown, as in what a later version wrote.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"unknown field(s) for {kind.__name__}: {', '.join(unknown)}")
    read: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):  # the only dataclass inside another
            read[key] = from_json(ViewsConfig, value)
        else:
            read[key] = tuple(value) if isinstance(value, list) else value
    return kind(**read)
