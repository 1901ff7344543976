"""The machine of a run: device, threads and kernels are set up, hardware and versions described for the record."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmark.errors import ConfigError
from benchmark.report.fields import Environment
from benchmark.runtime import sharing

NATIVE_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))  # flags of x86 and of Arm
BUSY = 0.75  # of the cores: before it trains, this process itself keeps fewer busy
AMPERE = (8, 0)  # the first compute capability with bfloat16
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # they decide which kernels run
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 2**31 - 1  # bytes at the end of the heap that the process keeps
LARGEST = 2**25  # bytes of a block that comes from the heap: the largest bound that glibc takes


def native_precision() -> str:
    """Return the default precision of training: bfloat16 where the device computes it natively, else float32.

    Native are CUDA from Ampere on, avx512_bf16 or amx_bf16, and Arm's bf16. Nothing is measured, so that the answer is
    always the same. Elsewhere torch emulates bfloat16, 35 to 60 times slower than float32 (a product of 512 x 512 on
    AVX2).
    """
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.get_device_capability() >= AMPERE else "float32"
    return "bfloat16" if NATIVE_BFLOAT16.intersection(_flags()) else "float32"


def speed_warnings(precision: str) -> Iterator[str]:
    """Yield what makes training slow on this machine: an emulated precision, and cores that others keep busy.

    The threads of a step wait for each other by spinning: two threads on two busy cores took 20 times as long as one.
    """
    if precision not in ("float32", native_precision()):
        yield (
            f"this device does not compute {precision} natively, and torch emulates it: on a processor that is 35 to "
            f"60 times slower than float32. Leave Pretraining.precision at 'auto', or set it to 'float32'."
        )
    load, cores = os.getloadavg()[0], usable_cores()
    if torch.get_num_threads() > 1 and load >= BUSY * cores:
        yield (
            f"other processes keep these cores busy (load {load:.1f} on {cores}). Threads that wait for each other can "
            f"then be many times slower than one: stop the others, or set OMP_NUM_THREADS=1 in the environment."
        )


def use_device() -> torch.device:
    """Choose the device, take all cores that the process may use, and make arithmetic repeatable.

    With SSL_BENCHMARK_DETERMINISTIC=0 in the environment a GPU may use faster kernels, whose sums differ from run to
    run in their last bits. Float32 stays float32 in either case: no convolution rounds its factors to TF32.
    """
    setting = os.environ.get("SSL_BENCHMARK_DETERMINISTIC", "1")
    if setting not in ("0", "1"):
        raise ConfigError(f"SSL_BENCHMARK_DETERMINISTIC = {setting!r}: set it to 1 (the default) or to 0.")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_deterministic(setting == "1")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    keep_freed_memory()
    if torch.cuda.is_available() and sharing.processes() > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_deterministic(deterministic: bool) -> None:
    """Use kernels that always give the same bits, or those that cuDNN measures to be fastest."""
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a step frees, for the next step; return whether it will.

    By default glibc returns large blocks to the system, which then maps and zeroes the same pages for every step. How
    often depends on what the process allocated before, so that equal steps took from 20 to 42 ms.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, LARGEST))


def environment(device: torch.device, precision: str) -> Environment:
    """Describe versions, hardware and arithmetic."""
    import timm  # late, so that the rest of this module serves where one of them is broken
    import torchvision

    gpu = device.type == "cuda"
    described: Environment = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": str(torch.backends.cudnn.version()) if gpu else None,
        "driver": driver() if gpu else None,
        "gpu": torch.cuda.get_device_name(device) if gpu else None,
        "processor": processor(),
        "processor_flags": processor_flags(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "precision": precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": gpu and (torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32),
    }
    if sharing.on_device() > 1:
        described["runs_on_device"] = sharing.on_device()
    if sharing.processes() > 1:
        described["processes"] = sharing.processes()
    return described


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor."""
    return _processor("model name") or platform.processor() or platform.machine()


def processor_flags() -> list[str]:
    """Return those of `FLAGS` that the processor has."""
    return [flag for flag in FLAGS if flag in _flags()]


def _flags() -> list[str]:
    return (_processor("flags") or _processor("Features") or "").split()  # Linux calls them features on Arm


def _processor(field: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field)
    return next(values, None)


def driver() -> str | None:
    """Return the version of NVIDIA's driver, None without one."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0] or None
    except (OSError, subprocess.CalledProcessError):
        return None
