"""Folders to write to: made, and kept from other processes, on this machine or on another of the same file system."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark import progress
from benchmark.errors import ConfigError


def make_folder(folder: Path) -> None:
    """Make a folder to write to, before anything is trained."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(
            f"{folder} cannot be made a folder: {problem}. Give another place by --out, --publish or --to."
        ) from problem


def lock(path: Path) -> FileLock:
    """Return the lock of a file or folder that need not exist yet; the system frees it when its holder ends."""
    make_folder(path.parent)
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from a file or folder; wait for one that is at work on it, and say so."""
    held = lock(path)
    try:
        held.acquire(blocking=False)
    except Timeout:
        wait = f"waiting for another process, which is at work on {path}"
        print(wait, flush=True)
        with progress.doing(wait):
            held.acquire()
    try:
        yield
    finally:
        held.release()
