"""The most memory that training holds at once, whatever the process did before it."""

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")  # of Linux


def reset_peak(device: torch.device) -> None:
    """Measure the peak from here on; where a system has no such means, it stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)  # what glibc keeps of freed memory would count as held
        with suppress(OSError):
            (PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Return the peak: memory of the GPU, or that of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text())
    except OSError:
        found = None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
