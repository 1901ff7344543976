"""What the file of a method imports, and what it may."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from benchmark.checks.subject import Subject, require
from benchmark.errors import is_user_code, shown_path
from benchmark.method import Method

ALLOWED = (
    *("benchmark.annotations", "benchmark.errors", "benchmark.method", "benchmark.losses"),
    *("benchmark.nets", "benchmark.randomness", "benchmark.views.recipes"),
)
"""What the file of a method may import of this package."""


def files_import_what_they_may(subject: Subject) -> None:
    """The method's file imports no data, label, clock, evaluation or report: of this package, the modules of
    CONTRIBUTING.md alone.
    """
    parts = (part for part in subject.build().modules() if isinstance(part, Method))
    kinds = {kind for part in parts for kind in type(part).__mro__ if issubclass(kind, Method)}
    for file in sorted({inspect.getfile(kind) for kind in kinds}):
        if is_user_code(file):
            foreign = [name for name in imports(Path(file)) if name.split(".")[0] == "benchmark" and not allowed(name)]
            require(not foreign, f"{shown_path(file)} imports {', '.join(foreign)}")


def imports(path: Path) -> Iterator[str]:
    """Yield the names of the modules that a file imports; packages of ours by their modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in ("benchmark", "baselines"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "." * node.level


def allowed(name: str) -> bool:
    """Return whether a method may import a module of this package."""
    return any(name == each or name.startswith(f"{each}.") for each in ALLOWED)
