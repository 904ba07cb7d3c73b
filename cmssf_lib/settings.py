"""Settings that are checked, field by field, when they are made.

The type of a field says which values it may have: ``lr: PositiveFloat``, or
``norm: Literal["batch", "group"]``. pydantic enforces it, and the command line reads its choices
from it. Rules that involve two fields, or the data, are checked where the values are used.
"""

import json
from collections.abc import Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

Kind = TypeVar("Kind")
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


@dataclass_transform(frozen_default=True)
def settings(kind: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass that rejects unknown fields and invalid values.

    Raises:
        ValueError: On construction, if a field is unknown or invalid. The message names each such
            field and says what it may be.
    """
    made: Any = dataclass(
        kind, frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    )
    checked = made.__init__

    @wraps(checked)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise ValueError(f"{kind.__name__}: {_faults(error)}") from None

    made.__init__ = __init__
    return made


def from_json(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Build settings from decoded JSON.

    Args:
        kind: A class decorated with `settings`.
        values: Field → value.

    Raises:
        ValueError: If a field is unknown (written by a later version, say), missing, of the wrong
            type or out of bounds.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        raise ValueError(f"not the settings of a {kind.__name__}: {_faults(error)}") from None


def _faults(error: ValidationError) -> str:
    """Say in one line which fields are wrong, what each may be, and what was given."""
    said = []
    for fault in error.errors():
        got = "" if fault["type"] == "missing" else f", got {fault['input']!r}"
        said.append(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}{got}")
    return "; ".join(said)
