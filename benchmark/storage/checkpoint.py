"""Checkpoints that survive a kill: written atomically, named by their content, and skipped if damaged.

A file is `step-<step>-<digest>.pt`. It holds tensors and plain values only, so it loads with `weights_only=True`.
"""

import hashlib
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import BenchmarkError
from benchmark.storage.files import atomic_write

KEPT = 2


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
        raise BenchmarkError(
            f"The checkpoint of step {step} could not be written to {folder}: {problem}. "
            f"Earlier checkpoints are intact; free some space and continue with --resume."
        ) from problem
    # files of later steps are damaged or foreign, since the run resumed before them: they do not count
    for old in sorted(file for file in folder.glob("step-*.pt") if file.name <= path.name)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def newest(folder: Path, key: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest sound checkpoint of the configuration `key`, and a warning for each bad file.

    Returns None if there is no file. Raises BenchmarkError if there are files and none is sound: a run never restarts
    silently.
    """
    for leftover in folder.glob(".step-*.partial"):
        leftover.unlink(missing_ok=True)
    files = sorted(folder.glob("step-*.pt"), reverse=True)
    warnings = []
    for path in files:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] != path.stem.rsplit("-", 1)[1]:
            warnings.append(f"{path.name} is damaged (its content does not match its name) and is skipped.")
            continue
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        if state["key"] != key:
            warnings.append(f"{path.name} belongs to another configuration or code and is skipped.")
            continue
        return state, warnings
    if files:
        raise BenchmarkError(
            f"No checkpoint in {folder} can be used:\n  " + "\n  ".join(warnings) + "\nStart over with --fresh."
        )
    return None, []


def keep_lines(metrics: Path, step: int) -> None:
    """Drop the lines of a log after `step`, which a resumed run will log again, and a last line cut short by a kill."""
    kept = []
    for line in metrics.read_text().splitlines() if metrics.exists() else []:
        with suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    metrics.write_text("".join(kept))
