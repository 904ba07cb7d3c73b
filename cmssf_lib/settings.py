"""Settings that are checked, field by field, when they are made.

What a field may be is its type, ``lr: PositiveFloat`` or ``norm: Literal["batch", "group"]``:
pydantic sees to it, and the command line takes its choices from there. What depends on two fields,
or on the data, is refused where it is used.
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
    """Make a class a frozen dataclass that takes no unknown field and no impossible value.

    Raises:
        ValueError: When one is made: names the fields, and says what each may be.
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
    """Make settings of what JSON holds.

    Args:
        kind: A class that `settings` made.
        values: Field → value.

    Raises:
        ValueError: As `settings`, if a field is unknown (a later version wrote it), missing, of
            another type or out of bounds.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        raise ValueError(f"not the settings of a {kind.__name__}: {_faults(error)}") from None


def _faults(error: ValidationError) -> str:
    """Say in one line which fields are wrong, what each may be, and what it was."""
    said = []
    for fault in error.errors():
        got = "" if fault["type"] == "missing" else f", got {fault['input']!r}"
        said.append(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}{got}")
    return "; ".join(said)
