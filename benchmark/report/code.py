"""The code that runs: its description in a record, and whether it has changed since a record was made.

Code is identified by versions that people raise, Major.Minor: one of pretraining as a whole, and one of each class of a
method or an evaluation. A new Major means other numbers: lines that the old one made are stale. A new Minor means
differences of rounding: lines stay valid. `tests/behaviour.py` checks that versions are raised where they must be.
"""

import ast
import hashlib
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import benchmark
from benchmark.report.cells import FIRST_VERSION, PRETRAINING, major, versions_of
from benchmark.report.fields import Code
from benchmark.report.identity import canonical, references
from benchmark.report.record import Record
from benchmark.storage.files import sha256_of

HERE = Path(__file__).parents[1]
VERSIONED = ("baselines", "benchmark/evals")  # folders whose classes have versions of their own
RUNS = ("*.py", "*.gin", "pyproject.toml")  # files of a checkout that can change a run; records and pages cannot


class VersionedClass(NamedTuple):
    """A class of a method or an evaluation, read from its source: its own version, the names of its bases, its file.

    `n_views` is the number of views of a method, None where the class itself states none, and 0 where its recipe may
    make more.
    """

    version: str
    bases: tuple[str, ...]
    file: str = ""
    n_views: int | None = None


def code(versions: Mapping[str, str]) -> Code:
    """Describe the code that runs: version of the package, state of the checkout, and the versions of what is used."""
    root = HERE.parent
    commit = dirty = changes = None
    if (root / ".git").exists() and (commit := _git("rev-parse", "HEAD") or None):
        status = _git("status", "--porcelain", "--untracked-files=all", "--", *RUNS)
        dirty = bool(status)
        if dirty:
            untracked = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *RUNS).split("\0")[:-1]
            hashes = [sha256_of(root / name) for name in untracked]
            content = "\n".join([status, *hashes, _git("diff", "HEAD", "--", *RUNS)])
            changes = hashlib.sha256(content.encode()).hexdigest()
    return {
        "version": benchmark.__version__,
        "commit": commit,
        "dirty": dirty,
        "diff_sha256": changes,
        "versions": dict(sorted(versions.items())),
    }


def versions(root: Path = HERE.parent) -> dict[str, str]:
    """Read the versions of a checkout from its source: of pretraining, and of the classes by their names."""
    return {PRETRAINING: _pretraining(root), **{name: kind.version for name, kind in classes(root).items()}}


def changed(record: Record) -> list[str]:
    """Return what has had a new Major version since the record, with both versions.

    Classes outside this package, such as those of a method outside the tree, are not compared.
    """
    old, new, lines = versions_of(record), versions(), canonical(record["config"]["text"]).lines
    named = (name.rpartition("/")[2].rpartition(".")[2] for name in references(lines, lines))
    used = {PRETRAINING, *old, *with_bases(*named)} & new.keys()
    pairs = ((name, old.get(name, FIRST_VERSION), new[name]) for name in sorted(used))
    return [f"{name} {then}, now {now}" for name, then, now in pairs if major(then) != major(now)]


def with_bases(*names: str) -> Mapping[str, VersionedClass]:
    """Return the classes of this project among some, and those that they extend, by name; of one name, itself first."""
    known, kinds, pending = classes(HERE.parent), {}, list(names)
    while pending:
        name = pending.pop()
        if name in known and name not in kinds:
            kinds[name] = known[name]
            pending += known[name].bases
    return kinds


@cache
def classes(root: Path) -> Mapping[str, VersionedClass]:
    """Read the classes of methods and evaluations of a checkout from its source, by name."""
    kinds = {}
    for file in sorted(file for folder in VERSIONED for file in (root / folder).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
                version = _stated(node.body, "version") or FIRST_VERSION
                views = "0.0" if _stated(node.body, "takes_more_views") else _stated(node.body, "n_views")
                place = file.relative_to(root).as_posix()
                kinds[node.name] = VersionedClass(version, bases, place, major(views) if views else None)
    return kinds


@cache
def _pretraining(root: Path) -> str:
    body = ast.parse((root / "benchmark" / "__init__.py").read_text(encoding="utf-8")).body
    return _stated(body, "PRETRAINING_VERSION") or FIRST_VERSION


def _stated(body: list[ast.stmt], name: str) -> str | None:
    """Return the version that a body assigns to a name, 2 as 2.0; None where it assigns none."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and name in (getattr(target, "id", None) for target in targets):
            return f"{value.value}.0" if isinstance(value.value, int) else str(value.value)
    return None


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(HERE.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
