"""What identifies a run: its configuration without the seed, locations, and values that equal their default.

A new option with a default therefore changes no identity. A canonical text has three sections: the lines that count,
those that equal their default, and the seed with the locations. Texts of records of schema 1 have one section; which
of their lines were defaults or locations is kept in `schema_1`.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from benchmark.report import schema_1

DEFAULTS = "# equal to their defaults"
PLACES = "# the seed, and where things lie"
ROOT = "experiment"
SEED = f"{ROOT}.seed"
REFERENCE = re.compile(r"'[^']*'|\"[^\"]*\"|@([\w./]+)")  # quoted text holds no references
ABSOLUTE = re.compile(r"""(['"])((?:\w{2,}:)?)(?:[/~\\]|[A-Za-z]:[\\/])(?:(?!\1).)*?((?:(?!\1)[^/\\])+)[/\\]*\1""")


@dataclass(frozen=True)
class Canonical:
    """A canonical configuration: all its values by parameter, and the names of those that identify it."""

    lines: Mapping[str, str]
    counting: frozenset[str]

    @property
    def identity(self) -> dict[str, str]:
        """The values that distinguish this configuration from others, by parameter."""
        return {name: value for name, value in self.lines.items() if name in self.counting}

    def part(self, roots: Iterable[str]) -> dict[str, str]:
        """Return the part of the identity that some parameters reach: their values, and all that these refer to."""
        roots = list(roots)
        reached = {*roots, *within(self.lines, references(self.lines, roots))}
        return {name: value for name, value in self.identity.items() if name in reached}

    def reached_without(self, parameters: Iterable[str]) -> set[str]:
        """Return all parameters that the root reaches without some of them, and so without what only these refer to."""
        excluded = set(parameters)
        lines = {name: value for name, value in self.lines.items() if name not in excluded}
        roots = {name for name in lines if name.rpartition(".")[0] == ROOT}
        return roots | within(lines, references(lines, roots))


@cache
def canonical(text: str) -> Canonical:
    count, _, rest = text.partition(f"\n{DEFAULTS}\n")
    defaults, _, places = rest.partition(f"\n{PLACES}\n")
    counting, others = _values(count), _values(defaults) | _values(places)
    if not others:
        return Canonical(counting, schema_1.counting(counting))
    return Canonical(counting | others, frozenset(counting))


def digest(values: Mapping[str, str], *more: object) -> str:
    """Return the SHA-256 (64 hex digits) of some values and of what else distinguishes runs, such as the data."""
    parts = [sorted(values.items()), *map(str, more)]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def references(lines: Mapping[str, str], roots: Iterable[str]) -> set[str]:
    """Return the configurables that the values of some parameters reference, and what theirs reference in turn."""
    parameters: dict[str, list[str]] = defaultdict(list)
    for parameter in lines:
        parameters[parameter.rpartition(".")[0]].append(parameter)
    names: set[str] = set()
    pending = list(roots)
    while pending:
        value = lines.get(pending.pop(), "")
        for name in filter(None, REFERENCE.findall(value) if "@" in value else ()):
            if name not in names:
                names.add(name)
                pending += parameters[name]
    return names


def within(lines: Mapping[str, str], configurables: Collection[str]) -> set[str]:
    """Return the parameters of the configurables."""
    return {name for name in lines if name.rpartition(".")[0] in configurables}


def without_paths(text: str) -> str:
    """Return a canonical text whose absolute paths are cut to their last part, to keep a machine's folders private."""
    return ABSOLUTE.sub(r"\1\2\3\1", text)


def _values(text: str) -> dict[str, str]:
    parts = (line.partition(" = ") for line in text.splitlines())
    return {name: value for name, equals, value in parts if equals}
