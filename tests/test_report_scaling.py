"""Accuracy against budget: which methods have a line, in which order, and what counts as another table."""

import random
from typing import Any

import pytest
from report_records import heads, metrics, run

from benchmark.report.formats import latex
from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render
from benchmark.report.record import Record
from benchmark.report.scaling import scaling_tables

AMOUNTS = (2e12, 8e12, 3.2e13)


def climb(method: str, *means: float | None, seeds: int = 3, **changes: Any) -> list[Record]:
    """Runs of a method at each budget; a different configuration each, as the budget is a part of it."""
    return [
        run(method, seed, mean + seed / 1000, **{"budget__amount": amount, "config__key": f"{place}" * 16} | changes)
        for place, (amount, mean) in enumerate(zip(AMOUNTS, means, strict=False))
        if mean is not None
        for seed in range(seeds)
    ]


def test_the_table_by_hand() -> None:
    """Oracle: means by hand, half width t(0.975, 2) = 4.303 times 0.1 / sqrt(3); the best of the last budget first."""
    records = [*climb("alpha", 0.7, 0.8, 0.85), *climb("beta", 0.6, 0.8, 0.9), *climb("gamma", 0.9, 0.9)]
    random.Random(0).shuffle(records)
    (block,) = scaling_tables(sections(records))
    assert block.title == "digits, vit_micro, accuracy against budget, float32, closed division"
    assert block.caption.startswith("linear as mean ± half width")
    assert block.headings == ("method", "2 TFLOPs", "8 TFLOPs", "32 TFLOPs")
    assert block.lines == (
        ("beta", "60.10 ± 0.25", "80.10 ± 0.25", "90.10 ± 0.25"),
        ("alpha", "70.10 ± 0.25", "80.10 ± 0.25", "85.10 ± 0.25"),
    )


def test_two_budgets_are_no_table() -> None:
    """Oracle: nothing, also where three budgets are there but no method has them all."""
    records = [*climb("alpha", 0.7, 0.8), *climb("beta", None, 0.8, 0.9)]
    assert list(scaling_tables(sections(records))) == []


def test_a_gap_is_an_empty_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a fourth budget that one method lacks; it comes after those that have the largest."""
    monkeypatch.setattr(f"{__name__}.AMOUNTS", (*AMOUNTS, 1.28e14))
    (block,) = scaling_tables(
        sections([*climb("alpha", 0.9, 0.9, 0.9, seeds=1), *climb("beta", 0.5, None, 0.5, 0.6, seeds=1)])
    )
    assert block.lines == (
        ("beta", "50.00 (1 seed)", "", "50.00 (1 seed)", "60.00 (1 seed)"),
        ("alpha", *["90.00 (1 seed)"] * 3, ""),
    )


def test_what_differs_is_no_further_budget() -> None:
    """Oracle: three budgets of which the last differs in one thing more."""
    records = climb("alpha", 0.7, 0.8)
    assert list(scaling_tables(sections([*records, *climb("alpha", None, None, 0.9)])))
    for changes in (
        {"dataset__fingerprint": "0ddc0ffee0"},
        {"encoder__patch": 8},
        {"division": "open"},
        {"budget__kind": "samples"},
        {"metrics": {"linear": metrics(0.9, version=2)}},
        {"status": "budget_miss"},
    ):
        assert list(scaling_tables(sections([*records, *climb("alpha", None, None, 0.9, **changes)]))) == [], changes


def test_a_sweep_of_budgets_is_one_line() -> None:
    """Oracle: the budget is the column, what else was varied is in the name."""
    records = []
    for place, amount in enumerate(AMOUNTS):
        for ratio in (0.2, 0.4):
            varied = [f"Budget.amount = {amount}", f"A.ratio = {ratio}"]
            key = f"{place}{int(10 * ratio)}" * 8
            records.append(run("alpha", 0, ratio, budget__amount=amount, config__varied=varied, config__key=key))
    (block,) = scaling_tables(sections(records))
    assert [line[0] for line in block.lines] == ["alpha (A.ratio = 0.4)", "alpha (A.ratio = 0.2)"]


def test_two_configurations_of_one_name_have_no_line() -> None:
    """Oracle: nobody can say which of the two goes on at the next budget."""
    records = [*climb("alpha", 0.7, 0.8, 0.9), run("alpha", 0, 0.1, config__key="f" * 16)]
    assert list(scaling_tables(sections(records))) == []


def test_the_page_shows_it_after_the_tables_of_the_board() -> None:
    """Oracle: the last heading of the board, before the next board; LaTeX has the table as well."""
    records = [*climb("alpha", 0.7, 0.8, 0.9), run("alpha", 0, 0.5, board="zoo")]
    assert heads(render(records), "##")[4:6] == [
        "### digits, vit\\_micro, accuracy against budget, float32, closed division",
        "## zoo",
    ]
    assert r"alpha & 70.10 $\pm$ 0.25 & 80.10 $\pm$ 0.25 & 90.10 $\pm$ 0.25 \\" in latex(records)
