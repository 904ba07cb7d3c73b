"""What a program runs on: its device, its memory, the processes beside it, its versions.

Several processes may train one model together, each on its part of the batch. A contrastive loss
compares everything with everything, so every process needs the vectors of all of them:
`from_all_processes` brings these together, and takes their gradients back to where they came from.
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
    """Return the accelerator that PyTorch finds (a GPU, say), or the processor without one.

    Here alone a device is chosen; ``CMSSF_DEVICE=cpu`` chooses the processor.
    """
    if (asked := os.environ.get("CMSSF_DEVICE", "")) not in ("", "cpu"):
        raise ValueError(f"CMSSF_DEVICE is {asked!r}: it may be 'cpu', or not set")
    # A build for GPUs names one as current on a machine that has none.
    there = torch.accelerator.is_available() and not asked
    return (torch.accelerator.current_accelerator() if there else None) or torch.device("cpu")


# --- processes that train together ---


def process_count() -> int:
    """Return how many processes train together; 1 without others."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_index() -> int:
    """Return which of them this is, from 0; ``accelerate launch`` says so before they have met."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def from_all_processes(rows: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return the rows of all processes, in their order; alone, the rows themselves.

    Every process then computes the same loss L of all rows. PyTorch's own ``all_gather`` stops
    there: to it the rows of others are constants, and so are, on the way back, one's own. Here
    the gradient of a row is the sum of what all processes found for it, p · dL/drow for p
    processes. `DistributedDataParallel` takes the *mean* over processes of the gradient of each
    weight, and what it arrives at is dL/dweight, as if one process had had the whole batch.

    Args:
        rows: Of any shape, equally many in every process, on the device that the processes
            exchange tensors by.
    """
    return rows if process_count() == 1 else _AllGather.apply(rows)


def in_any_process(here: bool, device: torch.device | str) -> bool:
    """Return whether something is true in any process; all must ask.

    Args:
        here: In this one.
        device: That they exchange tensors by: NCCL takes none of the processor's.
    """
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
    """Do what `torch.manual_seed` does, without a search for cards: a fiftieth of a short step."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def step_seed(*parts: int) -> int:
    """Mix whole numbers (a run's seed, an epoch, a step, a process) into one seed of 63 bits."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


# --- signals ---


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying of them, so that a step is never torn.

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
            # None: it was set outside Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# --- memory ---


def keep_freed_memory() -> None:
    """Let the process keep what a tensor gives back, for the next one of its size.

    As it comes, glibc returns every large block to the system as soon as it is free, and the
    next step asks for the same block again. The system then has to fill it with zeros, page by
    page: a fifth of forward and backward of the standard encoder on one core, at 256 pictures.
    No number changes; what was freed stays with the process. Only glibc, on Linux, needs this.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_gb() -> float:
    """Return the most memory this process has held, in gigabytes (10⁹ bytes)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    if sys.platform == "linux":  # getrusage would start at what the parent process held
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0]) / 1e9
    import resource  # not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return what a record says of memory: the process's peak, and a card's where there is one."""
    found = {"peak_memory_gb": round(peak_memory_gb(), 2)}
    if device.type == "cuda":
        found["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return found


# --- what a record says of it ---


def environment(
    device: torch.device | str = "cpu", before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe this machine, today: versions, processor, the library's commit where there is one.

    Args:
        device: That a run is on.
        before: The environment in which a run began that goes on here. If that was another
            machine, it is named under "earlier".
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
    """Name the graphics card of a recorded environment, or the processor and its threads."""
    if environment.get("device", "cpu") != "cpu":
        return str(environment["device"])
    threads = environment.get("threads", 1)
    return f"{environment.get('processor', 'CPU')}, {threads} thread{'s' * (threads != 1)}"


def machines(environment: Mapping[str, Any]) -> str:
    """Name the machines that a recorded run began on, if any, and the one it ended on."""
    return ", then ".join([*environment.get("earlier", []), machine_name(environment)])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder, say
        return "not installed"


def _commit() -> str:
    """Name the library's commit; nothing if it is no clone, or there is no git to ask."""
    root = Path(__file__).resolve().parents[1]
    # git would look further up: a library installed below another repository is no part of it.
    if not (root / ".git").exists():
        return ""
    asked = ["git", "describe", "--always", "--dirty"]
    with suppress(OSError):
        return subprocess.run(asked, cwd=root, capture_output=True, text=True).stdout.strip()
    return ""


def _processor() -> str:
    """Name the processor; Linux keeps the readable name in /proc."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
