"""Settings that are checked, field by field, when they are made.

The type of a field says which values it may have: ``lr: PositiveFloat``, or
``norm: Literal["batch", "group"]``. pydantic enforces it, and the command line reads its choices
from it. Rules that involve two fields, or the data, are checked where the values are used.
"""

import json
from collections.abc import Mapping
from functools import wraps
from types import GenericAlias
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

Kind = TypeVar("Kind")
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
#: The least and the largest value of a number, by the name of its field. Beyond them it would
#: overflow, fill the memory or take for ever, and the error would blame something else.
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("depth", "heads", "draws", "local_crops", "cached_views"), (0, 1000)),
    **dict.fromkeys(("image_size", "local_size", "patch_size", "mels", "max_length"), (0, 4096)),
    **dict.fromkeys(("width", "hidden", "dim", "rank", "bottleneck"), (0, 2**14)),
    **dict.fromkeys(("temperature", "student_temperature", "teacher_temperature"), (1e-3, 1e3)),
    "mean": (-1e3, 1e3),
    "std": (1e-3, 1e3),
    "seed": (-(2**62), 2**62),  # a data set doubles it, and torch takes 64 bits
}
USUAL: dict[type, tuple[float, float]] = {int: (0, 10**7), float: (0, 1e9)}


@dataclass_transform(frozen_default=True)
def settings(kind: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass that rejects unknown fields and invalid values.

    Raises:
        ValueError: On construction, if a field is unknown or invalid. The message names each such
            field and says what it may be.
    """
    kinds = kind.__annotations__
    kind.__annotations__ = {name: _limited(name, kinds[name]) for name in kinds}
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


def _limited(name: str, kind: Any) -> Any:
    """Return the type of a field with limits for its numbers, those in a tuple included."""
    base, *marks = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(base) is tuple:
        return GenericAlias(tuple, tuple(_limited(name, part) for part in get_args(base)))
    if base not in (int, float):
        return kind
    least, largest = (base(limit) for limit in LIMITS.get(name, USUAL[base]))
    if least == 0 and any(hasattr(mark, "gt") for mark in marks):  # PositiveFloat excludes 0 itself
        return Annotated[base, Field(le=largest), *marks]
    return Annotated[base, Field(ge=least, le=largest), *marks]  # the later ones win


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
