"""The peak of the memory that training holds, without what the process held before."""

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")  # of Linux


def reset_peak(device: torch.device) -> None:
    """Measure the peak from here on; systems other than Linux can only measure that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)  # returns freed memory, which would count otherwise
        with suppress(OSError):
            (PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Return the peak: memory of the GPU, or that of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text())
    except OSError:
        match = None
    return 1024 * (int(match[1]) if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
