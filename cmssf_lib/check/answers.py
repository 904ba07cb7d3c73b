"""Calling a reader's function, reading what it returns, and naming the likely misconception."""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

#: A reader's function.
Answer = Callable[..., Any]
#: Tries a reader's function: returns what was shown, or raises `Wrong`.
Exercise = Callable[[Answer], str]
CLOSE = 1e-4


class Wrong(Exception):
    """The answer is not right; the message names the likely misconception."""


# --- calling ---


def ask(answer: Answer, *arguments: Any, on: Mapping[type[Exception], str] | None = None) -> Any:
    """Call a reader's function with copies of the arguments.

    Args:
        answer: The function.
        *arguments: Copied, so that the caller's stay as they are.
        on: Error → what it usually means here.

    Returns:
        What it returned, never ``None``.

    Raises:
        Wrong: If it raised an error, returned nothing, or changed a tensor it was given, alone
            or in a list.
    """
    given = copy.deepcopy(arguments)
    try:
        returned = answer(*given)
    except Exception as error:
        hint = next((text for kind, text in (on or {}).items() if isinstance(error, kind)), "")
        raise Wrong(
            f"Your function stopped with {type(error).__name__}: {error}. {hint}".rstrip()
        ) from error
    if not all(map(torch.equal, _tensors(arguments), _tensors(given))):
        raise Wrong(
            "Your function changes the tensor that it is given; its caller may still need it. "
            "Make a new one."
        )
    if returned is None:
        raise Wrong("Your function returns nothing yet. Does it end in a return?")
    return returned


def normal(seed: int) -> Callable[..., Float[Tensor, "..."]]:
    """Return ``draw(*shape)``, which gives standard normal numbers, the same ones for a seed."""
    return partial(torch.randn, generator=torch.Generator().manual_seed(seed))


# --- reading ---


def number(returned: Any) -> float:
    """Read one number, of whatever kind.

    Raises:
        Wrong: If it is not one.
    """
    try:
        return float(returned)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"Expected one number; got {_kind(returned)}.") from error


def tensor(returned: Any) -> Float64[Tensor, "..."]:
    """Read a tensor, an array or a list of numbers, as float64.

    Raises:
        Wrong: If it is none of these.
    """
    try:
        return torch.as_tensor(returned).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"Expected a tensor of numbers; got {_kind(returned)}.") from error


def shaped(returned: Any, shape: tuple[int, ...], what: str) -> Float64[Tensor, "..."]:
    """Read a tensor of this shape.

    Args:
        returned: What the reader's function gave.
        shape: What it should have.
        what: What that is, in words that the shape may follow.

    Raises:
        Wrong: If it is no tensor, or one of another shape.
    """
    got = tensor(returned)
    if got.shape != shape:
        raise Wrong(f"Expected {what} {shape}; got {tuple(got.shape)}.")
    return got


# --- comparing ---


def compare(
    returned: Any,
    right: Any,
    otherwise: str = "Expected {right}; got {got}.",
    hints: Mapping[str, Any] | None = None,
    *,
    what: str = "a tensor of shape",
    close: float = CLOSE,
    **shown: Any,
) -> None:
    """Pass a right result on; for a wrong one, name the misconception that it fits.

    Args:
        returned: What the reader's function gave.
        right: What it should have given: a number, or a tensor.
        otherwise: What is said if no hint fits. It may show ``{right}`` and ``{got}``, or parts
            and formats of them, such as ``{got[0]}`` or ``{got:.4f}``.
        hints: The table of misconceptions, as `refuse` takes it.
        what: What the result is, in words that its shape may follow; said where it has another.
        close: How far apart numbers may be, absolutely and relatively.
        **shown: More that ``otherwise`` shows.

    Raises:
        Wrong: If the result is not right.
    """
    expected = tensor(right)
    single = expected.ndim == 0
    several = isinstance(returned, Tensor) and returned.numel() > 1
    got = tensor(number(returned)) if single and not several else tensor(returned)
    if same(got, expected, close):
        return
    refuse(hints or {}, got, close)
    if single:
        number(got)  # says so if these are several
    else:
        shaped(got, tuple(expected.shape), what)
    raise Wrong(otherwise.format(right=brief(expected), got=brief(got), **shown))


def refuse(hints: Mapping[str, Any], returned: Any = torch.nan, close: float = CLOSE) -> None:
    """Say the first hint of the table that fits.

    Args:
        hints: Misconception → what a function with it would have given (a number or a tensor),
            or whether it shows in some other way (``True`` or ``False``).
        returned: What the reader's function gave, where the table holds such results.
        close: How far apart numbers may be, absolutely and relatively.

    Raises:
        Wrong: With that hint; if none fits, nothing happens.
    """
    for hint, wrong in hints.items():
        if wrong if isinstance(wrong, bool) else same(returned, wrong, close):
            raise Wrong(hint)


def same(a: Any, b: Any, close: float = CLOSE) -> bool:
    """Whether two numbers or tensors agree, shape included, but for rounding."""
    x, y = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    return x.shape == y.shape and bool(torch.allclose(x, y, atol=close, rtol=close))


def brief(values: Shaped[Tensor, "..."]) -> Any:
    """Return numbers as a message shows them: a number, or lists of numbers, to four digits."""
    whole = bool(values.isfinite().all()) and torch.equal(values, values.round())
    return (values.long() if whole else values.double().round(decimals=4)).tolist()


def _tensors(given: Any) -> Iterator[Tensor]:
    """The tensors in arguments: themselves, and those in lists, tuples and dictionaries."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, list | tuple | dict):
        for part in given.values() if isinstance(given, dict) else given:
            yield from _tensors(part)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {str(value)[:60]!r}"
