"""Records that were found valid are not examined again, and nothing else is taken for valid."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from report_records import run

from benchmark.errors import BenchmarkError
from benchmark.report import proofs, record
from benchmark.report.cells import load

Count = Callable[[], int]
RECORDS = [run("alpha", seed, 0.5 + seed / 10) for seed in range(3)]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three records, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for each in RECORDS:
        record.write(each, tmp_path / "board")
    return tmp_path / "board"


@pytest.fixture
def examined(board: Path, monkeypatch: pytest.MonkeyPatch) -> Count:
    """Load the board, and return how many of its records were examined."""
    seen = list[object]()
    plain = record._inspect

    def counted(each: object) -> tuple[list[str], bytes]:
        seen.append(each)
        return plain(each)

    monkeypatch.setattr(record, "_inspect", counted)

    def count() -> int:
        seen.clear()
        assert load(board) == sorted(RECORDS, key=lambda each: each["id"])
        return len(seen)

    return count


def test_equal_bytes_are_examined_once(examined: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the examinations, counted; by other code each record is examined again, and each code keeps its own."""
    assert [examined(), examined()] == [3, 0]
    monkeypatch.setattr(proofs, "_code", lambda: b"changed")
    assert [examined(), examined()] == [3, 0]


def test_a_change_is_found_among_proven_records(board: Path, examined: Count) -> None:
    """Oracle: refused, with other bytes of the same meaning too, and under another name; again after the refusal."""
    examined()
    path = board / record.file_name(RECORDS[0])
    content = path.read_text()
    for changed in (content.replace("0.5,", "0.6,", 1), json.dumps(json.loads(content), indent=2), content + "\n"):
        assert changed != content
        path.write_text(changed)
        for _ in range(2):
            with pytest.raises(BenchmarkError, match=r"was changed|is not a valid record"):
                load(board)
    path.write_text(content)
    path.rename(board / "other.json")
    with pytest.raises(BenchmarkError, match="was renamed"):
        load(board)


def test_a_lost_or_damaged_file_costs_time_alone(tmp_path: Path, examined: Count) -> None:
    """Oracle: the examinations, counted."""
    examined()
    kept = tmp_path / "cache/ssl-benchmark/records/valid.txt"
    whole = kept.read_text()
    kept.write_text(whole[:-10])  # a write that was cut
    assert [examined(), examined()] == [1, 0]
    kept.write_bytes(b"\xff\xfe")
    assert [examined(), examined()] == [3, 0]
    kept.unlink()
    assert [examined(), examined()] == [3, 0]
    kept.unlink()
    kept.mkdir()
    assert [examined(), examined()] == [3, 3]


def test_a_user_without_a_home_has_no_file(examined: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert [examined(), examined()] == [3, 3]


def test_the_file_does_not_grow_without_end(tmp_path: Path, examined: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: its lines: those of the last load alone, once it is full."""
    kept = tmp_path / "cache/ssl-benchmark/records/valid.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text(f"{'0' * 64}\n" * 9)
    monkeypatch.setattr(proofs, "MOST_BYTES", 100)
    assert [examined(), examined()] == [3, 0]
    assert len(kept.read_text().split()) == 3
