"""Checkpoints: what is kept, and what is found again."""

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


def test_state_survives_the_way_to_disk(tmp_path: Path) -> None:
    """Oracle: the state that was given, tensors bit by bit; torch's own safe loader reads the file."""
    (path,) = saved(tmp_path, 3)
    found, warnings = newest(tmp_path, "key")
    assert found is not None
    assert warnings == []
    assert digest(flatten(found)) == digest(flatten(state(3)))
    assert torch.load(path, weights_only=True)["step"] == 3


def test_newest_two_are_kept(tmp_path: Path) -> None:
    """Oracle: two files of the highest steps, in numerical order beyond one more digit."""
    files = saved(tmp_path, 2, 9, 10, 100)
    assert sorted(tmp_path.iterdir()) == sorted(files[2:])


def test_no_file_is_no_error(tmp_path: Path) -> None:
    """Oracle: the documented answer for a run that has not saved yet, also where its folder is missing."""
    assert newest(tmp_path, "key") == (None, [])
    assert newest(tmp_path / "missing", "key") == (None, [])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_foreign(path: Path) -> None:
    path.unlink()
    save(state(2, key="other"), 2, path.parent)


DAMAGES = [truncate, flip, empty, replace_by_foreign]


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_newest_file_is_passed_over(tmp_path: Path, damage: Any) -> None:
    """Oracle: the file before it, and one warning that names the bad one."""
    files = saved(tmp_path, 1, 2)
    damage(files[1])
    found, warnings = newest(tmp_path, "key")
    assert found is not None
    assert found["step"] == 1
    assert len(warnings) == 1
    assert warnings[0].startswith("step-00000002-")


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_bad_files_are_an_error(tmp_path: Path, damage: Any) -> None:
    """Oracle: a run never restarts silently; the message lists the files and says what to do."""
    damage(saved(tmp_path, 2)[0])
    with pytest.raises(BenchmarkError, match=r"(?s)step-00000002-.*--fresh"):
        newest(tmp_path, "key")


def test_a_save_before_bad_files_of_later_steps_is_kept(tmp_path: Path) -> None:
    """Oracle: a run that fell back behind two damaged files finds again what it then writes."""
    for file in saved(tmp_path, 8, 9):
        empty(file)
    saved(tmp_path, 2)
    found, warnings = newest(tmp_path, "key")
    assert found is not None
    assert found["step"] == 2
    assert len(warnings) == 2


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    """Oracle: a partial file, as a killed writer leaves it, is neither found nor left."""
    saved(tmp_path, 1)
    leftover = tmp_path / ".step-00000002-0123456789abcdef.pt.0123.partial"
    leftover.write_bytes(b"half")
    found, warnings = newest(tmp_path, "key")
    assert found is not None
    assert (found["step"], warnings) == (1, [])
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
