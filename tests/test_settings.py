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
    seed: int = 0


@given(st.floats(), st.integers() | st.integers(-(2**63), 2**65))
def test_bounds_are_where_they_say(x, n):
    for field, good, value in (
        ("part", 0 <= x <= 1, x),
        ("less", 0 <= x < 1, x),
        ("seed", abs(n) <= 2**62, n),
        ("count", 0 < n <= 10**7, n),
    ):
        if good:
            assert getattr(Some(**{field: value}), field) == value
        else:
            with pytest.raises(ValueError, match=f"^Some: {field}: Input should be"):
                Some(**{field: value})


def numbers(kind: Any) -> Any:
    """The kinds of number in a type, each with its marks."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(base) is tuple:
        return [found for part in get_args(base) for found in numbers(part)]
    return [kind] if base in (int, float) else []


@pytest.mark.parametrize(("part", "field"), FIELDS, ids=lambda x: getattr(type(x), "__name__", x))
def test_no_number_is_so_large_that_something_else_is_blamed(part, field):
    """A seed of 10²⁰ was an overflow of torch's, a deviation of 10⁻⁴⁰ the learning rate's fault."""
    kind = kind_of(part, field)
    for number in numbers(kind):
        base = get_args(number)[0]
        for value in (base(10**20), base(-(10**20)), *([1e308] if base is float else [])):
            value = (value,) * len(get_args(kind)) if get_origin(kind) is tuple else value
            with pytest.raises(ValueError, match=rf"^{type(part).__name__}: {field}\b"):
                replace(part, **{field: value})
    if field in ("std", "temperature", "teacher_temperature", "student_temperature"):
        tiny = 1e-40 if field != "std" else (1e-40,) * 3
        with pytest.raises(ValueError, match=f"{field}.*greater than or equal to 0\\.0"):
            replace(part, **{field: tiny})
