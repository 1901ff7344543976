"""Which records were found valid before: equal bytes are not examined again by the same code."""

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from benchmark import annotations
from benchmark.report import fields, schema, schema_1
from benchmark.storage.files import cache_folder

MOST_BYTES = 2**22  # our choice: 64,000 records
EXAMINING = (annotations, fields, schema, schema_1)


class Proofs:
    """The hashes of the files of valid records, which the cache of the user keeps; a file that is lost costs time only.

    A hash is that of a record's bytes and of the code that examined them.
    """

    def __init__(self) -> None:
        self._path = cache_folder("records") / "valid.txt"
        self._known: set[str] = set()
        self._new: list[str] = []
        with suppress(OSError):  # no file yet, or none that may be read
            self._known.update(self._path.read_text("ascii", "replace").split())

    def __contains__(self, content: bytes) -> bool:
        return _hash(content) in self._known

    def add(self, content: bytes) -> None:
        self._new.append(_hash(content))

    def save(self) -> None:
        """Keep what is new; where it cannot be written, records are examined again."""
        if not self._new:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_full = self._path.is_file() and self._path.stat().st_size > MOST_BYTES
            with self._path.open("w" if is_full else "a", encoding="ascii") as file:
                file.write("".join(f"\n{name}" for name in self._new))  # after a line that was cut, too


def _hash(content: bytes) -> str:
    return hashlib.sha256(_code() + content).hexdigest()


@cache
def _code() -> bytes:
    """Return the hash of the modules by which records are examined, a random one where their source is not there."""
    files = [str(module.__file__) for module in EXAMINING] + [str(Path(__file__).with_name("record.py"))]
    try:
        return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).digest()
    except OSError:
        return os.urandom(32)
