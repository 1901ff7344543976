"""The folders that stages write: how they are named and emptied."""

import hashlib
import re
import shutil
from pathlib import Path

from benchmark.errors import ConfigError
from benchmark.report.cells import of_run
from benchmark.storage.files import is_held, make_folder, sha256_of

SHOWN = 3  # settings in a message


def name_of(method: str, dataset: str, seed: int, key: str) -> str:
    """Return the name of a folder, which has small letters, digits and underscores in each of its parts."""
    parts = (method, dataset, f"s{seed}", key[:8])
    return "-".join(re.sub(r"[^a-z0-9_]+", "_", part.lower()) for part in parts)


def hash_of(names: object) -> str:
    """Return the SHA-256 of names."""
    return hashlib.sha256(repr(names).encode()).hexdigest()


def digest_of(file: str) -> str:
    """Return the SHA-256 of a teacher's weights."""
    try:
        return sha256_of(Path(file))
    except OSError as problem:
        raise ConfigError(
            f"experiment.teacher_weights = {file!r} cannot be read: {problem}. Give the encoder.safetensors of a run."
        ) from problem


def unfinished_beside(folder: Path, text: str) -> list[str]:
    """Return the unfinished runs of the same method, data and seed beside a folder, each with its settings that differ.

    Runs at which another process is at work are left out. `text` is the configuration of the folder's own run.
    """
    own, described = set(text.splitlines()), []
    for other in sorted(folder.parent.glob(f"{folder.name[:-8]}{'?' * 8}")):
        if other == folder or not any(other.glob("checkpoints/*.pt")) or of_run(other) or is_held(other):
            continue
        config = other / "config.gin"
        theirs = [line for line in config.read_text().splitlines() if line not in own] if config.is_file() else []
        differs = [line for line in theirs if " = " in line and not line.startswith("#")]
        described.append(f"{other} ({', '.join(differs[:SHOWN])}{', ...' if len(differs) > SHOWN else ''})")
    return described


def prepare(folder: Path, *, fresh: bool) -> None:
    """Make the folder of a stage; where it starts over (`fresh`), remove what an earlier start left."""
    make_folder(folder)
    if fresh:
        for old in [*folder.glob("encoder-step-*.safetensors"), folder / "metrics.jsonl"]:
            old.unlink(missing_ok=True)
        for part in ("checkpoints", "evaluations"):
            shutil.rmtree(folder / part, ignore_errors=True)
