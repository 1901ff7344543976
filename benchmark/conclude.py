"""The end of every run and evaluation: its record is written and published, and its row is printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.report import record as records
from benchmark.report.identity import without_paths
from benchmark.report.record import Record
from benchmark.report.tables import row

SMOKE = {"digits": "The digits are a smoke set: raw pixels reach 97 %, so these numbers rank nothing."}


def conclude(record: Record, floors: list[Record], folder: Path, publish: Path | None) -> Record:
    """Write the record, publish it with its floors if asked, print its row and return it as it was last written."""
    path = records.write(record, folder)
    if publish:
        record = public(record, publish)
        for each in (*floors, record):
            path = records.write(each, publish)
    print(f"\n{row(record, floors)}")
    if record["dataset"]["name"] in SMOKE:
        print(SMOKE[record["dataset"]["name"]])
    print(f"record: {path}")
    return record


def public(record: Mapping[str, Any], board: Path) -> Record:
    """Return the record as a board has it: without absolute paths, as where somebody's files lie is private."""
    config = {**record["config"], "text": without_paths(record["config"]["text"])}
    return records.seal({**record, "board": board.name, "config": config})
