"""Ten thousand records become every table in seconds, and are audited in seconds, without torch."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_records import run, trial, tuning

from benchmark.report.record import read, seal, write
from benchmark.report.tuning import FIRST_FACTORS

RESULTS = Path(__file__).parents[1] / "results"
ORDER = {"floor": 0, "trial": 1}  # before the runs that name them
RENDERED = """
import json, sys, time
from pathlib import Path
from benchmark.report.formats import FORMATS
from benchmark.report.cells import load
from benchmark.report.markdown import render
records = load(Path(sys.argv[1]))
pages = [render(records), *(form(records) for form in FORMATS.values())]
report = {"records": len(records), "seconds": time.process_time(), "lengths": list(map(len, pages))}
print(json.dumps(report | {"torch": "torch" in sys.modules}))
"""


def board(folder: Path, number: int, rng: random.Random) -> None:
    """Write a board of 20 methods: five trials and five tuned runs of each."""

    def score() -> float:
        return (50 + round(rng.random() * 400)) / 500

    for method in (f"m{place}" for place in range(20)):
        recipe = hashlib.sha256(f"{number} {method}".encode()).hexdigest()
        common = {"board": f"b{number}", "method__name": method}
        trials = [
            trial(each, score(), recipe, config__key=f"{place}{recipe[:15]}", **common)
            for place, each in enumerate(FIRST_FACTORS)
        ]
        chosen = tuning(1.0, *(record["id"] for record in trials), recipe=recipe, flops=1e13)
        runs = [run(method, seed, score(), division="tuned", tuning=chosen, **common) for seed in range(5)]
        for record in (*trials, *runs):
            write(record, folder / f"b{number}")


@pytest.mark.long
def test_ten_thousand_records_take_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the processor's clock of a fresh process: all tables of 50 boards in under 14 s, start included.

    It took 5 s of one machine, and 9 of another that other processes shared; the bound is what the slower may take.
    """
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    rng = random.Random(0)
    for number in range(50):
        board(tmp_path, number, rng)
    done = subprocess.run([sys.executable, "-c", RENDERED, tmp_path], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["records"] == 10_000
    assert min(report["lengths"]) > 100_000
    assert not report["torch"]
    print(f"{report['records']:,} records loaded and rendered in {report['seconds']:.1f} s of the processor")
    assert report["seconds"] < 14


AUDITED = """
import json, sys, time
from pathlib import Path
from benchmark.report.audit import audit
problems = audit(Path(sys.argv[1]))
print(json.dumps({"problems": problems[:3], "seconds": time.process_time(), "torch": "torch" in sys.modules}))
"""


def copies(folder: Path, number: int) -> int:
    """Write all published records once more, on boards of their own and with floors of their own; return how many."""
    ids: dict[str, str] = {}
    records = [read(path) for path in sorted(RESULTS.rglob("*.json"))]
    for record in sorted(records, key=lambda record: ORDER.get(record["division"], 2)):
        copy: Any = json.loads(json.dumps(record))
        copy.pop("published", None)
        copy["board"] = record["board"] and f"{record['board']}_{number}"
        copy["environment"]["os"] += f" {number}"
        copy["floors"] = [ids[each] for each in record["floors"]]
        if record["tuning"]:
            copy["tuning"]["trials"] = [ids[each] for each in record["tuning"]["trials"]]
        sealed = seal(copy)
        ids[record["id"]] = sealed["id"]
        write(sealed, folder / (copy["board"] or f"floors_{number}"))
    return len(records)


@pytest.mark.long
def test_ten_thousand_records_are_audited_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the processor's clock of a fresh process: copies of the published records are sound, in under 10 s.

    A processor that others share may take half as long again.
    """
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    count = number = 0
    while count < 10_000:
        count += copies(tmp_path, number)
        number += 1
    done = subprocess.run([sys.executable, "-c", AUDITED, tmp_path], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert not report["torch"]
    print(f"{count:,} records audited in {report['seconds']:.1f} s of the processor")
    assert report["seconds"] < 10
