"""How long trials have to be: what choices lose, on scores that are written by hand."""

import re
from pathlib import Path

import pytest
from report_records import trial

from benchmark.report.cells import load
from benchmark.report.rates import studies
from benchmark.report.record import Record

ROOT = Path(__file__).parents[1]


def tried(share: float, scores: dict[float, float], method: str = "alpha") -> list[Record]:
    """Trials of a method at multiples of its rate on a share of a budget."""
    varied = [f"experiment.budget_share = {share!r}", "experiment.rate_factor = 1.0"]
    common = {"board": "shares", "method__name": method, "config__varied": varied, "dataset__sizes__test": 5000}
    return [
        trial(each, value, config__key=f"{each * 16:08.0f}{share * 16:08.0f}", **common)
        for each, value in scores.items()
    ]


def rows(page: str) -> list[list[str]]:
    lines = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| alpha")]
    return [[cell.strip() for cell in line] for line in lines]


def test_what_a_choice_loses() -> None:
    """Oracle: by hand: a short trial that misleads, one within its noise, and one that shows the best clearly."""
    short, middle = {0.5: 0.56, 1.0: 0.50, 2.0: 0.48}, {0.5: 0.49, 1.0: 0.50, 2.0: 0.51}
    whole = {0.5: 0.60, 1.0: 0.66, 2.0: 0.69}
    records = [*tried(0.0625, short), *tried(0.25, middle), *tried(1.0, whole)]
    pages = studies(records)
    assert list(pages) == ["shares"]
    first, second, third = rows(pages["shares"])
    assert first[3:] == ["56.00", "50.00", "48.00", "0.5", "9.00", "9.00", "0.5", "9.00"]
    assert [*second[6:8], *second[9:]] == ["2", "0.00", "1", "3.00"]
    assert third[6:] == ["2", "0.00", "0.00", "2", "0.00"]
    assert "here about 2.0 points" in pages["shares"]
    assert "| 0.5 | 1 | 2 | best | regret | expected | rule | regret |\n" in pages["shares"]
    lost = [f"{line[8]} and {line[10]} points at {line[1]} of the budget" for line in (first, second, third)]
    assert f"mean over 1 methods: {'; '.join(lost)}." in pages["shares"]
    assert pages == studies(records[::-1])


def test_the_expected_regret_is_that_of_noise() -> None:
    """Oracle: two equal trials are chosen equally often, so that half of the difference is lost."""
    pages = studies([*tried(0.25, {1.0: 0.5, 2.0: 0.5}), *tried(1.0, {1.0: 0.6, 2.0: 0.7})])
    assert float(rows(pages["shares"])[0][7]) == pytest.approx(5.0, abs=0.15)


def test_without_the_whole_budget_nothing_is_lost() -> None:
    """Oracle: empty cells, and the sentence; trials that no sweep of shares made have no page."""
    (page,) = studies(tried(0.25, {0.5: 0.5, 1.0: 0.5})).values()
    assert rows(page)[0][5:] == [""] * 5
    (page,) = studies([*tried(0.25, {0.5: 0.5, 2.0: 0.5}), *tried(1.0, {0.5: 0.5, 2.0: 0.5})]).values()
    assert [line[5:] for line in rows(page)] == [[""] * 5] * 2  # without the recipe's rate there is no rule
    (page,) = studies(tried(0.25, {0.5: 0.5, 1.0: 0.5})).values()
    assert "No method has its trials at the whole budget yet." in page
    assert studies([trial(1.0, 0.5)]) == {}


def test_the_reference_quotes_the_page() -> None:
    """Oracle: the figures of the published study in the sentence that derives the rule from it."""
    (page,) = studies(load(ROOT / "results")).values()
    figures = re.findall(r"([\d.]+) and ([\d.]+) points at ([\d.]+) of", page.splitlines()[-1])
    lost = {share: (best, rule) for best, rule, share in figures}
    text = " ".join((ROOT / "docs/reference.md").read_text().split())
    (short, rule), (quarter, _) = lost["0.0625"], lost["0.25"]
    assert (
        f"a sixteenth of the budget is expected to lose {short} points, at a quarter {quarter}, and the rule {rule}"
        in text
    )
