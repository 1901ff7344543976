"""Orders under other rules: Kendall's tau by scipy, the resampling by simulation, and which columns records support."""

import random
from itertools import pairwise

import numpy as np
import pytest
from report_records import heads, run, tuning
from scipy.stats import kendalltau

from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render
from benchmark.report.orders import _resampled, agreement, kendall_tau, other_rules
from benchmark.report.record import Record

NAMES = ("a", "b", "c", "d")


def of_seeds(means: dict[str, float], noise: float = 0.0, seeds: int = 3, rng: random.Random | None = None) -> dict:
    """Scores of runs that no other rule has, around the means."""
    rng = rng or random.Random(0)
    return {name: {f"{rng.random()}": mean + rng.gauss(0, noise) for _ in range(seeds)} for name, mean in means.items()}


def test_tau_is_scipys() -> None:
    """Oracle: scipy's tau-b, with ties and without, for each of many rows; a difference of rounding is a tie."""
    rng = np.random.default_rng(0)
    for levels in (3, 1000):
        first, second = rng.integers(0, levels, (2, 50, 7))
        expected = [kendalltau(*each).statistic for each in zip(first, second, strict=True)]
        assert kendall_tau(first, second) == pytest.approx(np.nan_to_num(expected))
    rounded = np.array([0.1 + 0.2, 0.3, 0.4])
    assert kendall_tau(rounded, np.array([1.0, 2.0, 3.0])) == pytest.approx(kendalltau([1, 1, 2], [1, 2, 3]).statistic)


def test_agreement_by_hand() -> None:
    """Oracle: one discordant pair of six: 4 / 6; without noise the interval is the point; methods of one rule alone do
    not count; nothing of two methods; no interval of one seed."""
    first = of_seeds({"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6})
    second = of_seeds({"a": 0.8, "b": 0.9, "c": 0.7, "d": 0.6, "e": 0.99})
    agreed = agreement(first, second)
    assert agreed is not None
    assert agreed.tau == pytest.approx(4 / 6)
    assert agreed.interval == pytest.approx((4 / 6, 4 / 6))
    assert str(agreed) == "0.67 (0.67 to 0.67)"
    assert agreement({name: first[name] for name in "ab"}, second) is None
    alone = agreement(first, of_seeds({"a": 0.9, "b": 0.8, "c": 0.7}, seeds=1))
    assert alone is not None
    assert str(alone) == "1.00"


def test_interval_holds_the_tau_of_the_means() -> None:
    """Oracle: the tau of the true means, 1, in at least 85 % of 60 simulated pairs of rules whose methods lie as far
    apart as their seeds spread; the standard error of a mean of three seeds; runs that are the same under both rules
    agree in every resample."""
    means = dict(zip(NAMES, (0.80, 0.78, 0.76, 0.74), strict=True))
    rng, covered = random.Random(0), 0
    for _ in range(60):
        agreed = agreement(of_seeds(means, 0.01, 5, rng), of_seeds(means, 0.01, 5, rng))
        assert agreed is not None
        assert agreed.interval is not None
        covered += agreed.interval[0] <= 1.0 <= agreed.interval[1] + 1e-9
    assert covered >= 51
    values = [0.1, 0.3, 0.8]
    assert np.std(_resampled(values, 0)) == pytest.approx(np.std(values, ddof=1) / np.sqrt(3), rel=0.05)
    noisy = of_seeds(means, 0.05, 5)
    same = agreement(noisy, {name: {key: top1 - 0.1 for key, top1 in runs.items()} for name, runs in noisy.items()})
    assert same is not None
    assert same.interval == pytest.approx((1.0, 1.0))


def board(seeds: int = 2, knn: tuple[float, ...] = (0.6, 0.8, 0.7, 0.5), **changes: object) -> list[Record]:
    """Four methods in the order of their names by the linear probe, and in another by kNN."""
    linear = (0.9, 0.8, 0.7, 0.6)
    return [
        run(name, seed, top1 + seed / 1000, near + seed / 1000, **changes)
        for name, top1, near in zip(NAMES, linear, knn, strict=True)
        for seed in range(seeds)
    ]


def of_tuned(records: list[Record]) -> list[Record]:
    """The same runs in the division tuned."""
    return [
        run(
            record["method"]["name"],
            record["seed"],
            record["metrics"]["linear"]["top1"],
            record["metrics"]["knn"]["top1"],
            division="tuned",
            tuning=tuning(2.0, "0" * 16, recipe=record["method"]["name"].encode().hex().ljust(64, "0")),
        )
        for record in records
    ]


def test_columns_are_those_that_records_support() -> None:
    """Oracle: ranks and taus by hand: by kNN two of six pairs are discordant; the recipes' rates of one seed, in the
    same order but for one pair; images of a table with that budget; no table of its own for these rates."""
    recipes = [*board(seeds=1)[:2], run("c", 0, 0.5), run("d", 0, 0.6)]
    images = board(budget__kind="samples", budget__amount=25_600, division="closed")
    (block,) = other_rules(sections([*of_tuned(board()), *recipes]))
    assert block.title == "digits, vit_micro, 2 TFLOPs, the order under other rules"
    assert block.headings == ("method", "linear, tuned rates", "recipes' rates", "kNN")
    assert block.lines[:4] == (("a", "1", "1", "3"), ("b", "2", "2", "1"), ("c", "3", "4", "2"), ("d", "4", "3", "4"))
    assert block.lines[4][0:3] == ("Kendall's tau", "", "0.67")
    assert block.lines[4][3] == "0.33 (0.33 to 0.33)"
    blocks = list(other_rules(sections([*board(), *images])))
    assert [block.headings for block in blocks] == [
        ("method", "linear", "kNN", "25,600 images"),
        ("method", "linear", "kNN", "2 TFLOPs"),
    ]
    assert blocks[0].lines[4][3] == "1.00 (1.00 to 1.00)"
    timed = board(budget__kind="device_seconds", budget__amount=60.0)
    headings = [block.headings for block in other_rules(sections([*board(), *timed]))]
    assert headings == [("method", "linear", "kNN", "2 TFLOPs"), ("method", "linear", "kNN", "60 device seconds")]
    alone = [
        run(name, 0, 0.5, metrics={"linear": record["metrics"]["linear"]})
        for name, record in zip(NAMES, board(seeds=1), strict=True)
    ]
    assert list(other_rules(sections(alone))) == []
    assert list(other_rules(sections(board()[:4]))) == []
    assert list(other_rules(sections(board(division="open")))) == []


def test_the_page_shows_it_after_the_tables_of_a_data_set() -> None:
    """Oracle: the headings in order; over two data sets the tau of their orders, by hand 1 where these are equal."""
    other = board(dataset__name="other", dataset__fingerprint="0ddc0ffee0")
    page = render([*board(), *other])
    ends = [head.rpartition(", ")[2] for head in heads(page)]
    assert ends == [*["closed division", "the order under other rules"] * 2, "closed division"]
    assert all(first != second for first, second in pairwise(heads(page)))
    assert "| Kendall's tau |  | 0.33 (0.33 to 0.33) |" in page
    assert "Kendall's tau of the orders, with its 95 % interval: digits and other 1.00 (1.00 to 1.00)." in page
    assert "Kendall" not in render(board()[:4])
