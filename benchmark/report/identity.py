"""What makes two runs the same: their configuration without seed, places, and values that equal their default.

A new option with a default therefore disturbs no record. A canonical text has three sections: the lines that count,
those that equal their default, and the seed with the places where things lie. Texts of before (records of schema 1)
have one section; what was a default and a place then is kept in `schema_1`.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from benchmark.report import schema_1

DEFAULTS = "# equal to their defaults"
PLACES = "# the seed, and where things lie"
ROOT = "experiment"
SEED = f"{ROOT}.seed"
REFERENCE = re.compile(r"'[^']*'|\"[^\"]*\"|@([\w./]+)")  # in quotes it is none
ABSOLUTE = re.compile(r"""(['"])((?:\w{2,}:)?)(?:[/~\\]|[A-Za-z]:[\\/])(?:(?!\1).)*?((?:(?!\1)[^/\\])+)[/\\]*\1""")


@dataclass(frozen=True)
class Canonical:
    """A canonical configuration: all its values by parameter, and the names of those that make up its identity."""

    lines: Mapping[str, str]
    counting: frozenset[str]

    @property
    def identity(self) -> dict[str, str]:
        """The values that tell this configuration from others, by parameter."""
        return {name: value for name, value in self.lines.items() if name in self.counting}

    def part(self, roots: Iterable[str]) -> dict[str, str]:
        """Return the identity of some parameters and of all that their values refer to."""
        roots = list(roots)
        reached = {*roots, *within(self.lines, references(self.lines, roots))}
        return {name: value for name, value in self.identity.items() if name in reached}

    def part_without(self, parameters: Collection[str]) -> dict[str, str]:
        """Return the identity of the root without some of its parameters, and without what these alone refer to."""
        reached = self.reached_without(f"{ROOT}.{name}" for name in parameters)
        return {name: value for name, value in self.identity.items() if name in reached}

    def reached_without(self, parameters: Iterable[str]) -> set[str]:
        """Return all parameters but some, and but those of what these alone refer to."""
        excluded = set(parameters)
        lines = {name: value for name, value in self.lines.items() if name not in excluded}
        roots = {name for name in lines if name.rpartition(".")[0] == ROOT}
        return roots | within(lines, references(lines, roots))


@cache
def canonical(text: str) -> Canonical:
    """Read a canonical text."""
    count, _, rest = text.partition(f"\n{DEFAULTS}\n")
    defaults, _, places = rest.partition(f"\n{PLACES}\n")
    counting, others = _values(count), _values(defaults) | _values(places)
    if not others:
        return Canonical(counting, schema_1.counting(counting))
    return Canonical(counting | others, frozenset(counting))


def digest(values: Mapping[str, str], *more: object) -> str:
    """Return the SHA-256 (64 hex digits) of some values and of what else tells runs apart, such as the data."""
    parts = [sorted(values.items()), *map(str, more)]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def references(lines: Mapping[str, str], roots: Iterable[str]) -> set[str]:
    """Return the configurables that the values of some parameters reference, and what theirs reference in turn."""
    known: set[str] = set()
    pending = list(roots)
    while pending:
        for name in filter(None, REFERENCE.findall(lines.get(pending.pop(), ""))):
            if name not in known:
                known.add(name)
                pending += within(lines, {name})
    return known


def within(lines: Mapping[str, str], configurables: Collection[str]) -> set[str]:
    """Return the parameters of the configurables."""
    return {name for name in lines if name.rpartition(".")[0] in configurables}


def without_paths(text: str) -> str:
    """Return a canonical text whose absolute paths are cut to their last part: where files lay is nobody's business."""
    return ABSOLUTE.sub(r"\1\2\3\1", text)


def _values(text: str) -> dict[str, str]:
    parts = (line.partition(" = ") for line in text.splitlines())
    return {name: value for name, equals, value in parts if equals}
