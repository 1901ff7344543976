"""Files and folders: made, written whole, and kept from other processes, here or elsewhere on the same file system."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.errors import ConfigError
from benchmark.runtime import progress


def make_folder(folder: Path) -> None:
    """Make a folder to write to, before anything is trained."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise _refusal(folder, str(problem)) from problem


def check_folders(*folders: Path | None) -> None:
    """Refuse folders that could not be made or written to, and make none yet."""
    for folder in filter(None, folders):
        absolute = folder.absolute()
        nearest = next(place for place in (absolute, *absolute.parents) if place.exists())
        if not nearest.is_dir():
            raise _refusal(folder, f"{nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise _refusal(folder, f"{nearest} may not be written to")


def _refusal(folder: Path, reason: str) -> ConfigError:
    return ConfigError(f"{folder} cannot be made a folder: {reason}. Give another place by --out, --publish or --to.")


@contextmanager
def written_whole(path: Path, *, replaces: bool = True) -> Iterator[Path]:
    """Yield where to write a file: it appears whole or not at all under its path, and is on disk afterwards.

    Raises FileExistsError where there is such a file and it is not to be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        yield partial
        _sync(partial)
        if replaces:
            partial.replace(path)
        else:
            os.link(partial, path)  # unlike a rename, never replaces a file
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
