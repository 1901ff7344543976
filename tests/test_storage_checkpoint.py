"""Checkpoints: which files are kept, and which is loaded."""

import errno
import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import BenchmarkError
from benchmark.storage.checkpoint import keep_lines, last_step, restore, save
from benchmark.storage.digest import digest, flatten


def state(step: int, key: str = "key") -> dict[str, Any]:
    return {"key": key, "step": step, "method": {"weight": torch.arange(5.0) + step}, "betas": (0.9, 0.95)}


def saved(folder: Path, *steps: int) -> list[Path]:
    return [save(state(step), step, folder) for step in steps]


def loaded(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the newest sound checkpoint and the warnings."""
    states: list[dict[str, Any]] = []
    warnings = restore(folder, "key", states.append)
    assert warnings is not None
    return states[-1], warnings


def test_state_survives_the_way_to_disk(tmp_path: Path) -> None:
    """Oracle: the state that was given, tensors bit by bit; torch's own safe loader reads the file."""
    (path,) = saved(tmp_path, 3)
    checkpoint, warnings = loaded(tmp_path)
    assert warnings == []
    assert digest(flatten(checkpoint)) == digest(flatten(state(3)))
    assert torch.load(path, weights_only=True)["step"] == 3


def test_newest_two_are_kept(tmp_path: Path) -> None:
    """Oracle: two files of the highest steps, in numerical order beyond one more digit."""
    files = saved(tmp_path, 2, 9, 10, 100)
    assert sorted(tmp_path.iterdir()) == sorted(files[2:])


def test_no_file_is_no_error(tmp_path: Path) -> None:
    """Oracle: the documented answer for a run that has not saved yet, also where its folder is missing."""
    assert restore(tmp_path, "key", print) is None
    assert restore(tmp_path / "missing", "key", print) is None


def named(folder: Path, content: bytes) -> Path:
    """Write a file of step 2 whose name fits its content, whatever that is."""
    path = folder / f"step-00000002-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


def serialised(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def missing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


class Code:
    """What a pickle may hold that runs code when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


FOREIGN: dict[str, bytes] = {
    "text": b"no checkpoint at all",
    "pickle": pickle.dumps({"key": "key"}),
    "code": pickle.dumps(Code()),
    "tensor": serialised(torch.ones(3)),
    "list": serialised([state(2)]),
    "no key": serialised({"step": 2}),
    "other key": serialised(state(2, key="other")),
    "key of another type": serialised({"key": 3}),
    "no weights": serialised({"key": "key", "step": 2}),
    "other shape": serialised({**state(2), "method": {"weight": torch.ones(6)}}),
    "half an archive": serialised(state(2))[: len(serialised(state(2))) // 2],
}
DAMAGED: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "empty": lambda path: path.write_bytes(b""),
    "a dangling link": missing,
    "a folder": folder,
    "without a digest": lambda path: path.rename(path.with_name("step-00000002.pt")),
}


@pytest.mark.parametrize("kind", [*FOREIGN, *DAMAGED])
def test_a_bad_newest_file_is_skipped(tmp_path: Path, kind: str) -> None:
    """Oracle: the file before it, and one warning that names the bad one; without a file before it, an error that
    lists the files and says what to do: a run never restarts silently."""
    before, bad = saved(tmp_path, 1, 2)
    if kind in FOREIGN:
        bad.unlink()
        named(tmp_path, FOREIGN[kind])
    else:
        DAMAGED[kind](bad)
    weights = torch.zeros(5)

    def load(checkpoint: dict[str, Any]) -> None:
        weights.copy_(checkpoint["method"]["weight"])

    (warning,) = restore(tmp_path, "key", load) or ()
    assert warning.startswith("step-00000002")
    assert warning.endswith(" and is skipped.")
    assert torch.equal(weights, state(1)["method"]["weight"])
    before.unlink()
    with pytest.raises(BenchmarkError, match=r"(?s)step-00000002.*--fresh"):
        restore(tmp_path, "key", load)
    assert not Path("ran").exists()


def test_a_save_before_bad_files_of_later_steps_is_kept(tmp_path: Path) -> None:
    """Oracle: a run that fell back behind two damaged files finds again what it then writes."""
    for file in saved(tmp_path, 8, 9):
        file.write_bytes(b"")
    saved(tmp_path, 2)
    checkpoint, warnings = loaded(tmp_path)
    assert checkpoint["step"] == 2
    assert [warning[:14] for warning in warnings] == ["step-00000009-", "step-00000008-"]


def test_a_damaged_log_keeps_its_good_lines(tmp_path: Path) -> None:
    """Oracle: by hand: the lines up to step 3; three are damaged, and the last one was cut short by a kill."""
    metrics = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "loss": 1.0}).encode() + b"\n" for step in (1, 2, 3, 4)]
    metrics.write_bytes(
        good[0] + b"\xff\xfe\n" + good[1] + b'{"loss": 2.0}\n' + good[2] + b"[" * 10**5 + b"\n" + good[3]
    )
    assert last_step(metrics) == 4
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 5')
    assert last_step(metrics) == 4
    assert keep_lines(metrics, 3) == 3
    assert metrics.read_bytes() == b"".join(good[:3])
    assert keep_lines(metrics, 3) == 0
    assert keep_lines(tmp_path / "none.jsonl", 3) == 0


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    """Oracle: a partial file, as a killed writer leaves it, is neither found nor left."""
    saved(tmp_path, 1)
    leftover = tmp_path / ".step-00000002-0123456789abcdef.pt.0123.partial"
    leftover.write_bytes(b"half")
    assert loaded(tmp_path)[1] == []
    assert not leftover.exists()


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_keeps_the_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the folder before the attempt, byte by byte, and a message with cause and remedy."""
    saved(tmp_path, 1, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(BenchmarkError, match=r"step 3 .* No space left .* give the same command again"):
        saved(tmp_path, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
