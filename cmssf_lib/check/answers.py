"""Call a reader's function, read its result, and name the likely misconception."""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

#: The reader's function.
Answer = Callable[..., Any]
#: Checks a reader's function: returns a sentence about the right answer, or raises `Wrong`.
Exercise = Callable[[Answer], str]
CLOSE = 1e-4


class Wrong(Exception):
    """The answer is not right; the message names the likely misconception."""


# --- calling ---


def ask(answer: Answer, *arguments: Any, on: Mapping[type[Exception], str] | None = None) -> Any:
    """Call a reader's function with copies of the arguments.

    Args:
        answer: The function.
        *arguments: Its arguments, which are copied so that the caller's cannot change.
        on: Type of error → what this error usually means here.

    Returns:
        The result, never ``None``.

    Raises:
        Wrong: If the function raised an error, returned nothing, or changed a tensor among its
            arguments, on its own or in a list, tuple or dictionary.
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
    """Return a function ``draw(*shape)`` that draws standard normal numbers from this seed."""
    return partial(torch.randn, generator=torch.Generator().manual_seed(seed))


# --- reading ---


def number(returned: Any) -> float:
    """Read one number of any type.

    Raises:
        Wrong: If it is not a single number.
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
        returned: The result of the reader's function.
        shape: The expected shape.
        what: Description of the expected tensor, which the message continues with its shape.

    Raises:
        Wrong: If it is not a tensor of this shape.
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
    """Accept a right result; for a wrong one, name the misconception that leads to it.

    Args:
        returned: The result of the reader's function.
        right: The right result, a number or a tensor.
        otherwise: The message if no hint fits. It may contain ``{right}`` and ``{got}``, with
            an index or a format, such as ``{got[0]}`` or ``{got:.4f}``.
        hints: The table of misconceptions, as `refuse` takes it.
        what: Description of the right result, which the message about a wrong shape continues
            with the right shape.
        close: Absolute and relative tolerance.
        **shown: Further values for the placeholders of ``otherwise``.

    Raises:
        Wrong: If the result is wrong.
    """
    expected = tensor(right)
    single = expected.ndim == 0
    several = isinstance(returned, Tensor) and returned.numel() > 1
    got = tensor(number(returned)) if single and not several else tensor(returned)
    if same(got, expected, close):
        return
    refuse(hints or {}, got, close)
    if single:
        number(got)  # raises if there are several numbers
    else:
        shaped(got, tuple(expected.shape), what)
    raise Wrong(otherwise.format(right=brief(expected), got=brief(got), **shown))


def refuse(hints: Mapping[str, Any], returned: Any = torch.nan, close: float = CLOSE) -> None:
    """Raise the first hint of the table that fits, if any.

    Args:
        hints: Hint → the result to which its misconception leads (a number or a tensor), or
            whether the hint applies (``True`` or ``False``).
        returned: The result of the reader's function, to compare with those in the table.
        close: Absolute and relative tolerance.

    Raises:
        Wrong: If a hint fits; its message is the hint.
    """
    for hint, wrong in hints.items():
        if wrong if isinstance(wrong, bool) else same(returned, wrong, close):
            raise Wrong(hint)


def same(a: Any, b: Any, close: float = CLOSE) -> bool:
    """Return whether two numbers or tensors have the same shape and, up to rounding, values."""
    x, y = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    return x.shape == y.shape and bool(torch.allclose(x, y, atol=close, rtol=close))


def brief(values: Shaped[Tensor, "..."]) -> Any:
    """Convert a tensor to a number or nested lists for a message, with at most four decimals."""
    whole = bool(values.isfinite().all()) and torch.equal(values, values.round())
    return (values.long() if whole else values.double().round(decimals=4)).tolist()


def _tensors(given: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments, and in lists, tuples and dictionaries of them."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, list | tuple | dict):
        for part in given.values() if isinstance(given, dict) else given:
            yield from _tensors(part)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {str(value)[:60]!r}"
