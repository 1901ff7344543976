"""Where the numbers of the gin files come from, as a table that is checked against them and a page made of it.

`gin/provenance.toml` says for every number of every gin file whether its paper states it, what it was inferred from, or
why it is our choice; and the same of decisions that are no number. The same files give the same page, byte for byte.
"""

import ast
import inspect
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from benchmark.errors import CheckError

STATUSES = ("stated", "inferred", "our choice")
DEVIATION = "Differs from the paper:"
DECISIONS = "decisions"
REFERENCE = re.compile(r"@(?:\w+/)*(\w+)")  # the name of a class, without its scopes
INTRODUCTION = """\
<!-- Written by `python -m benchmark.tables` from gin/provenance.toml: do not edit. -->
# Where the numbers come from

Every number, switch and view recipe that a gin file binds is one of three: *stated*, for the very thing that it
configures, by its paper or its authors' code; *inferred*, from another source, which is named; or *our choice*, for a
reason that is given. The same holds for decisions that are no number. A section number without a paper is that of the
paper in the file's title. The methods are in `gin/`; folders below it hold what is laid over them.
"""

Entry = Mapping[str, Any]
Table = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Bound:
    """One binding or macro: its name, its value as gin reads it, and the comment at the end of its line."""

    name: str
    value: object
    comment: str

    @property
    def needs_entry(self) -> bool:
        """Whether the value is a number, a boolean, a tuple of them, or the recipe of a method's views."""
        return _holds_number(self.value) or (self.name.endswith(".views") and "@" in str(_plain(self.value)))


@dataclass(frozen=True)
class GinFile:
    """A gin file: what its head comment says, the files that it includes, and what it binds."""

    head: str
    includes: Sequence[str]
    bindings: Sequence[Bound]


def load(path: Path, files: Mapping[str, GinFile]) -> Table:
    """Read `provenance.toml` and check it against the gin files, which are named by their path below its folder.

    Raises:
        CheckError: with all that is missing, left over, different or misspelt, and the lines to add.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckError(f"{path} is no TOML: {error}") from None
    problems = [f"[{name!r}] is not the table of a gin file; remove it." for name in table if name not in files]
    for name, file in files.items():
        problems += _problems(name, file, table.get(name, {}))
    if problems:
        raise CheckError("\n".join([f"{path} and the gin files disagree:", *problems]))
    return table


def render(files: Mapping[str, GinFile], table: Table, deviations: Mapping[str, str]) -> str:
    """Return the page: counts by status, then for each file its deviations, its numbers and its decisions.

    `deviations` are those of the classes that a file may name, as `read_deviations` gives them.
    """
    named = sorted((name for name in files if name in table), key=lambda name: (_folder(name), name))
    parts = [INTRODUCTION, _counts(named, table)]
    for folder, of_folder in groupby(named, key=_folder):
        parts.append(f"## `{folder}`\n")
        parts += [_section(name, files[name], table[name], deviations) for name in of_folder]
    return "\n".join(parts)


def read_deviations(folder: Path) -> dict[str, str]:
    """Return how the classes of the Python files in `folder` say that they differ from their papers; imports none."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                for paragraph in inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n"):
                    if paragraph.startswith(DEVIATION):
                        found[node.name] = " ".join(paragraph.removeprefix(DEVIATION).split())
    return found


def _problems(name: str, file: GinFile, entries: Mapping[str, Any]) -> Iterator[str]:
    needed = {bound.name: bound for bound in file.bindings if bound.needs_entry}
    for key, entry in _numbers(entries).items():
        where = f"[{name!r}] {key!r}"
        if key not in needed:
            yield f"{where}: gin/{name} binds it to no number, switch or recipe; remove the entry."
        elif problem := _malformed(entry, "value"):
            yield f"{where}: {problem}"
        else:
            bound = needed[key]
            if repr(entry["value"]) != repr(_plain(bound.value)):
                yield f"{where}: expected value = {_toml(bound.value)} as in gin/{name}, got {_toml(entry['value'])}."
            if (entry["status"] == "our choice") != bound.comment.startswith("our choice"):
                yield (
                    f"{where}: status = {entry['status']!r}, but its comment in gin/{name} is {bound.comment!r}; both "
                    f"or neither begin with 'our choice'."
                )
    for key, entry in entries.get(DECISIONS, {}).items():
        if problem := _malformed(entry, "choice"):
            yield f"[{name!r}.{DECISIONS}] {key!r}: {problem}"
    missing = [_stub(bound) for key, bound in needed.items() if key not in entries]
    if missing:
        yield "\n".join([f"[{name!r}] lacks entries. Add these lines and settle status and source:", *missing])


