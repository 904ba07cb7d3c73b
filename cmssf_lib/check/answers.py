"""Calling a reader's function, and taking what it returns with care."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

#: Tries a reader's function: returns what was shown, or raises `Wrong`.
Exercise = Callable[[Callable], str]
CLOSE = 1e-4


class Wrong(Exception):
    """The answer is not right; the message names the likely misconception."""


def ask(answer: Callable, *arguments: Any, on: Mapping[type[Exception], str] | None = None) -> Any:
    """Call a reader's function with copies of the arguments.

    Args:
        answer: The function.
        *arguments: Copied, so that the caller's stay as they are.
        on: Error → what it usually means here.

    Returns:
        What it returned, never ``None``.

    Raises:
        Wrong: If it raised an error, returned nothing, or changed a tensor it was given.
    """
    given = [a.clone() if isinstance(a, Tensor) else copy.copy(a) for a in arguments]
    try:
        returned = answer(*given)
    except Exception as error:
        hint = next((text for kind, text in (on or {}).items() if isinstance(error, kind)), "")
        raise Wrong(
            f"Your function stopped with {type(error).__name__}: {error}. {hint}".rstrip()
        ) from error
    for before, after in zip(arguments, given, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            raise Wrong(
                "Your function changes the tensor that it is given; its caller may still need it. "
                "Make a new one."
            )
    if returned is None:
        raise Wrong("Your function returns nothing yet. Does it end in a return?")
    return returned


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
        what: What that is, in words.

    Raises:
        Wrong: If it is no tensor, or one of another shape.
    """
    got = tensor(returned)
    if got.shape != shape:
        raise Wrong(f"Expected {what}, shape {shape}; got {tuple(got.shape)}.")
    return got


def same(a: Any, b: Any) -> bool:
    """Whether two numbers or tensors agree, shape included, but for rounding."""
    x, y = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    return x.shape == y.shape and bool(torch.allclose(x, y, atol=CLOSE, rtol=CLOSE))


def first_hint(returned: Any, hints: Mapping[str, Any]) -> str | None:
    """Return the hint of the first wrong result that this is.

    Args:
        returned: What the reader's function gave.
        hints: Misconception → what it would have given.
    """
    return next((hint for hint, wrong in hints.items() if same(returned, wrong)), None)


def refuse(returned: Any, hints: Mapping[str, Any]) -> None:
    """Pass a result on, unless it is one of the wrong ones.

    Args:
        returned: What the reader's function gave.
        hints: Misconception → what it would have given.

    Raises:
        Wrong: With the first hint that fits.
    """
    if hint := first_hint(returned, hints):
        raise Wrong(hint)


def brief(values: Shaped[Tensor, "..."]) -> list[float]:
    """Return numbers as a message shows them."""
    return [round(v, 3) for v in values.tolist()]


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {str(value)[:60]!r}"
