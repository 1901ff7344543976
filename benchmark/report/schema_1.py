"""The first schema of the record, which is read for ever: its code, and what its configurations leave unsaid."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from benchmark.report.fields import Checkout, Common, Sha256

PLACES = (".source", ".streamed", ".list_file", ".teacher_weights", "experiment.seed")
DEFAULTS = Path(__file__).with_name("defaults_of_schema_1.txt")


class CodeOfSchema1(Checkout):
    """The code of early records, which knew it by hashes of its text."""

    protocol_sha256: Sha256
    evaluation_sha256: Sha256


class RecordOfSchema1(Common):
    """The record of a run in its first schema."""

    schema: Literal[1]
    code: CodeOfSchema1


def counting(values: Mapping[str, str]) -> frozenset[str]:
    """Return which parameters of an early text make up its identity: those that were neither default nor place then."""
    lines = {name: f"{name.rpartition('/')[2]} = {value}" for name, value in values.items()}
    return frozenset(name for name in values if not name.endswith(PLACES) and lines[name] not in _defaults())


@cache
def _defaults() -> frozenset[str]:
    return frozenset(DEFAULTS.read_text(encoding="utf-8").splitlines())
