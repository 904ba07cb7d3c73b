"""Settings refuse, field by field, what is unknown, of another type or out of bounds."""

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, strategies as st
from pydantic import PositiveInt

from cmssf_lib.presets import METHODS, PRESETS, preset
from cmssf_lib.settings import BelowOne, Fraction, from_json, settings

EVERY_PRESET = [preset(name, method) for name in PRESETS for method in METHODS]
#: One of each class that holds settings, the preset itself included.
EACH = {type(part).__name__: part for p in EVERY_PRESET for part in (p, *vars(p).values())}
EACH = {name: part for name, part in EACH.items() if is_dataclass(part)}
EACH["ViewsConfig"] = PRESETS["quick"].cmssf.views
FIELDS = [(part, f.name) for part in EACH.values() for f in fields(part)]


def kind_of(part: Any, field: str) -> Any:
    return get_type_hints(type(part), include_extras=True)[field]


def impossible(kind: Any) -> list[Any]:
    """Values that a field of this kind cannot have; None is no value of any."""
    if get_origin(kind) is Annotated:
        base, *bounds = get_args(kind)
        found = impossible(base)
        for bound in bounds:
            for b in getattr(bound, "metadata", [bound]):
                found += [base(b.gt)] if getattr(b, "gt", None) is not None else []
                found += [base(b.ge) - 1] if getattr(b, "ge", None) is not None else []
                found += [base(b.lt)] if getattr(b, "lt", None) is not None else []
                found += [base(b.le) + 1] if getattr(b, "le", None) is not None else []
        return found
    if get_origin(kind) is Literal:
        return ["no such choice", 3]
    if get_origin(kind) is tuple:
        first = get_args(kind)[0]
        return [3, "ab", *[(bad,) * len(get_args(kind)) for bad in impossible(first)]]
    others: dict[Any, list[Any]] = {
        int: ["3", 2.5, True],
        float: ["0.1", math.nan, math.inf],
        bool: ["yes", 1],
        str: [3],
    }
    return others.get(kind, [3.5])


@pytest.mark.parametrize(("part", "field"), FIELDS, ids=lambda x: getattr(type(x), "__name__", x))
def test_no_field_takes_what_it_cannot_mean(part, field):
    for value in [*impossible(kind_of(part, field)), {}]:
        with pytest.raises(ValueError, match=rf"^{type(part).__name__}: {field}\b") as error:
            replace(part, **{field: value})
        assert "\n" not in str(error.value)  # one sentence, not a report of pydantic's
        assert "pydantic" not in str(error.value)


@pytest.mark.parametrize("part", EACH.values(), ids=EACH)
def test_settings_stay_what_they_are(part):
    with pytest.raises(ValueError, match="hiden: Unexpected keyword"):
        replace(part, hiden=3)
    with pytest.raises(FrozenInstanceError):
        setattr(part, fields(part)[0].name, None)
    assert replace(part) == copy.deepcopy(part) == pickle.loads(pickle.dumps(part)) == part
    assert from_json(type(part), json.loads(json.dumps(asdict(part)))) == part


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"^SimCLRConfig: hidden: Field required; dim: Field req"):
        type(EACH["SimCLRConfig"])()


@settings
class Some:
    """Of every bound there is."""

    count: PositiveInt = 1
    part: Fraction = 0.0
    less: BelowOne = 0.0


@given(st.floats(), st.integers())
def test_bounds_are_where_they_say(x, n):
    for field, good, value in (
        ("part", 0 <= x <= 1, x),
        ("less", 0 <= x < 1, x),
        ("count", n > 0, n),
    ):
        if good:
            assert getattr(Some(**{field: value}), field) == value
        else:
            with pytest.raises(ValueError, match=f"^Some: {field}: Input should be"):
                Some(**{field: value})
