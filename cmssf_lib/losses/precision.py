"""What all losses share: arithmetic in at least float32, and checks of their arguments."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import reduce, wraps
from typing import Any, ParamSpec

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

P = ParamSpec("P")


def in_float32(loss: Callable[P, Float[Tensor, "..."]]) -> Callable[P, Float[Tensor, "..."]]:
    """Make a loss compute in at least float32, whatever the precision of its arguments.

    In half precision, the softmax of large logits rounds a small loss to zero and distorts its
    gradient. So half-precision tensors are converted, and autocast is switched off inside the
    loss, where it would still compute matrix products in half precision. If the tensors differ in
    precision, the highest is used (0-d tensors, such as a logit scale, do not count), so float64
    stays float64. Each gradient comes back in the precision of its tensor.
    """
    call: Callable[..., Tensor] = loss

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        floats = list(_floats([*args, *kwargs.values()]))
        dtype = reduce(torch.promote_types, (x.dtype for x in floats if x.ndim), torch.float32)

        def widened(x: Any) -> Any:
            if isinstance(x, list | tuple):
                return [widened(each) for each in x]
            return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

        device = floats[0].device.type if floats else "cpu"
        known = torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if known else nullcontext():
            return call(*map(widened, args), **{k: widened(x) for k, x in kwargs.items()})

    return computed


def _floats(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield all floating-point tensors in the values, including those in nested lists."""
    for x in values:
        if isinstance(x, list | tuple):
            yield from _floats(x)
        elif isinstance(x, Tensor) and x.is_floating_point():
            yield x


def require_pairs(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse embeddings that give a contrastive loss no negatives.

    Raises:
        ValueError: If they are not pairs (see `require_shapes`), or fewer than two.
    """
    require_shapes(a, b)
    if len(a) < 2:
        raise ValueError(
            f"a contrastive loss needs at least two pairs, got {len(a)}: without negatives it is "
            "always 0. Use a larger batch, or drop the last incomplete one."
        )


def require_shapes(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse embeddings that are not pairs.

    Raises:
        ValueError: If the shapes differ or are not ``(pairs, dim)``, or there is no pair.
    """
    if a.ndim != 2 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected two of the "
            "same shape (pairs, dim) with at least one pair, row i of one belonging to row i of "
            "the other."
        )


def require_temperature(temperature: float, name: str = "temperature") -> None:
    """Refuse a temperature that would reverse the similarities or make them infinite.

    Raises:
        ValueError: If it is not a positive, finite number.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"{name} is {temperature}; expected a finite number > 0.")
