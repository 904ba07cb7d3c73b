"""What all losses share: they compute in float32 at least, and refuse what is no pair."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import reduce, wraps
from typing import Any, ParamSpec

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

P = ParamSpec("P")


def in_float32(loss: Callable[P, Float[Tensor, "..."]]) -> Callable[P, Float[Tensor, "..."]]:
    """Let a loss compute in float32 at least, whatever it is given.

    In half precision a softmax of sharp similarities rounds a small loss to zero and its gradient
    to something else. So tensors in half precision are widened, and autocast is switched off for
    the loss: it would take the products in half precision all the same. Tensors of different
    precision are computed in the finest among them; float64 stays float64. Gradients come back in
    the precision that was given.
    """
    call: Callable[..., Tensor] = loss

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        floats = _floats([*args, *kwargs.values()])
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


def _floats(values: Sequence[Any]) -> list[Tensor]:
    """Return the floating-point tensors among the values and in the lists among them."""
    found = []
    for x in values:
        if isinstance(x, list | tuple):
            found += _floats(x)
        elif isinstance(x, Tensor) and x.is_floating_point():
            found.append(x)
    return found


def require_pairs(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse embeddings that leave nothing to tell apart.

    Raises:
        ValueError: If they are no pairs (see `require_shapes`), or fewer than two.
    """
    require_shapes(a, b)
    if len(a) < 2:
        raise ValueError(
            f"a contrastive loss needs at least two pairs, got {len(a)}: without a second pair "
            "there is no negative and the loss is 0 whatever the model does. Use a larger batch, "
            "or drop the last incomplete one."
        )


def require_shapes(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> None:
    """Refuse embeddings that are not pairs.

    Raises:
        ValueError: If the shapes differ or are not ``(pairs, dim)``, or there is no pair.
    """
    if a.ndim != 2 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            "expected two of the same shape (pairs, dim), row i of one belonging to row i of the "
            "other, and at least one pair."
        )


def require_temperature(temperature: float, name: str = "temperature") -> None:
    """Refuse a temperature that would turn the similarities around or blow them up.

    Raises:
        ValueError: If it is not a positive, finite number.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"{name} is {temperature}; it divides the similarities: give > 0.")
