"""Records for the tests of the page: boards with all that it shows, and many records."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report_records import floor, make, metrics, run, trial, tuning

from benchmark.page.page import Page, render
from benchmark.report.record import Record, file_name

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "javascript:alert(1)",
    "</table></section>",
    "\u202egnp.exe\u202c",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "=HYPERLINK(1)",
)
CURVE = {"bank": 400, "queries": 100, "points": [{"step": 100, "knn": 0.4}, {"step": 200, "knn": 0.6}]}


def shown() -> list[Record]:
    """Two boards: one with a ladder of budgets, floors, energy, a curve and a stale method, one that is tuned."""
    floors = [floor(seed, 0.3) for seed in range(2)]
    ids = [record["id"] for record in floors]
    records = [*floors]
    for step, flops in enumerate((1e12, 1e13, 1e14)):
        for place, method in enumerate(("alpha", "beta", "gamma", "delta")):
            for seed in range(3):
                cost = {"cost__flops": flops, "budget__amount": flops, "cost__joules": flops / 1e9 * (place + 1)}
                seconds = flops / 1e10 * (1 + place / 4)
                top1 = 0.5 + 0.1 * step + 0.02 * place + 0.003 * seed
                curve = {
                    "training": run("a", 0, 0)["training"] | {"curve": CURVE},
                    "method__deviations": ["Alpha: No crop."],
                }
                more: dict[str, Any] = curve if method == "alpha" else {}
                records.append(
                    run(method, seed, top1, 0.9 - top1 / 2, floors=ids, cost__train_seconds=seconds, **cost, **more)
                )
    for place, method in enumerate(("beta", "epsilon")):
        trials = [
            trial(each, 0.4 + each / 20, recipe=f"{place}c" * 32, method__name=method, board="tuned")
            for each in (0.5, 1.0)
        ]
        chosen = tuning(1.0, *(record["id"] for record in trials), recipe=f"{place}c" * 32)
        common = {"division": "tuned", "tuning": chosen, "board": "tuned", "environment__gpu": f"GPU {place}"}
        records += trials
        records += [run(method, seed, 0.7 + place / 50 + seed / 300, 0.5, **common) for seed in range(3)]
    return records


def changed(record: Record) -> list[str]:
    """Say that the method gamma has changed."""
    return ["Gamma 1.0, now 2.0"] if record["method"]["name"] == "gamma" else []


def confused(record: Record, evaluation: str) -> Counter[tuple[int, int]] | None:
    """Return confusions of kNN alone: of 50 images a class, 30 are right, and all others of class 0 are taken for 9."""
    right = Counter({(label, label): 30 for label in range(10)})
    wrong = Counter({(label, (label + step) % 10): 4 for label in range(1, 10) for step in range(1, 6)})
    return right + wrong + Counter({(0, 9): 20}) if evaluation == "knn" else None


def many(count: int, seeds: int = 1, boards: int = 1) -> list[Record]:
    """Return about as many records as asked for, in boards of methods with some seeds each."""
    rng = random.Random(0)
    records = []
    for place in range(count // (seeds * boards)):
        for board in range(boards):
            common = {"board": f"board {board}", "cost__train_seconds": 50 + 100 * rng.random()}
            records += [run(f"m{place}", seed, 0.2 + round(0.6 * rng.random(), 3), **common) for seed in range(seeds)]
    return records


def hostile() -> list[Record]:
    """Records whose every text is hostile."""
    records = []
    for text in HOSTILE:
        config = {
            "key": "ab" * 8,
            "text": f"alpha.name = '{text}'\nexperiment.seed = 0\n",
            "varied": [f"a.b = '{text}'"],
        }
        method = {"name": text, "files": [], "module_sha256": None, "deviations": [f"Alpha: {text}"]}
        names = {"board": text, "dataset__name": text, "encoder__name": text, "environment__gpu": text}
        common = {**names, "method": method, "config": config, "code__commit": text}
        for seed in range(2):
            scores = {text: metrics(0.5, flags=[text]), "linear": metrics(0.4 + seed / 10, flags=[text])}
            records.append(make(seed=seed, metrics=scores, **common))
    return records


def places(records: Sequence[Record]) -> dict[str, str]:
    """Return a path for each record, in the folder of its board."""
    return {file_name(record): f"{record['board'] or 'floors'}/{file_name(record)}" for record in records}


def write(records: Sequence[Record], path: Path) -> Path:
    """Write the page of records."""
    page = Page(records, (), changed, places(records), confused=confused)
    path.write_text(render(page), encoding="utf-8")
    return path
