"""What a run ran on: hardware, versions and the code itself, as the record states them."""

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

import benchmark
from benchmark.report.record import Code, Environment

HERE = Path(__file__).parent
PROTOCOL = ("data", "nets", "training", "views", "method.py", "objectives.py", "randomness.py")
EVALUATION = ("evals", "data/subsets.py")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # what decides which kernels run


def use_device() -> torch.device:
    """Choose the device and make its arithmetic repeatable: all cores allowed to the process, fixed kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_cores())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment(device: torch.device, precision: str) -> Environment:
    """Describe versions, hardware and arithmetic."""
    gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": str(torch.backends.cudnn.version()) if gpu else None,
        "driver": _driver() if gpu else None,
        "gpu": torch.cuda.get_device_name(device) if gpu else None,
        "processor": _processor("model name") or platform.processor() or platform.machine(),
        "processor_flags": [flag for flag in FLAGS if flag in (_processor("flags") or "").split()],
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "precision": precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.get_float32_matmul_precision() != "highest",
    }


def code() -> Code:
    """Describe the code that runs: version, state of the checkout, and what its protocol and evaluation say."""
    root = HERE.parent
    commit = dirty = changes = None
    if (root / ".git").exists():
        commit = _git("rev-parse", "HEAD") or None
        status = _git("status", "--porcelain")
        dirty = bool(status)
        if dirty:
            changes = hashlib.sha256(f"{status}\n{_git('diff', 'HEAD')}".encode()).hexdigest()
    return {
        "version": benchmark.__version__,
        "commit": commit,
        "dirty": dirty,
        "diff_sha256": changes,
        "protocol_sha256": code_hash(HERE / part for part in PROTOCOL),
        "evaluation_sha256": code_hash(HERE / part for part in EVALUATION),
    }


def code_hash(places: Iterable[Path]) -> str:
    """Hash what Python files (or all of a folder) do: comments, docstrings and layout do not count."""
    files = sorted(file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place]))
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\n{_skeleton(ast.parse(file.read_text()))}\n".encode())
    return total.hexdigest()


def _skeleton(node: Any) -> Any:
    """Return a syntax tree as nested lists, without docstrings and without the fields that a Python version adds."""
    if isinstance(node, list):
        return [_skeleton(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        fields["body"] = body[1:]
    return [
        type(node).__name__,
        *((name, _skeleton(value)) for name, value in fields.items() if value not in (None, [])),
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor(field: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    found = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field)
    return next(found, None)


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0] or None
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(HERE.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
