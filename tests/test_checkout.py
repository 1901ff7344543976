"""What a record says of the code, and whether the code has changed since."""

import ast
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_records import EXAMPLE, make

from benchmark import checkout
from benchmark.checkout import EVALUATION, HERE, PROTOCOL, changed, code, code_hash
from benchmark.report import lineage
from benchmark.report.record import seal, validate

CODE = '''"""A module."""

def f(x):
    """Double."""
    return 2 * x  # twice
'''


def hashed(folder: Path, text: str, name: str = "m.py") -> str:
    (folder / name).write_text(text)
    return code_hash([folder / name])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("# twice", "# two times"),
        lambda text: text.replace('"""Double."""', '"""Multiply."""'),
        lambda text: text.replace('    """Double."""\n', ""),
        lambda text: text.replace('"""A module."""\n\n', ""),
        lambda text: text.replace("2 * x", "(2\n        * x)"),
    ],
    ids=["comment", "docstring", "no docstring", "no module docstring", "layout"],
)
def test_code_hash_does_not_see_prose(tmp_path: Path, change: object) -> None:
    """Oracle: the two texts differ and do the same."""
    changed = change(CODE)  # type: ignore[operator]
    assert changed != CODE
    assert hashed(tmp_path, changed) == hashed(tmp_path, CODE)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("2 * x", "x * 2"),
        lambda text: text.replace("2 *", "2.0 *"),
        lambda text: text.replace("2 *", "3 *"),
        lambda text: text.replace("2 *", "'2' *"),
        lambda text: text.replace("f(x)", "f(x=1)"),
        lambda text: text + "\nf(0)\n",
    ],
    ids=["order", "type", "value", "text", "default", "statement"],
)
def test_code_hash_sees_what_runs(tmp_path: Path, change: object) -> None:
    """Oracle: the two texts are different programs."""
    changed = change(CODE)  # type: ignore[operator]
    ast.parse(changed)
    assert hashed(tmp_path, changed) != hashed(tmp_path, CODE)


def test_code_hash_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    """Oracle: the files one by one, in any order; a renamed file is another program."""
    hashed(tmp_path, CODE, "a.py")
    hashed(tmp_path, "x = 1\n", "b.py")
    whole = code_hash([tmp_path])
    assert whole == code_hash([tmp_path / "b.py", tmp_path / "a.py"])
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert code_hash([tmp_path]) != whole


def test_hashed_parts_exist() -> None:
    """Oracle: the folder of the package; a name that is gone would silently hash nothing."""
    assert all((HERE / part).exists() for part in (*PROTOCOL, *EVALUATION))


def test_description_is_valid_in_a_record() -> None:
    """Oracle: the schema of records."""
    assert validate(seal(EXAMPLE | {"code": code()})) == []


def test_code_outside_a_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: null means unknown; in a checkout without changes there would be no hash of changes."""
    monkeypatch.setattr(checkout, "HERE", shutil.copytree(HERE, tmp_path / "benchmark"))
    found = code()
    assert (found["commit"], found["dirty"], found["diff_sha256"]) == (None, None, None)


def test_a_checkout_that_git_refuses_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: null means unknown, for a git that fails, as it does on the folder of another user."""
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(checkout, "HERE", tmp_path / "benchmark")
    monkeypatch.setattr(checkout, "_parts", lambda: ("0" * 64, "0" * 64))
    found = code()
    assert (found["commit"], found["dirty"], found["diff_sha256"]) == (None, None, None)


def test_only_changed_code_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a checkout of two files; records and pages that a board writes into it leave the code as committed."""
    (tmp_path / "benchmark").mkdir()
    monkeypatch.setattr(checkout, "HERE", tmp_path / "benchmark")
    monkeypatch.setattr(checkout, "_parts", lambda: ("0" * 64, "0" * 64))
    method, page = tmp_path / "benchmark" / "method.py", tmp_path / "README.md"
    method.write_text("x = 1\n")
    page.write_text("No board yet.\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for arguments in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "All")):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)

    def state() -> tuple[bool | None, str | None]:
        found = code()
        return found["dirty"], found["diff_sha256"]

    page.write_text("A board.\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "record.json").write_text("{}\n")
    assert state() == (False, None)
    method.write_text("x = 2\n")
    dirty, first = state()
    assert dirty
    method.write_text("x = 3\n")
    assert state()[1] not in (None, first)
    method.write_text("x = 1\n")
    new = tmp_path / "results" / "peers.py"
    new.write_text("y = 1\n")
    dirty, first = state()
    assert dirty
    new.write_text("y = 2\n")
    assert state()[1] not in (None, first)


def present() -> dict[str, Any]:
    """Return the fields of a record that the code of now made."""
    name = "baselines/simclr.py"
    now = {f"code__{part}": value for part, value in code().items() if part.endswith("_sha256") and value}
    return now | {"method__files": [name], "method__module_sha256": code_hash([HERE.parent / name])}


PARTS = {
    "pretraining": "code__protocol_sha256",
    "evaluation": "code__evaluation_sha256",
    "method": "method__module_sha256",
}


def test_changed_names_the_part_that_is_not_the_same() -> None:
    """Oracle: the present hashes are unchanged; each of them replaced names its part; strange files are not judged."""
    now = present()
    assert changed(make(**now)) == {}
    for part, field in PARTS.items():
        assert changed(make(**(now | {field: "0" * 64}))) == {part: ("0" * 64, now[field])}
    assert changed(make(**(now | {"method__files": ["elsewhere.py"], "method__module_sha256": "0" * 64}))) == {}
    assert changed(make(**(now | {"method__files": [], "method__module_sha256": None}))) == {}


@pytest.mark.parametrize("part", PARTS)
def test_code_of_the_same_results_is_no_change(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the declaration of one part, which says nothing of other code."""
    now = present()
    file = tmp_path / "lineage.toml"
    file.write_text(f'[[change]]\nsame = [["{"0" * 64}", "{now[PARTS[part]]}"]]\n')
    monkeypatch.setattr(lineage, "LINEAGE", file)
    assert changed(make(**(now | {PARTS[part]: "0" * 64}))) == {}
    assert list(changed(make(**(now | {PARTS[part]: "1" * 64})))) == [part]
