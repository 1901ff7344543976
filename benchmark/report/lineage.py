"""Code that gives the results of other code, as declared in `lineage.toml`: its records may stand in one table."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from benchmark.errors import ConfigError

LINEAGE = Path(__file__).with_name("lineage.toml")
Part = Literal["pretraining", "evaluation", "method"]


def ancestor(code: str) -> str:
    """Return the hash of the oldest code that gives the results of this one; its own where none is declared."""
    return _ancestors(LINEAGE).get(code, code)


@cache
def _ancestors(file: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        declared = tomllib.loads(file.read_text())
        pairs = [(str(before), str(after)) for change in declared.pop("change", []) for before, after in change["same"]]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file}: expected tables [[change]] with `same`, pairs of hashes; {error!r}.") from error
    if declared:
        raise ConfigError(f"{file}: expected tables [[change]] alone, got {', '.join(declared)}.")
    for before, after in pairs:
        old, new = found.get(before, before), found.get(after, after)
        found = {code: old if oldest == new else oldest for code, oldest in found.items()} | {old: old, new: old}
    return found
