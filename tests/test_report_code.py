"""What a record says of the code, and whether the code has had a new version since."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from report_records import EXAMPLE, make

import benchmark
from baselines.simclr import SimCLR
from benchmark.evals.knn import KNN
from benchmark.evals.linear import Linear
from benchmark.report.cells import versions_of
from benchmark.report.code import HERE, VersionedClass, changed, classes, code, versions
from benchmark.report.record import seal, validate

ROOT = Path(__file__).parents[1]


def test_description_is_valid_in_a_record() -> None:
    """Oracle: the schema of records."""
    assert validate(seal(EXAMPLE | {"code": code(versions())})) == []


def test_code_outside_a_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: null means unknown; in a checkout without changes there would be no hash of changes. So it
    is where git fails, as it does on the folder of another user."""
    (tmp_path / "refused" / ".git").mkdir(parents=True)
    for here in (shutil.copytree(HERE, tmp_path / "benchmark"), tmp_path / "refused" / "benchmark"):
        monkeypatch.setattr("benchmark.report.code.HERE", here)
        description = code({})
        assert (description["commit"], description["dirty"], description["diff_sha256"]) == (None, None, None)


def test_only_changed_code_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a checkout of two files; records and pages that a board writes into it leave the code as committed."""
    (tmp_path / "benchmark").mkdir()
    monkeypatch.setattr("benchmark.report.code.HERE", tmp_path / "benchmark")
    method, page = tmp_path / "benchmark" / "method.py", tmp_path / "README.md"
    method.write_text("x = 1\n")
    page.write_text("No board yet.\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for arguments in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "All")):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)

    def state() -> tuple[bool | None, str | None]:
        description = code({})
        return description["dirty"], description["diff_sha256"]

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


def test_versions_are_read_from_the_source(tmp_path: Path) -> None:
    """Oracle: a checkout by hand, of text, of a number and of nothing; and the classes of now, as Python has them."""
    for folder in ("benchmark/evals", "baselines"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "benchmark" / "__init__.py").write_text('PRETRAINING_VERSION = "3.1"\n')
    (tmp_path / "benchmark" / "evals" / "a.py").write_text("class A:\n    version = 2\n\n\nclass B:\n    k: int\n")
    (tmp_path / "baselines" / "c.py").write_text('class C(mod.A):\n    version: str = "1.4"\n')
    assert versions(tmp_path) == {"pretraining": "3.1", "A": "2.0", "B": "1.0", "C": "1.4"}
    assert classes(tmp_path)["C"] == VersionedClass("1.4", ("A",), "baselines/c.py")
    here = versions()
    assert here["pretraining"] == benchmark.PRETRAINING_VERSION
    for kind in (KNN, Linear, SimCLR):
        assert here[kind.__name__] == kind.version


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the present code state some versions, of a method B that extends A and of an evaluation E."""

    def state(pretraining: str = "1.0", **others: str) -> None:
        kinds = {name: VersionedClass(others.get(name, "1.0"), ("A",) if name == "B" else ()) for name in "ABE"}
        monkeypatch.setattr("benchmark.report.code.classes", lambda root: kinds)
        monkeypatch.setattr("benchmark.report.code._pretraining", lambda root: pretraining)

    return state


TEXT = """
Pretraining.method = @B
experiment.evaluations = (@few/E,)
experiment.pretraining = @Pretraining
"""


def test_only_a_new_major_is_a_change(raised: Callable[..., None]) -> None:
    """Oracle: the versions by hand. A record of schema 1 is of the first version of all that its text names, and of
    what that extends; classes that are not here, as of a method outside the tree, are not judged."""
    early, late = make(config__text=TEXT), make(config__text=TEXT, code__versions={"B": "2.3", "Elsewhere": "7.0"})
    raised(pretraining="1.9", A="1.2")
    assert (changed(early), changed(late)) == ([], ["B 2.3, now 1.0"])
    raised(A="2.0", B="2.0")
    assert changed(early) == ["A 1.0, now 2.0", "B 1.0, now 2.0"]
    assert changed(late) == ["A 1.0, now 2.0"]
    raised(pretraining="2.0", E="3.1", B="2.0")
    assert changed(late) == ["E 1.0, now 3.1", "pretraining 1.0, now 2.0"]
    raised(B="3.0")
    assert changed(make(config__text="Pretraining.method = @A\n")) == []
    assert versions_of(make(schema=1)) == {}
