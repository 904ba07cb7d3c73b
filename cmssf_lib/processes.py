"""Several processes that train one model together, each on its part of the batch.

A contrastive loss compares everything with everything, so every process needs the vectors of all
of them. `gather` brings these together, and takes their gradients back to where they came from.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def count() -> int:
    """Return how many processes train together; 1 without others."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0; ``accelerate launch`` says so before they have met."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def gather(rows: Shaped[Tensor, "b *rest"]) -> Shaped[Tensor, "all *rest"]:
    """Return the rows of all processes, in their order; alone, the rows themselves.

    Every process then computes the same loss L of all rows. PyTorch's own ``all_gather`` stops
    there: to it the rows of others are constants, and so are, on the way back, one's own. Here
    the gradient of a row is the sum of what all processes found for it, p · dL/drow for p
    processes. `DistributedDataParallel` takes the *mean* over processes of the gradient of each
    weight, and what it arrives at is dL/dweight, as if one process had had the whole batch.

    Args:
        rows: Equally many in every process.
    """
    return rows if count() == 1 else _Gather.apply(rows)


def anywhere(here: bool) -> bool:
    """Return whether something is true in any process; all must ask."""
    return here if count() == 1 else bool(gather(torch.tensor([here])).any())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(count())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(count())[rank()]
