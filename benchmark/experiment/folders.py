"""The folders that stages write: how they are named and emptied."""

import hashlib
import re
import shutil
from pathlib import Path

from benchmark.errors import ConfigError
from benchmark.storage.files import make_folder, sha256_of


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


def prepare(folder: Path, *, resume: bool, fresh: bool, finished: bool) -> None:
    """Make the folder of a stage, and empty it unless it is resumed; refuse to lose an unfinished run unasked."""
    if any(folder.glob("checkpoints/*.pt")) and not finished and not (resume or fresh):
        raise ConfigError(
            f"{folder} holds an unfinished run of this configuration and seed. Continue it with --resume, or "
            f"start over with --fresh."
        )
    make_folder(folder)
    if not resume:
        kept = folder.glob("encoder-step-*.safetensors")
        for old in [*folder.glob("checkpoints/*.pt"), *kept, folder / "metrics.jsonl"]:
            old.unlink(missing_ok=True)
        shutil.rmtree(folder / "evaluations", ignore_errors=True)
