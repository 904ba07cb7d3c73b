"""What a training step costs, counted and not timed: the same number on every machine."""

import copy

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cmssf_lib.data import Batch


def flops_per_picture(method: nn.Module, batch: Batch) -> float:
    """Count the floating-point operations of a training step, forward and back, for one picture.

    All that the step computes counts: both views, teachers, heads, a decoder, the texts. Of the
    operations, those of matrix products, convolutions and attention do, a multiplication and an
    addition as two. Norms and activations are left out, and so is the optimizer.

    Args:
        method: Left as it is; a copy takes the step.
        batch: Of the training's own size: captions that several pictures share are encoded once.
    """
    twin = copy.deepcopy(method).train()
    twin.zero_grad()
    devices = [batch.images.device] if batch.images.is_cuda else []
    # Attention as plain matrix products: the counter knows not all of its fast versions, and a
    # processor and a graphics card have different ones.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.random.fork_rng(devices), plain:
        twin(batch)  # a first step may look whether it fits into memory, as DINO's does
        with FlopCounterMode(display=False) as counter:
            twin(batch)["loss"].backward()
    return counter.get_total_flops() / len(batch)