def _malformed(entry: Any, subject: str) -> str:
    """Return what is wrong with an entry about its `subject`, a number's value or the choice made; or nothing."""
    fields = (subject, "status", "source")
    if not isinstance(entry, dict) or set(entry) != set(fields):
        return f"expected {{ {', '.join(f'{field} = ...' for field in fields)} }}, got {entry!r}."
    if entry["status"] not in STATUSES:
        return f"expected the status {', '.join(map(repr, STATUSES))}; got {entry['status']!r}."
    if not (isinstance(entry["source"], str) and entry["source"].strip()):
        return f"expected a source in words, got {entry['source']!r}."
    return ""


def _stub(bound: Bound) -> str:
    status = "our choice" if bound.comment.startswith("our choice") else "stated | inferred"
    source = bound.comment.removeprefix("our choice").lstrip(": ")
    return f'"{bound.name}" = {{ value = {_toml(bound.value)}, status = "{status}", source = {_toml(source)} }}'


def _numbers(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if name != DECISIONS}


def _holds_number(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_holds_number, value))
    return isinstance(value, int | float)


def _plain(value: Any) -> Any:
    """Return the value as TOML can say it: tuples as lists, references as text."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str) else str(value)


def _toml(value: object) -> str:
    """Return a number, boolean, text or list of them in TOML, which writes these as JSON does."""
    return json.dumps(_plain(value), ensure_ascii=False)


def _folder(name: str) -> str:
    return f"gin/{name.rpartition('/')[0]}".rstrip("/")


def _statuses(entries: Mapping[str, Any]) -> Counter[str]:
    every = [*_numbers(entries).values(), *entries.get(DECISIONS, {}).values()]
    return Counter(entry["status"] for entry in every)


def _counts(names: Sequence[str], table: Table) -> str:
    counts = {f"`{name}`": _statuses(table[name]) for name in names}
    counts["all"] = sum(counts.values(), Counter[str]())
    lines = [[name, *(str(count[status]) for status in STATUSES)] for name, count in counts.items()]
    return _markdown(["file", *STATUSES], lines)


def _section(name: str, file: GinFile, entries: Mapping[str, Any], deviations: Mapping[str, str]) -> str:
    blocks = [f"### {name}\n", f"{file.head}\n"]
    if file.includes:
        blocks.append(f"Includes {', '.join(f'`{other}`' for other in file.includes)}.\n")
    references = [REFERENCE.findall(str(_plain(bound.value))) for bound in file.bindings]
    differing = [reference for reference in dict.fromkeys(chain(*references)) if reference in deviations]
    blocks += [f"`{reference}` differs from the paper: {deviations[reference]}\n" for reference in differing]
    numbers = _numbers(entries)
    if numbers:
        lines = [[f"`{key}`", f"`{_toml(entry['value'])}`", *_origin(entry)] for key, entry in numbers.items()]
        blocks.append(_markdown(["name", "value", "status", "source"], lines))
    decisions = entries.get(DECISIONS, {})
    if decisions:
        lines = [[key, entry["choice"], *_origin(entry)] for key, entry in decisions.items()]
        blocks.append(_markdown(["decision", "choice", "status", "source"], lines))
    return "\n".join(blocks)


def _origin(entry: Entry) -> list[str]:
    return [entry["status"], entry["source"]]


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [headings, ["---"] * len(headings), *lines]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in cells)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
