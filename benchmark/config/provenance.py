"""The page of where the numbers of the gin files come from, written from their comments and the docstrings.

The line of a number ends with `# stated: where`, `# inferred: from what` or `# our choice: why`, which may continue in
indented comments below it. A decision that is not a number has a comment of its own, which continues after `#   `:

    # - joint forward: both views pass the network in one forward; stated: authors' code
"""

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, takewhile
from pathlib import Path

from benchmark.config.parse import Binding, Include, Source, Statement, parse
from benchmark.errors import CheckError
from benchmark.report.text import markdown

STATUSES = ("stated", "inferred", "our choice")
ORIGIN = re.compile(rf"({'|'.join(STATUSES)}): (\S.*)")
DECISION = re.compile(rf"(\S.*?): (\S.*?); {ORIGIN.pattern}")
DEVIATION = "Differs from the paper:"
REFERENCE = re.compile(r"@(?:\w+/)*(\w+)")  # the name of a class, without its scopes
INTRODUCTION = """\
<!-- Written by `python -m benchmark.tables` from the comments in gin/ and docstrings in baselines/: do not edit. -->
# Where the numbers come from

Every number, switch and view recipe that a gin file binds is one of three: *stated* by the paper or the authors' code
for exactly what the file configures; *inferred* from another source, which is named; or *our choice*, for a reason that
is given. The same holds for decisions that are not numbers. A section number without a paper is that of the paper in
the file's title. The methods are in `gin/`; files in folders below it are combined with them.
"""

Row = tuple[str, ...]  # what, how, status and source


@dataclass(frozen=True, eq=False)
class GinFile:
    """A gin file: its path below `gin/`, its text, and what that states."""

    name: str
    text: str
    statements: Sequence[Statement]

    @property
    def bindings(self) -> list[Binding]:
        """What it binds."""
        return [statement for statement in self.statements if isinstance(statement, Binding)]


def render(checkout: Path) -> str:
    """Return the page of the gin files and methods of a checkout.

    It has counts by status, then for each file its deviations, its numbers and its decisions.

    Raises:
        CheckError: with all lines that lack a status or a source, and what to write there.
    """
    problems: list[str] = []
    deviations = _read_deviations(checkout / "baselines")
    files = sorted(_read_files(checkout / "gin"), key=lambda file: (_folder(file), file.name))
    rows = {file: (list(_numbers(file, problems)), list(_decisions(file, problems))) for file in files}
    if problems:
        raise CheckError("\n".join(problems))
    rows = {file: tables for file, tables in rows.items() if any(tables)}
    counts = {f"`{file.name}`": Counter(row[2] for row in chain(*tables)) for file, tables in rows.items()}
    counts["all"] = sum(counts.values(), Counter[str]())
    lines = [(name, *(str(count[status]) for status in STATUSES)) for name, count in counts.items()]
    parts = [INTRODUCTION, markdown(("file", *STATUSES), "lrrr", lines) + "\n"]
    for folder, of_folder in groupby(rows, key=_folder):
        parts.append(f"## `{folder}`\n")
        for file in of_folder:
            parts += _introduction(file, deviations)
            for heading, table in zip((("name", "value"), ("decision", "choice")), rows[file], strict=True):
                if table:
                    cells = [[cell.replace("|", "\\|") for cell in row] for row in table]
                    parts.append(markdown((*heading, "status", "source"), "llll", cells) + "\n")
    return "\n".join(parts)


def _read_files(folder: Path) -> Iterator[GinFile]:
    """Yield the gin files below a folder but those that select runs or machines, and have no numbers of a method."""
    for path in sorted(folder.rglob("*.gin")):
        if path.parent.name not in ("suites", "cluster"):
            name, text = path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")
            yield GinFile(name, text, list(parse(text, Source(f"gin/{name}", path))))


def _read_deviations(folder: Path) -> dict[str, str]:
    """Return how the classes of the Python files in `folder` say that they differ from their papers; imports none."""
    deviations = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                for paragraph in inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n"):
                    if paragraph.startswith(DEVIATION):
                        deviations[node.name] = " ".join(paragraph.removeprefix(DEVIATION).split())
    return deviations


def _numbers(file: GinFile, problems: list[str]) -> Iterator[Row]:
    for bound in filter(_needs_origin, file.bindings):
        comment = _comment(file, bound.line.number, r"\s+#")
        if match := ORIGIN.fullmatch(comment):
            yield (f"`{bound}`", f"`{bound.value}`", *match.groups())
        else:
            problems.append(
                f"{bound.line.where}: {bound} = {bound.value} does not say where it comes from. End the line with "
                f"'# stated: where', '# inferred: from what' or '# our choice: why'; got {comment!r}."
            )


def _decisions(file: GinFile, problems: list[str]) -> Iterator[Row]:
    for number, line in enumerate(file.text.splitlines(), 1):
        if not line.startswith("# - "):
            continue
        comment = _comment(file, number, "#   ")
        if match := DECISION.fullmatch(comment.removeprefix("- ")):
            yield match.groups()
        else:
            problems.append(
                f"gin/{file.name}:{number}: expected '# - name: choice; stated: where', or with 'inferred: from what' "
                f"or 'our choice: why' at its end; got {comment!r}."
            )


def _comment(file: GinFile, number: int, continuation: str) -> str:
    """Return the comment of a line, counted from 1, and of those below it that begin with `continuation`."""
    lines = file.text.splitlines()
    below = takewhile(re.compile(continuation).match, lines[number:])
    return " ".join(line.partition("#")[2].strip() for line in (lines[number - 1], *below))


def _needs_origin(bound: Binding) -> bool:
    """Return whether the value is a number, a switch, a tuple of them, or the recipe of a method's views."""
    return _holds_number(bound.value) or (str(bound).endswith(".views") and "@" in str(bound.value))


def _holds_number(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_holds_number, value))
    return isinstance(value, int | float)


def _folder(file: GinFile) -> str:
    return f"gin/{file.name.rpartition('/')[0]}".rstrip("/")


def _introduction(file: GinFile, deviations: Mapping[str, str]) -> Iterator[str]:
    yield f"### {file.name}\n"
    yield f"{_prose(file.text)}\n"
    if includes := [f"`{statement.file}`" for statement in file.statements if isinstance(statement, Include)]:
        yield f"Includes {', '.join(includes)}.\n"
    for name in dict.fromkeys(name for bound in file.bindings for name in REFERENCE.findall(str(bound.value))):
        if name in deviations:
            yield f"`{name}` differs from the paper: {deviations[name]}\n"


def _prose(text: str) -> str:
    """Return the paragraphs of a head comment, without indented commands and the sentences that introduce them."""
    head = [line[2:] for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    parts = [" ".join(lines) for command, lines in groupby(head, lambda line: line.startswith(" ")) if not command]
    return "\n\n".join(re.sub(r" [^.]*:$", "", part) for part in parts)
