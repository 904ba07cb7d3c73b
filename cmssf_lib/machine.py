"""The machine a program runs on: device, other processes, signals.

Several processes may train one model together, each on its part of the batch. A contrastive loss
compares every row with every other row, so each process needs the embeddings of all of them:
`from_all_processes` gathers them and sends their gradients back to where they came from.
"""

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def fastest_device() -> torch.device:
    """Return the accelerator that PyTorch finds (a GPU, say), or the CPU if there is none.

    This is the only place where a device is chosen. ``CMSSF_DEVICE=cpu`` forces the CPU.
    """
    if (asked := os.environ.get("CMSSF_DEVICE", "")) not in ("", "cpu"):
        raise ValueError(f"CMSSF_DEVICE is {asked!r}: set it to 'cpu', or leave it unset")
    # A CUDA build of PyTorch names a current accelerator even on a machine without one.
    there = torch.accelerator.is_available() and not asked
    return (torch.accelerator.current_accelerator() if there else None) or torch.device("cpu")


# --- processes that train together ---


def process_count() -> int:
    """Return the number of processes that train together; 1 if this one trains alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_index() -> int:
    """Return this process's index, from 0. ``accelerate launch`` sets it before they connect."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def from_all_processes(rows: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return the rows of all processes, in process order; with one process, the rows themselves.

    Every process then computes the same loss L of all rows. PyTorch's own ``all_gather`` lets no
    gradient through. Here the gradient of a row is the sum of the gradients that all processes
    computed for it: p · dL/drow for p processes. `DistributedDataParallel` averages the gradient
    of each weight over the processes, which cancels the p: each weight gets dL/dweight, as if one
    process had held the whole batch.

    Args:
        rows: Of any shape, the same in every process, on the device over which the processes
            communicate.
    """
    return rows if process_count() == 1 else _AllGather.apply(rows)


def in_any_process(here: bool, device: torch.device | str) -> bool:
    """Return whether something is true in any process. All processes must call this.

    Args:
        here: Whether it is true in this process.
        device: The device over which the processes communicate: NCCL cannot send CPU tensors.
    """
    if process_count() == 1:
        return here  # a GPU need not be waited for
    return bool(from_all_processes(torch.tensor([here], device=device)).any())


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(process_count())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(process_count())[process_index()]


def seed_all(seed: int) -> None:
    """Call `torch.manual_seed`, but skip its search for GPUs, which takes 2 % of a short step."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def hide_bars(hidden: bool = False) -> bool | None:
    """Return tqdm's ``disable``: true also if $TQDM_DISABLE is set, which tqdm itself leaves out.

    Otherwise ``None``, which hides a bar where there is no terminal.
    """
    return hidden or bool(os.environ.get("TQDM_DISABLE")) or None


def step_seed(*parts: int) -> int:
    """Mix whole numbers (a run's seed, an epoch, a step, a process) into one seed of 63 bits."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, so that a step is finished before the program stops.

    A second Ctrl-C stops at once, without a checkpoint.
    """
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            # None: the handler was not installed from Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
