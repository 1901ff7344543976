"""Schema 1 of the record, which stays readable: its code, and which lines of its configurations were defaults."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from benchmark.report.fields import Checkout, Sha256
from benchmark.report.schema import Common

PLACES = (".source", ".streamed", ".list_file", ".teacher_weights", "experiment.seed")
DEFAULTS = Path(__file__).with_name("defaults_of_schema_1.txt")


class CodeOfSchema1(Checkout):
    """The code in records of schema 1, which identified it by hashes of its text."""

    protocol_sha256: Sha256
    evaluation_sha256: Sha256


class RecordOfSchema1(Common):
    """The record of a run in schema 1."""

    schema: Literal[1]
    code: CodeOfSchema1


def counting(values: Mapping[str, str]) -> frozenset[str]:
    """Return the parameters that identify a configuration of schema 1: neither defaults nor locations at that time."""
    lines = {name: f"{name.rpartition('/')[2]} = {value}" for name, value in values.items()}
    return frozenset(name for name in values if not name.endswith(PLACES) and lines[name] not in _defaults())


@cache
def _defaults() -> frozenset[str]:
    return frozenset(DEFAULTS.read_text(encoding="utf-8").splitlines())
