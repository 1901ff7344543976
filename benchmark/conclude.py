"""The end of every run and evaluation: its record is written and published, and its row is printed."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

from benchmark.report import record as records
from benchmark.report.identity import without_paths
from benchmark.report.record import Record
from benchmark.report.tables import row

SMOKE = {"digits": "The digits are a smoke set: raw pixels reach 97 %, so these numbers rank nothing."}
FEW = 200  # test images: below, the interval of an accuracy is wider than 6.8 points on either side


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
    tested = record["dataset"]["sizes"]["test"]
    if record["metrics"] and tested < FEW:
        print(
            f"There are {tested} test images: the 95 % interval (Wilson) around an accuracy of 50 % is "
            f"± {100 * half_width(tested):.0f} points, so small differences say nothing."
        )
    print(f"record: {path}")
    return record


def public(record: Mapping[str, Any], board: Path) -> Record:
    """Return the record as a board has it: without absolute paths, as where somebody's files lie is private."""
    config = {**record["config"], "text": without_paths(record["config"]["text"])}
    return records.seal({**record, "board": board.name, "config": config})


def half_width(n: int) -> float:
    """Return the half width of Wilson's 95 % interval of a proportion, where one half of `n` was observed.

    That is where it is widest: z / (2 sqrt(n + z^2)), with z the normal quantile (Wilson 1927).
    """
    z = NormalDist().inv_cdf(0.975)
    return z / (2 * math.sqrt(n + z**2))
