"""Memory of the process: how much there was, and how it is held."""

import ctypes
import sys
from pathlib import Path

import psutil

# glibc's names and numbers, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let the process keep what a tensor gives back, for the next one of its size.

    As it comes, glibc returns every large block to the system as soon as it is free, and the
    next step asks for the same block again. The system then has to fill it with zeros, page by
    page: a fifth of forward and backward of the standard encoder on one core, at 256 pictures.
    No number changes. What was freed stays with the process until it ends. Elsewhere than on
    Linux with glibc, nothing happens.

    References:
        PyTorch's performance tuning guide recommends other allocators (jemalloc, TCMalloc) for
        the same reason. This needs none.
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
