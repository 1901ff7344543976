"""Checkpoints that survive a kill: written atomically, named by their content, and skipped if damaged.

A file is `step-<step>-<digest>.pt`. It holds tensors and plain values only, so it loads with `weights_only=True`.
"""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import BenchmarkError
from benchmark.storage.files import atomic_write

KEPT = 2
SHOWN = 200  # characters of a foreign error


def save(state: dict[str, Any], step: int, folder: Path) -> Path:
    """Write `state` atomically, remove all but the newest two files, and return the path."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    try:
        with atomic_write(path) as partial:
            partial.write_bytes(content)
    except OSError as problem:
        with suppress(OSError):
            folder.rmdir()  # if it is empty: the folder says that there once was a checkpoint
        raise BenchmarkError(
            f"The checkpoint of step {step} could not be written to {folder}: {problem}. "
            f"Earlier checkpoints are intact; free some space and give the same command again."
        ) from problem
    # files of later steps are damaged or foreign, since the run resumed before them: they do not count
    for old in sorted(file for file in folder.glob("step-*.pt") if file.name <= path.name)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def restore(folder: Path, key: str, load: Callable[[dict[str, Any]], None]) -> list[str] | None:
    """Hand the newest sound checkpoint of the configuration `key` to `load`; return a warning for each bad file.

    A file for which `load` raises is bad too, and the one before it is taken. Returns None if there is no file. Raises
    BenchmarkError if there are files and none is sound: a run never restarts silently.
    """
    files = sorted(folder.glob("step-*.pt"), reverse=True)
    for leftover in list(folder.glob(".step-*.partial")):
        leftover.unlink(missing_ok=True)
        if not files:  # a kill came during the first write
            with suppress(OSError):
                folder.rmdir()
    warnings = []
    for path in files:
        try:
            load(_read(path, key))
        except Exception as problem:  # what a foreign file raises depends on what it holds
            warnings.append(f"{path.name} {_reason(problem)} and is skipped.")
        else:
            return warnings
    if files:
        raise BenchmarkError(
            f"No checkpoint in {folder} can be used:\n  " + "\n  ".join(warnings) + "\nStart over with --fresh."
        )
    return None


class _UnsoundError(Exception):
    """A checkpoint that is damaged or of another run, with the reason."""


def _read(path: Path, key: str) -> dict[str, Any]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:16] != path.stem.rsplit("-", 1)[-1]:
        raise _UnsoundError("is damaged (its content does not match its name)")
    state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    if not isinstance(state, dict) or "key" not in state:
        raise _UnsoundError("is no checkpoint of a run")
    if state["key"] != key:
        raise _UnsoundError("belongs to another configuration or code")
    step = state.get("step", 0)  # those of fine-tuning have none
    if type(step) is not int or (step and f"step-{step:08d}" != path.stem.rpartition("-")[0]):
        raise _UnsoundError("is of another step than its name says")
    return state


def _reason(problem: Exception) -> str:
    if isinstance(problem, _UnsoundError):
        return str(problem)
    text = " ".join(str(problem).split())
    return f"cannot be read ({type(problem).__name__}: {text[:SHOWN]}{'...' * (len(text) > SHOWN)})"


def keep_lines(metrics: Path, step: int) -> int:
    """Drop the lines of a log after `step`, which a resumed run will log again, and return how many were no lines of
    it.

    A last line that a kill cut short is dropped and not counted.
    """
    kept, damaged = [], 0
    lines = metrics.read_bytes().split(b"\n") if metrics.exists() else []
    for line in lines[:-1]:
        at = step_of(line)
        damaged += at is None
        if at is not None and at <= step:
            kept.append(line + b"\n")
    with atomic_write(metrics) as partial:
        partial.write_bytes(b"".join(kept))
    return damaged


def last_step(metrics: Path) -> int:
    """Return the last step that a log has, 0 without one."""
    lines = metrics.read_bytes().split(b"\n") if metrics.exists() else []
    return max((step for line in lines if (step := step_of(line)) is not None), default=0)


def step_of(line: bytes) -> int | None:
    """Return the step of a line of a log, None for anything else."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return step if isinstance(step, int) else None
