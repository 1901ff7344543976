"""The lineage of code: what was declared to give the same results, and what is said of it."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.checkout import HERE
from benchmark.errors import ConfigError
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


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('[[changes]]\nsame = [["a", "b"]]\n', "alone, got changes"),
        ('[[change]]\nwhy = "a"\n', "KeyError"),
        ('[[change]]\nsame = [["a"]]\n', "not enough values"),
        ("[[change]]\nsame = 1\n", "TypeError"),
        ("change = 1\n", "TypeError"),
        ("[[change]\n", "TOMLDecodeError"),
    ],
)
def test_a_file_of_another_form_is_refused(
    text: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the message, which names the file."""
    monkeypatch.setattr(lineage, "LINEAGE", tmp_path / "lineage.toml")
    lineage.LINEAGE.write_text(text)
    with pytest.raises(ConfigError, match=rf"lineage\.toml: expected .*{answer}"):
        ancestor("a")


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_a_declared_change_is_well_founded(number: int) -> None:
    """Oracle: the records that it names, which are there and of before: between them they are of all code that it says.

    That they were made again is what their names in the file say; the command shows it.
    """
    change = CHANGES[number]
    assert change.keys() == {"why", "same", "shown"}
    assert change["why"]
    codes = [code for pair in change["same"] for code in pair]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch("[0-9a-f]{64}", code) for code in codes)
    shown = [read(HERE.parent / "results" / name) for name in change["shown"]]
    assert {ancestor(code) for code in codes} <= {part for record in shown for part in made_by(record)}
    since = {after for later in CHANGES[number:] for _, after in later["same"]}
    made = {str(code) for record in shown for code in (*record["code"].values(), record["method"]["module_sha256"])}
    assert since.isdisjoint(made)
