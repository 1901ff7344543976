"""The choice of a rate from trials, and what a page says of it."""

import json
from typing import Any

import pytest
from report_records import run

from benchmark.errors import BenchmarkError
from benchmark.report.formats import as_json
from benchmark.report.record import Record, validate
from benchmark.report.tables import render
from benchmark.report.tuning import FACTORS, contests, factor

RECIPE = "ab" * 32


def trial(factor: float, linear: float, **changes: Any) -> Record:
    tuning = {"recipe": RECIPE, "factor": factor, "trials": [], "flops": 0.0, "seconds": 0.0}
    return run(
        changes.pop("method", "alpha"), 1000, linear, division="trial", tuning=changes.pop("tuning", tuning), **changes
    )


def trials(*scores: float) -> list[Record]:
    return [trial(factor, score) for factor, score in zip(FACTORS, scores, strict=True)]


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), 4.0),
        ((0.5, 0.4, 0.3, 0.2, 0.1), 0.25),
        ((0.5, 0.5, 0.5, 0.5, 0.5), 1.0),
        ((0.5, 0.5, 0.1, 0.5, 0.5), 0.5),
        ((0.5, 0.1, 0.1, 0.1, 0.5), 0.25),
    ],
)
def test_the_best_trial_wins_and_ties_stay_near_the_recipe(scores: tuple[float, ...], winner: float) -> None:
    """Oracle: the winners by hand: the best; of equals the nearest to the recipe, then the slower rate."""
    contest = contests(trials(*scores))[RECIPE]
    assert factor(contest.winner) == winner
    assert contest.tuning["factor"] == winner


def test_a_contest_adds_up_and_keeps_the_newest_of_each_factor() -> None:
    """Oracle: ids and sums by hand; an older trial with a better score does not count, nor does another recipe."""
    old = trial(0.25, 0.99, created_utc="2025-01-01T00:00:00Z")
    other = trial(2.0, 0.98, tuning={"recipe": "cd" * 32, "factor": 2.0, "trials": [], "flops": 0.0, "seconds": 0.0})
    found = trials(0.5, 0.6, 0.7, 0.6, 0.5)
    contest = contests([*found, old, other, run("alpha", 0, 0.9)])[RECIPE]
    assert contest.tuning == {
        "recipe": RECIPE,
        "factor": 1.0,
        "trials": [record["id"] for record in found],
        "flops": 5 * 2e12,
        "seconds": 5 * 90.0,
    }


def test_missing_trials_are_named() -> None:
    """Oracle: the factors that were tried and the command that makes the rest."""
    with pytest.raises(BenchmarkError, match=r"there are: 0.25, 4\. Make them with .*--tune"):
        _ = contests([trial(0.25, 0.5), trial(4.0, 0.5)])[RECIPE].tuning


def board() -> list[Record]:
    found = trials(0.5, 0.6, 0.7, 0.8, 0.5)
    tuning = contests(found)[RECIPE].tuning
    tuned = [run("alpha", seed, 0.8 + seed / 100, division="tuned", tuning=tuning) for seed in (0, 1)]
    return [*found, *tuned, *(run("alpha", seed, 0.7 + seed / 100) for seed in (0, 1))]


def test_the_page_leads_with_the_tuned_division_and_shows_the_trials() -> None:
    """Oracle: the order of headings, the factor beside the method, five scores with the chosen one bold, their cost."""
    records = board()
    assert all(validate(record) == [] for record in records)
    page = render(records)
    assert page.index(", tuned division\n") < page.index(", trials of the rate") < page.rindex("\n### digits")
    assert "| 1 | alpha | 2 | **80.50 " in page
    assert "| alpha | 50.00 | 60.00 | 70.00 | 80.00 | 50.00 | 2 |" in page
    assert "10.00 TFLOPs and 7.5 device minutes" in page
    assert "50.00 (1 seed)" not in page
    assert page == render(records[::-1])
    factors = {line["division"]: line["rate_factor"] for line in json.loads(as_json(records))}
    assert factors == {"tuned": 2.0, "closed": None}


@pytest.mark.parametrize(
    ("division", "named", "problem"),
    [("closed", ["0"], "alone"), ("tuned", [], "expected some"), ("trial", ["0"], "none for a trial")],
)
def test_a_record_says_how_its_rate_was_chosen_if_it_was(division: str, named: list[str], problem: str) -> None:
    """Oracle: the schema's sentence for each contradiction, and for a division that lacks it."""
    tuning = {"recipe": RECIPE, "factor": 1.0, "trials": named, "flops": 0.0, "seconds": 0.0}
    assert problem in validate(run("alpha", 0, 0.5, division=division, tuning=tuning))[0]
    assert "alone" in validate(run("alpha", 0, 0.5, division="tuned"))[0]


def test_lines_of_changed_code_are_marked() -> None:
    """Oracle: the notes of the line whose record the code does not fit any more, and no other."""
    stale, fresh = run("alpha", 0, 0.9), run("beta", 0, 0.8)
    page = render([stale, fresh], changed=lambda record: ("method",) if record["id"] == stale["id"] else ())
    lines = {line.split(" | ")[1]: line for line in page.splitlines() if line.startswith("|")}
    assert lines["alpha"].endswith("| stale (method) |")
    assert "stale" not in lines["beta"]
