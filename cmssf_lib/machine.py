"""The machine a program runs on: device, memory, other processes, versions.

Several processes may train one model together, each on its part of the batch. A contrastive loss
compares every row with every other row, so each process needs the embeddings of all of them:
`from_all_processes` gathers them and sends their gradients back to where they came from.
"""

import ctypes
import hashlib
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

PACKAGES = ("cmssf", "torch", "torchvision", "timm", "transformers", "accelerate", "numpy")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names and numbers, from malloc.h


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


# --- memory ---


def keep_freed_memory() -> None:
    """Let the process reuse the memory of freed tensors instead of returning it to the system.

    By default glibc returns each large block as soon as it is free, and the next step asks for
    the same block again. The system then has to fill it with zeros, page by page: a fifth of the
    time for forward and backward of the standard encoder on one core, at 256 pictures. No result
    changes, but the process keeps its peak memory. Only glibc, on Linux, needs this.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_gb() -> float:
    """Return the peak memory of this process, in gigabytes (10⁹ bytes)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    if sys.platform == "linux":  # getrusage would start at the parent process's peak
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0]) / 1e9
    import resource  # not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the peak memory for a run's record: the process's, and on a GPU also the GPU's."""
    found = {"peak_memory_gb": round(peak_memory_gb(), 2)}
    if device.type == "cuda":
        found["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return found


# --- what a run records about it ---


def environment(
    device: torch.device | str = "cpu", before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe this machine today: versions, processor, the library's commit if there is one.

    Args:
        device: The device of the run.
        before: The recorded environment of a run that is being resumed. If it was on another
            machine, that one is named under "earlier".
    """
    device = torch.device(device)
    here: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "commit": _commit() or "not in a repository",
    }
    if before:
        moved = [machine_name(before)] if machine_name(before) != machine_name(here) else []
        if earlier := [*before.get("earlier", []), *moved]:
            here["earlier"] = earlier
    return here


def machine_name(environment: Mapping[str, Any]) -> str:
    """Return the name of a recorded environment's GPU, or of its CPU with the thread count."""
    if environment.get("device", "cpu") != "cpu":
        return str(environment["device"])
    threads = environment.get("threads", 1)
    return f"{environment.get('processor', 'CPU')}, {threads} thread{'s' * (threads != 1)}"


def machines(environment: Mapping[str, Any]) -> str:
    """Return the names of all machines that a recorded run ran on, in order."""
    return ", then ".join([*environment.get("earlier", []), machine_name(environment)])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # imported from a folder, say
        return "not installed"


def _commit() -> str:
    """Return the library's commit, or "" if it is not a git clone or git is not installed."""
    root = Path(__file__).resolve().parents[1]
    # git would also search the parent folders, and find a repository the library is not part of.
    if not (root / ".git").exists():
        return ""
    asked = ["git", "describe", "--always", "--dirty"]
    with suppress(OSError):
        return subprocess.run(asked, cwd=root, capture_output=True, text=True).stdout.strip()
    return ""


def _processor() -> str:
    """Return the name of the processor; Linux keeps the readable one in /proc."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
