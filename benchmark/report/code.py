"""The code that runs: what a record says of it, and whether it still is the code that made a record.

Code is known by versions that people raise, Major.Minor: one of pretraining as a whole, and one of each class of a
method and of an evaluation. A new Major means other numbers: the lines that the old one made are stale. A new Minor
means differences of rounding: lines stay valid. Whether a version had to be raised, `tests/behaviour.py` finds out.
"""

import ast
import hashlib
import subprocess
from collections.abc import Iterator, Mapping
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
RUNS = ("*.py", "*.gin", "pyproject.toml")  # of a checkout: the records and pages that are written into it do not run


class VersionedClass(NamedTuple):
    """A class of a method or an evaluation as its source states it: its own version, its bases by name, its file."""

    version: str
    bases: tuple[str, ...]
    file: str = ""


def code(versions: Mapping[str, str]) -> Code:
    """Describe the code that runs: version of the package, state of the checkout, and the versions of what is used."""
    root = HERE.parent
    commit = dirty = changes = None
    if (root / ".git").exists() and (commit := _git("rev-parse", "HEAD") or None):
        status = _git("status", "--porcelain", "--untracked-files=all", "--", *RUNS)
        dirty = bool(status)
        if dirty:
            new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *RUNS).split("\0")[:-1]
            contents = [sha256_of(root / name) for name in new]
            changes = hashlib.sha256(
                "\n".join([status, *contents, _git("diff", "HEAD", "--", *RUNS)]).encode()
            ).hexdigest()
    return {
        "version": benchmark.__version__,
        "commit": commit,
        "dirty": dirty,
        "diff_sha256": changes,
        "versions": dict(sorted(versions.items())),
    }


def versions(root: Path = HERE.parent) -> dict[str, str]:
    """Read the versions of a checkout from its source: of pretraining, and of the classes by their names."""
    return {PRETRAINING: _pretraining(root), **{name: found.version for name, found in classes(root).items()}}


def changed(record: Record) -> list[str]:
    """Return what has had a new Major version since the record, with both versions; mostly nothing.

    Classes that do not lie in this package, as those of a method outside the tree, are not judged.
    """
    then, now = versions_of(record), versions()
    used = {PRETRAINING, *then, *_used(record)} & now.keys()
    pairs = ((name, then.get(name, FIRST_VERSION), now[name]) for name in sorted(used))
    return [f"{name} {old}, now {new}" for name, old, new in pairs if major(old) != major(new)]


def _used(record: Record) -> Iterator[str]:
    """Yield the classes that a configuration names, and those that they extend."""
    lines, known = canonical(record["config"]["text"]).lines, classes(HERE.parent)
    pending = [name.rpartition("/")[2].rpartition(".")[2] for name in references(lines, lines)]
    while pending:
        name = pending.pop()
        if name in known:
            yield name
            pending += known[name].bases


@cache
def classes(root: Path) -> Mapping[str, VersionedClass]:
    """Read the classes of methods and evaluations of a checkout from its source, by name."""
    found = {}
    for file in sorted(file for folder in VERSIONED for file in (root / folder).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
                version = _stated(node.body, "version") or FIRST_VERSION
                found[node.name] = VersionedClass(version, bases, file.relative_to(root).as_posix())
    return found


@cache
def _pretraining(root: Path) -> str:
    body = ast.parse((root / "benchmark" / "__init__.py").read_text(encoding="utf-8")).body
    return _stated(body, "PRETRAINING_VERSION") or FIRST_VERSION


def _stated(body: list[ast.stmt], name: str) -> str | None:
    """Return the text or number that a body assigns to a name; None where it assigns none."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and any(isinstance(each, ast.Name) and each.id == name for each in targets):
            return f"{value.value}.0" if isinstance(value.value, int) else str(value.value)
    return None


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(HERE.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
