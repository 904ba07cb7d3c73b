"""What a run records about the machine it ran on: versions, processor, commit, peak memory."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("cmssf", "torch", "torchvision", "timm", "transformers", "accelerate", "numpy")


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
