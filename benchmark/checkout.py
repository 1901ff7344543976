"""The code that runs: what a record says of it, and whether it still is the code that made a record."""

import ast
import hashlib
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import benchmark
from benchmark.report.lineage import Part, ancestor
from benchmark.report.record import Code, Record

HERE = Path(__file__).parent
PROTOCOL = (
    "data",
    "nets",
    "training",
    "views",
    "examination.py",
    "method.py",
    "objectives.py",
    "randomness.py",
    "session.py",
)
EVALUATION = ("evals", "data/subsets.py")
RUNS = ("*.py", "*.gin", "pyproject.toml")  # of a checkout: the records and pages that are written into it do not run


def code() -> Code:
    """Describe the code that runs: version, state of the checkout, and what its protocol and evaluation say."""
    root = HERE.parent
    protocol, evaluation = _parts()
    commit = dirty = changes = None
    if (root / ".git").exists() and (commit := _git("rev-parse", "HEAD") or None):
        status = _git("status", "--porcelain", "--untracked-files=all", "--", *RUNS)
        dirty = bool(status)
        if dirty:
            new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *RUNS).split("\0")[:-1]
            contents = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in new]
            changes = hashlib.sha256(
                "\n".join([status, *contents, _git("diff", "HEAD", "--", *RUNS)]).encode()
            ).hexdigest()
    return {
        "version": benchmark.__version__,
        "commit": commit,
        "dirty": dirty,
        "diff_sha256": changes,
        "protocol_sha256": protocol,
        "evaluation_sha256": evaluation,
    }


def changed(record: Record) -> dict[Part, tuple[str, str]]:
    """Return what is not the code that made the record any more, with its hashes then and now; mostly nothing.

    Code that was declared to give the results of the record's is no change. Files of a method that do not lie beside
    this package are not judged.
    """
    protocol, evaluation = _parts()
    then, method = record["code"], record["method"]
    found: dict[Part, tuple[str, str]] = {
        "pretraining": (then["protocol_sha256"], protocol),
        "evaluation": (then["evaluation_sha256"], evaluation),
    }
    files = [HERE.parent / name for name in method["files"]]
    if method["module_sha256"] and (own := _of_files(tuple(files))):
        found["method"] = method["module_sha256"], own
    return {part: (old, new) for part, (old, new) in found.items() if ancestor(old) != ancestor(new)}


@cache
def _parts() -> tuple[str, str]:
    return code_hash(HERE / part for part in PROTOCOL), code_hash(HERE / part for part in EVALUATION)


@cache
def _of_files(files: tuple[Path, ...]) -> str | None:
    return code_hash(files) if all(file.is_file() for file in files) else None


def code_hash(places: Iterable[Path]) -> str:
    """Hash what Python files (or all of a folder) do: comments, docstrings and layout do not count."""
    files = sorted(file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place]))
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\n{_skeleton(ast.parse(file.read_text()))}\n".encode())
    return total.hexdigest()


def _skeleton(node: Any) -> Any:
    """Return a syntax tree as nested lists, without docstrings and without the fields that a Python version adds."""
    if isinstance(node, list):
        return [_skeleton(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        fields["body"] = body[1:]
    return [
        type(node).__name__,
        *((name, _skeleton(value)) for name, value in fields.items() if value not in (None, [])),
    ]


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(HERE.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
