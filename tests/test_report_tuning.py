"""The choice of a rate from trials, and what a page says of it."""

import json

import pytest
from report_records import RECIPE, metrics, run, trial, tuning

from benchmark.errors import BenchmarkError
from benchmark.report.formats import as_json, latex
from benchmark.report.markdown import render
from benchmark.report.record import Record, validate
from benchmark.report.tuning import FACTORS, contests, factor


def trials(*scores: float) -> list[Record]:
    return [trial(factor, score) for factor, score in zip(FACTORS, scores, strict=True)]


def test_the_best_trial_wins_and_ties_stay_near_the_recipe() -> None:
    """Oracle: the winners by hand: the best; of equals the nearest to the recipe, then the slower rate; only five equal
    scores are tied."""
    for scores, winner in (
        ((0.1, 0.2, 0.3, 0.4, 0.5), 4.0),
        ((0.5, 0.4, 0.3, 0.2, 0.1), 0.25),
        ((0.5, 0.5, 0.5, 0.5, 0.5), 1.0),
        ((0.5, 0.5, 0.1, 0.5, 0.5), 0.5),
        ((0.5, 0.1, 0.1, 0.1, 0.5), 0.25),
    ):
        contest = contests(trials(*scores))[RECIPE]
        assert factor(contest.winner) == contest.tuning["factor"] == winner
        assert contest.is_tied == (len(set(scores)) == 1)


def test_a_contest_adds_up_and_keeps_the_newest_of_each_factor() -> None:
    """Oracle: ids and sums by hand; an older trial with a better score does not count, nor does another recipe."""
    old = trial(0.25, 0.99, created_utc="2025-01-01T00:00:00Z")
    other = trial(2.0, 0.98, "cd" * 32)
    records = trials(0.5, 0.6, 0.7, 0.6, 0.5)
    contest = contests([*records, old, other, run("alpha", 0, 0.9)])[RECIPE]
    ids = [record["id"] for record in records]
    assert contest.tuning == {**tuning(1.0, *ids), "flops": 5 * 2e12, "seconds": 5 * 90.0}


def test_trials_on_other_terms_are_not_mixed() -> None:
    """Oracle: one of five that was made otherwise, and is the newest, makes no contest with the other four; one
    without a score is none. All five on the new terms are a contest."""
    later = "2026-03-01T12:00:00Z"
    for changes in (
        {"metrics": {"knn": metrics(0.9)}},
        {"metrics": {"linear": metrics(0.9, version=2)}},
        {"metrics": {}},
        {"budget__amount": 1e12},
        {"dataset__fingerprint": "beef"},
        {"seed": 1},
        {"code__versions": {"pretraining": "2.0"}},
        {"code__versions": {"Alpha": "3.0"}},
    ):
        other = trial(4.0, 0.9, **changes, created_utc=later)
        contest = contests([*trials(0.5, 0.6, 0.7, 0.8, 0.5)[:4], other])[RECIPE]
        assert not contest.is_complete
        assert [factor(each) for each in contest.trials] == ([4.0] if other["metrics"] else [0.25, 0.5, 1.0, 2.0])
        alike = [trial(each, 0.5, **changes, created_utc=later) for each in FACTORS]
        contest = contests([*trials(0.5, 0.6, 0.7, 0.8, 0.5), *alike])[RECIPE]
        assert contest.is_complete
        assert not other["metrics"] or {each["created_utc"] for each in contest.trials} == {later}


def test_hardware_is_a_term_where_it_decides_the_steps() -> None:
    """Oracle: trials on two processors are a contest for a budget in FLOPs, and none for one in seconds."""
    for kind, is_complete in (("flops", True), ("device_seconds", False)):
        here = [trial(each, 0.5, budget__kind=kind) for each in FACTORS[:4]]
        elsewhere = trial(4.0, 0.5, budget__kind=kind, environment__processor="Other CPU")
        assert contests([*here, elsewhere])[RECIPE].is_complete == is_complete


def test_missing_trials_are_named() -> None:
    """Oracle: the factors that were tried and the command that makes the rest."""
    with pytest.raises(BenchmarkError, match=r"there are: 0.25, 4\. Make them with .*--tune"):
        _ = contests([trial(0.25, 0.5), trial(4.0, 0.5)])[RECIPE].tuning


