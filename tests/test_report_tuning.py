"""The choice of a rate from trials, and what a page says of it."""

import json

import pytest
from report_records import RECIPE, metrics, run, trial, tuning

from benchmark.errors import BenchmarkError
from benchmark.report.formats import as_json, latex
from benchmark.report.markdown import render
from benchmark.report.record import Record, validate
from benchmark.report.tuning import FIRST_FACTORS, Contest, contests, factor


def trials(*scores: float) -> list[Record]:
    return [trial(factor, score) for factor, score in zip(FIRST_FACTORS, scores, strict=True)]


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


def test_the_rate_of_the_recipe_stays_unless_another_is_clearly_better() -> None:
    """Oracle: by hand, on 1,000 images of a hold-out: two scores about 0.5 differ by chance by up to 4.4 points."""
    for scores, chosen, missing in (
        ({}, None, (0.5, 1.0, 2.0)),
        ({0.5: 0.5, 1.0: 0.5}, None, (2.0,)),
        ({0.5: 0.54, 1.0: 0.5, 2.0: 0.5}, 1.0, ()),
        ({0.5: 0.55, 1.0: 0.5, 2.0: 0.5}, 0.5, (0.25,)),
        ({0.25: 0.54, 0.5: 0.55, 1.0: 0.5, 2.0: 0.5}, 0.5, ()),
        ({0.25: 0.56, 0.5: 0.55, 1.0: 0.5, 2.0: 0.5}, 0.25, (0.125,)),
        ({0.5: 0.4, 1.0: 0.5, 2.0: 0.6, 4.0: 0.7}, 4.0, (8.0,)),
        ({0.5: 0.4, 1.0: 0.5, 2.0: 0.6, 4.0: 0.7, 8.0: 0.8, 16.0: 0.9}, 16.0, ()),
        ({0.0625: 0.9, 0.125: 0.8, 0.25: 0.7, 0.5: 0.6, 1.0: 0.5, 2.0: 0.4}, 0.0625, ()),
    ):
        tried = [trial(each, value, share=0.25, dataset__sizes__test=1000) for each, value in scores.items()]
        contest = contests(tried).get(RECIPE, Contest(()))
        assert contest.missing == missing
        if not missing:
            assert contest.tuning["factor"] == chosen
            assert contest.tuning["share"] == 0.25


def test_trials_of_two_rules_have_a_table_each() -> None:
    """Oracle: scores and rules by hand; a factor that a method did not try is empty."""
    recipe = "cd" * 32
    new = [trial(each, value, recipe, share=0.25) for each, value in ((0.5, 0.3), (1.0, 0.4), (2.0, 0.7), (4.0, 0.6))]
    terms = {"division": "tuned", "tuning": contests(new)[recipe].tuning, "method__name": "beta"}
    page = render([*board(), *new, run("beta", 0, 0.9, **terms)])
    assert page.count(", learning rate trials") == 2
    assert "| method | 0.25 | 0.5 | 1 | 2 | 4 | chosen |" in page
    assert "| method | 0.5 | 1 | 2 | 4 | chosen |" in page
    assert "| beta | 30.00 | 40.00 | 70.00 | 60.00 | 2 |" in page
    assert "after 0.0625 of the budget" in page
    assert "after 0.25 of the budget" in page
    assert "by a rule that is no longer used" in page


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
        assert contest.missing
        assert [factor(each) for each in contest.trials] == ([4.0] if other["metrics"] else [0.25, 0.5, 1.0, 2.0])
        alike = [trial(each, 0.5, **changes, created_utc=later) for each in FIRST_FACTORS]
        contest = contests([*trials(0.5, 0.6, 0.7, 0.8, 0.5), *alike])[RECIPE]
        assert not contest.missing
        assert not other["metrics"] or {each["created_utc"] for each in contest.trials} == {later}


def test_hardware_is_a_term_where_it_decides_the_steps() -> None:
    """Oracle: trials on two processors are a contest for a budget in FLOPs, and none for one in seconds."""
    for kind, is_complete in (("flops", True), ("device_seconds", False)):
        here = [trial(each, 0.5, budget__kind=kind) for each in FIRST_FACTORS[:4]]
        elsewhere = trial(4.0, 0.5, budget__kind=kind, environment__processor="Other CPU")
        contest = contests([*here, elsewhere])[RECIPE]
        assert (len(contest.trials) == len(FIRST_FACTORS)) == is_complete


def test_missing_trials_are_named() -> None:
    """Oracle: the factors that were tried and the command that makes the rest."""
    with pytest.raises(BenchmarkError, match=r"There are: 0.25, 4\. Still to be tried: 0.5, 1, 2\. Make"):
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
    others = [trial(each, 0.9 - each / 10, recipe) for each in FIRST_FACTORS]
    other = run("alpha", 0, 0.6, division="tuned", config__key="ba5eba11", tuning=contests(others)[recipe].tuning)
    page = render([*board(), *others, other])
    assert "| alpha (616c7068) | 50.00 | 60.00 | 70.00 | 80.00 | 50.00 | 2 |" in page
    assert "| alpha (ba5eba11) | 87.50 | 85.00 | 80.00 | 70.00 | 50.00 | 0.25 |" in page
    assert "20.00 TFLOPs and 15.0 device minutes" in page


def test_a_method_that_was_tuned_twice_shows_the_newer_trials() -> None:
    """Oracle: newer trials chose 0.25 in place of 2.0; the older ones are neither shown nor charged."""
    newer = [trial(each, 0.9 - each / 10, created_utc="2026-03-01T12:00:00Z") for each in FIRST_FACTORS]
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
