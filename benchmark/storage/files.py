"""Folders, atomic writes, and what one process at a time works on, also of several machines with one file system."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from benchmark.errors import BenchmarkError, ConfigError
from benchmark.runtime import progress
from benchmark.storage.claim import Claim, Held, check

PARTIAL = ".partial"  # how the names of files that are being written end


def make_folder(folder: Path) -> None:
    """Create a folder to write to. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _error(folder, str(error)) from error


def check_folders(out: Path, publish: Path | None = None) -> None:
    """Raise ConfigError for a folder that cannot be created or written to, and for a board that has no name.

    Nothing is created.
    """
    if publish and publish.name in ("", ".."):
        raise ConfigError(f"--publish {publish}: give the folder of a board by its name, such as results/<board>.")
    for folder in filter(None, (out, publish)):
        place = existing(folder)
        if not place.is_dir():
            raise _error(folder, f"{place} is a file")
        if not os.access(place, os.W_OK | os.X_OK):
            raise _error(folder, f"{place} may not be written to")


def cache_folder(kind: str) -> Path:
    """Return the user's folder for files of a kind that can be made again; it need not exist yet.

    Where the user has no home, nothing can be written to it.
    """
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # in a container, for a user without a name
        place = Path(os.devnull)
    return place / "ssl-benchmark" / kind


def existing(folder: Path) -> Path:
    """Return the folder or, where it does not exist yet, the innermost path above it that does."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _error(folder: Path, reason: str) -> ConfigError:
    return ConfigError(f"{folder} cannot be made a folder: {reason}. Give another place by --out, --publish or --to.")


@contextmanager
def atomic_write(path: Path, *, replaces: bool = True) -> Iterator[Path]:
    """Yield a temporary path; what is written there appears at `path` atomically, and is on disk afterwards.

    Temporary files of processes that were killed are removed from the folder. Raises FileExistsError if the file exists
    and `replaces` is false, OSError with the path, and Lost in a process that has lost a claim.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}{PARTIAL}")
    try:
        with _created(partial):
            remove_partials(path.parent)
            yield partial
            _sync(partial)
            check()
            if replaces:
                partial.replace(path)
            else:
                os.link(partial, path)  # unlike a rename, never replaces a file
            _sync(path.parent)
    except OSError as error:
        error.filename = str(path)  # the system names no file where a write fails, or the temporary one
        raise
    finally:
        partial.unlink(missing_ok=True)


def _created(partial: Path) -> BinaryIO:
    """Create a temporary file; while it is open, its lock says that its writer lives."""
    while True:
        file = partial.open("xb")
        with suppress(OSError):  # on a file system without locks nobody removes what others left
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process removed it as a leftover before it was locked


def remove_partials(folder: Path) -> None:
    """Remove the temporary files of writers that were killed: those in the folder that nobody holds locked."""
    for leftover in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError), leftover.open("r+b") as file:  # NFS locks what may be written
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text in place of the file, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_once(path: Path, content: bytes) -> Path:
    """Write a file that is never rewritten, atomically, and return its path; the same content again changes nothing.

    Raises BenchmarkError for a file of that name with other content.
    """
    try:
        with atomic_write(path, replaces=False) as partial:
            partial.write_bytes(content)
    except FileExistsError as error:
        if path.read_bytes() != content:
            raise BenchmarkError(
                f"{path} exists with other content, and what is published is never rewritten. "
                "Restore it from version control, or remove it if it was never published."
            ) from error
    return path


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


def claim(path: Path) -> Claim:
    """Return the claim of a file or folder, which need not exist yet; it is free when its holder has ended."""
    make_folder(path.parent)
    return Claim(path)


def is_held(path: Path) -> bool:
    """Return whether another process holds the claim of a file or folder."""
    try:
        with claim(path).acquire(0):
            return False
    except Held:
        return True


@contextmanager
def exclusive(path: Path, *, waits: bool = True) -> Iterator[None]:
    """Hold the claim of a file or folder; print a line if it must wait for another process.

    Without `waits`, raises Held instead of waiting.
    """
    held = claim(path)
    try:
        held.acquire(0)
    except Held:
        if not waits:
            raise
        wait = f"waiting for another process, which is at work on {path}"
        print(wait, flush=True)
        with progress.doing(wait):
            held.acquire()
    with held:
        yield
