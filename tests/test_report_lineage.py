"""The lineage of code: what was declared to give the same results, and what is said of it."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.checkout import HERE
from benchmark.report import lineage
from benchmark.report.lineage import LINEAGE, ancestor
from benchmark.report.record import read
from benchmark.report.store import made_by

Declare = Callable[..., None]
CHANGES = tomllib.loads(LINEAGE.read_text()).get("change", [])


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Put a file of these changes, pairs of letters for hashes, in the place of the shipped one."""

    def write(*pairs: str) -> None:
        file = tmp_path / f"{'-'.join(pairs)}.toml"
        file.write_text("".join(f'[[change]]\nsame = [["{pair[0] * 64}", "{pair[1] * 64}"]]\n' for pair in pairs))
        monkeypatch.setattr(lineage, "LINEAGE", file)

    return write


@pytest.mark.parametrize(
    ("pairs", "lines"),
    [
        ((), ["a", "b"]),
        (("ab",), ["ab", "c"]),
        (("ab", "bc"), ["abc", "d"]),
        (("ab", "cd"), ["ab", "cd", "e"]),
        (("ab", "ba"), ["ab"]),
        (("ab", "bc", "ca"), ["abc"]),
        (("ab", "ac"), ["abc"]),
        (("ab", "cd", "bc"), ["abcd"]),
        (("bc", "ab"), ["abc"]),
        (("aa",), ["a", "b"]),
    ],
)
def test_ancestors(pairs: tuple[str, ...], lines: list[str], declare: Declare) -> None:
    """Oracle: the lines by hand: codes of one line share an ancestor in it, whatever the order and also if a change
    is taken back; codes of two lines do not."""
    declare(*pairs)
    found = [{ancestor(code * 64) for code in line} for line in lines]
    assert all(len(line) == 1 for line in found)
    assert len(set.union(*found)) == len(lines)
    assert all(next(iter(own))[0] in line for own, line in zip(found, lines, strict=True))


def test_changes_in_one_entry_are_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand, two pairs of one change."""
    (tmp_path / "lineage.toml").write_text('[[change]]\nsame = [["a", "b"], ["c", "d"]]\n')
    monkeypatch.setattr(lineage, "LINEAGE", tmp_path / "lineage.toml")
    assert list(map(ancestor, "abcde")) == list("aacce")


@pytest.mark.parametrize("change", CHANGES, ids=[change["same"][0][1][:8] for change in CHANGES])
def test_a_declared_change_is_well_founded(change: dict[str, Any]) -> None:
    """Oracle: the records that it names, which are there: between them they are of all code that it says."""
    assert change.keys() == {"why", "same", "shown"}
    assert change["why"]
    codes = [code for pair in change["same"] for code in pair]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch("[0-9a-f]{64}", code) for code in codes)
    made = [made_by(read(HERE.parent / "results" / name)) for name in change["shown"]]
    assert {ancestor(code) for code in codes} <= {part for parts in made for part in parts}