def board() -> list[Record]:
    tried = trials(0.5, 0.6, 0.7, 0.8, 0.5)
    chosen = {"division": "tuned", "tuning": contests(tried)[RECIPE].tuning}
    return [
        *tried,
        *(run("alpha", seed, 0.7 + seed / 100 + 0.1 * bool(how), **how) for how in (chosen, {}) for seed in (0, 1)),
    ]


def test_the_page_leads_with_the_tuned_division_and_shows_the_trials() -> None:
    """Oracle: the order of headings, the factor beside the method, five scores with the chosen one bold, their cost."""
    records = board()
    assert all(validate(record) == [] for record in records)
    page = render(records)
    assert page.index(", tuned division\n") < page.index(", learning rate trials") < page.rindex("\n### digits")
    assert "| 1 | alpha | 2 | **80.50 " in page
    assert "| alpha | 50.00 | 60.00 | 70.00 | 80.00 | 50.00 | 2 |" in page
    assert "10.00 TFLOPs and 7.5 device minutes" in page
    assert "50.00 (1 seed)" not in page
    assert page == render(records[::-1])
    factors = {line["division"]: line["rate_factor"] for line in json.loads(as_json(records))}
    assert factors == {"tuned": 2.0, "closed": None}
    lines = [line.split(" & ") for line in latex(records).splitlines() if " & " in line]
    assert [line[2] for line in lines if line[0] == ""] == ["LR x", "linear"]
    assert [line[2] for line in lines if line[0] == "1"] == ["2", r"\textbf{70.50 $\pm$ 6.35}"]


def test_each_line_shows_the_trials_that_its_record_names() -> None:
    """Oracle: two configurations of a method, one tuned to 2.0 and one to 0.25; all ten trials cost."""
    recipe = "cd" * 32
    others = [trial(each, 0.9 - each / 10, recipe) for each in FACTORS]
    other = run("alpha", 0, 0.6, division="tuned", config__key="ba5eba11", tuning=contests(others)[recipe].tuning)
    page = render([*board(), *others, other])
    assert "| alpha (616c7068) | 50.00 | 60.00 | 70.00 | 80.00 | 50.00 | 2 |" in page
    assert "| alpha (ba5eba11) | 87.50 | 85.00 | 80.00 | 70.00 | 50.00 | 0.25 |" in page
    assert "20.00 TFLOPs and 15.0 device minutes" in page


def test_a_method_that_was_tuned_twice_shows_the_newer_trials() -> None:
    """Oracle: newer trials chose 0.25 in place of 2.0; the older ones are neither shown nor charged."""
    newer = [trial(each, 0.9 - each / 10, created_utc="2026-03-01T12:00:00Z") for each in FACTORS]
    terms = {"division": "tuned", "tuning": contests(newer)[RECIPE].tuning, "created_utc": "2026-03-01T12:00:00Z"}
    page = render([*board(), *newer, run("alpha", 0, 0.6, config__key="ba5eba11", **terms)])
    assert "| alpha | 87.50 | 85.00 | 80.00 | 70.00 | 50.00 | 0.25 |" in page
    assert "10.00 TFLOPs and 7.5 device minutes" in page


def test_a_record_says_how_its_rate_was_chosen_if_it_was() -> None:
    """Oracle: the schema's sentence for each contradiction, and for a division that lacks it."""
    for division, named, problem in (("closed", ["0"], "only"), ("tuned", [], "some"), ("trial", ["0"], "none for")):
        assert problem in validate(run("alpha", 0, 0.5, division=division, tuning=tuning(1.0, *named)))[0]
    assert "only" in validate(run("alpha", 0, 0.5, division="tuned"))[0]


def test_lines_of_changed_code_are_marked() -> None:
    """Oracle: the notes of the line whose record the code does not fit any more, and no other."""
    stale, fresh = run("alpha", 0, 0.9), run("beta", 0, 0.8)
    page = render([stale, fresh], changed=lambda record: ("method",) if record["id"] == stale["id"] else ())
    lines = {line.split(" | ")[1]: line for line in page.splitlines() if line.startswith("|")}
    assert lines["alpha (2026-01-31)"].endswith("| stale (method) |")
    assert "stale" not in lines["beta"]
