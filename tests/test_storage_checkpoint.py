"""Checkpoints: which files are kept, and which is loaded."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import BenchmarkError
from benchmark.storage.checkpoint import newest, save
from benchmark.storage.digest import digest, flatten


def state(step: int, key: str = "key") -> dict[str, Any]:
    return {"key": key, "step": step, "method": {"weight": torch.arange(5.0) + step}, "betas": (0.9, 0.95)}


def saved(folder: Path, *steps: int) -> list[Path]:
    return [save(state(step), step, folder) for step in steps]


def loaded(folder: Path) -> tuple[int, list[str]]:
    """Return the step of the newest sound checkpoint and the first 14 characters of each warning."""
    checkpoint, warnings = newest(folder, "key")
    assert checkpoint is not None
    return checkpoint["step"], [warning[:14] for warning in warnings]


def test_state_survives_the_way_to_disk(tmp_path: Path) -> None:
    """Oracle: the state that was given, tensors bit by bit; torch's own safe loader reads the file."""
    (path,) = saved(tmp_path, 3)
    checkpoint, warnings = newest(tmp_path, "key")
    assert warnings == []
    assert digest(flatten(checkpoint)) == digest(flatten(state(3)))
    assert torch.load(path, weights_only=True)["step"] == 3


def test_newest_two_are_kept(tmp_path: Path) -> None:
    """Oracle: two files of the highest steps, in numerical order beyond one more digit."""
    files = saved(tmp_path, 2, 9, 10, 100)
    assert sorted(tmp_path.iterdir()) == sorted(files[2:])


def test_no_file_is_no_error(tmp_path: Path) -> None:
    """Oracle: the documented answer for a run that has not saved yet, also where its folder is missing."""
    assert newest(tmp_path, "key") == (None, [])
    assert newest(tmp_path / "missing", "key") == (None, [])


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if kind == "foreign":
        path.unlink()
        save(state(2, key="other"), 2, path.parent)
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"truncated": content[:-1], "flipped": flipped, "empty": b""}[kind])


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty", "foreign"])
def test_a_bad_newest_file_is_skipped(tmp_path: Path, kind: str) -> None:
    """Oracle: the file before it, and one warning that names the bad one; without a file before it, an error that
    lists the files and says what to do: a run never restarts silently."""
    before, bad = saved(tmp_path, 1, 2)
    damage(bad, kind)
    assert loaded(tmp_path) == (1, ["step-00000002-"])
    before.unlink()
    with pytest.raises(BenchmarkError, match=r"(?s)step-00000002-.*--fresh"):
        newest(tmp_path, "key")


def test_a_save_before_bad_files_of_later_steps_is_kept(tmp_path: Path) -> None:
    """Oracle: a run that fell back behind two damaged files finds again what it then writes."""
    for file in saved(tmp_path, 8, 9):
        damage(file, "empty")
    saved(tmp_path, 2)
    assert loaded(tmp_path) == (2, ["step-00000009-", "step-00000008-"])


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    """Oracle: a partial file, as a killed writer leaves it, is neither found nor left."""
    saved(tmp_path, 1)
    leftover = tmp_path / ".step-00000002-0123456789abcdef.pt.0123.partial"
    leftover.write_bytes(b"half")
    assert loaded(tmp_path) == (1, [])
    assert not leftover.exists()


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_keeps_the_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the folder before the attempt, byte by byte, and a message with cause and remedy."""
    saved(tmp_path, 1, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(BenchmarkError, match=r"step 3 .* No space left .* --resume"):
        saved(tmp_path, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
