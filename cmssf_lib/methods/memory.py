"""How much memory a step needs, measured on two pictures before it is asked for all of them."""

from collections.abc import Callable

import psutil
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


def bytes_a_picture(
    network: nn.Module,
    forward: Callable[[Float[Tensor, "b 3 size size"]], Float[Tensor, "b width"]],
    size: int,
) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, for each picture.

    It is run on one and on two black pictures; the difference is what a picture adds. Nothing is
    left behind: no gradient, no running mean moved, no random number drawn.

    Args:
        network: What is run; put into evaluation mode for the measurement.
        forward: From pictures to an output.
        size: Side of a picture in pixels.
    """
    device = next(network.parameters()).device
    modes = {module: module.training for module in network.modules()}
    network.eval()
    totals = []
    try:
        for count in (1, 2):
            kept: dict[int, torch.UntypedStorage] = {}

            def keep(
                tensor: Shaped[Tensor, "..."], kept: dict[int, torch.UntypedStorage] = kept
            ) -> Shaped[Tensor, "..."]:  # a tensor that several operations keep is there once
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage
                return tensor

            pictures = torch.zeros(count, 3, size, size, device=device)
            with (
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            ):
                forward(pictures)
            totals.append(sum(storage.nbytes() for storage in kept.values()))
    finally:
        for module, training in modes.items():
            module.training = training
    return totals[1] - totals[0]


def free_bytes(device: torch.device) -> int:
    """Return the memory that can still be had on a device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(psutil.virtual_memory().available)
