"""Statistics against scipy, tables of the studentised range, hand computation and simulation."""

import math
import random
import statistics
from collections.abc import Sequence

import pytest
from scipy import stats

from benchmark.report.statistics import Summary, compare, summarise

SCORES = {
    "a": {0: 0.90, 1: 0.92, 2: 0.91},
    "b": {0: 0.89, 1: 0.90, 2: 0.91},
    "c": {0: 0.80, 1: 0.83, 2: 0.80},
}


def test_interval_is_students() -> None:
    """Oracle: scipy's t interval."""
    generator = random.Random(0)
    for n in (2, 3, 5, 12):
        values = [generator.gauss(0.9, 0.01) for _ in range(n)]
        low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        summary = summarise(values)
        assert summary.half_width is not None
        assert (summary.mean - summary.half_width, summary.mean + summary.half_width) == pytest.approx((low, high))
        assert (summary.std, summary.n) == (pytest.approx(statistics.stdev(values)), n)


def test_one_value_has_no_spread() -> None:
    """Oracle: a single value says nothing of its spread."""
    assert summarise([0.5]) == Summary(0.5, None, 1, None)


def test_margin_by_hand() -> None:
    """Oracle: residuals 0, 0, 0; 0, -1, 1; 0, 1, -1 hundredths by hand; q(0.95; 3, 4) = 5.040 in printed tables."""
    comparison = compare(SCORES)
    assert comparison.margin == pytest.approx(5.040 * 0.01 / math.sqrt(3), rel=1e-4)
    assert comparison.ranks == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}


def test_two_methods_reduce_to_the_paired_t_test() -> None:
    """Oracle: scipy's paired t test, to which Tukey's test with blocks reduces for two methods."""
    generator = random.Random(0)
    for _ in range(20):
        first = [generator.gauss(0.90, 0.01) for _ in range(4)]
        second = [value - 0.01 + generator.gauss(0, 0.006) for value in first]
        ranks = compare({"first": dict(enumerate(first)), "second": dict(enumerate(second))}).ranks
        assert (ranks["first"] == ranks["second"] == (1, 2)) == (stats.ttest_rel(first, second).pvalue >= 0.05)


def test_seed_effects_cancel() -> None:
    """Oracle: what a seed adds to all methods alike leaves the margin and the ranks as they were."""
    shifted = {name: {seed: value + seed / 10 for seed, value in row.items()} for name, row in SCORES.items()}
    assert compare(shifted).margin == pytest.approx(compare(SCORES).margin)
    assert compare(shifted).ranks == compare(SCORES).ranks


def simulated(generator: random.Random, spreads: Sequence[float], seeds: int) -> dict[int, dict[int, float]]:
    """A table of methods that are equal but for their spread over seeds, each seed with an effect on all."""
    effects = [generator.gauss(0, 3) for _ in range(seeds)]
    return {
        k: {seed: effect + generator.gauss(0, spread) for seed, effect in enumerate(effects)}
        for k, spread in enumerate(spreads)
    }


@pytest.mark.parametrize(("methods", "seeds"), [(6, 3), (20, 3), (10, 5)])
def test_equal_methods_are_seldom_distinguished(methods: int, seeds: int) -> None:
    """Oracle: 5 % of 4,000 simulated tables of equal methods, within three standard errors (1 point)."""
    generator = random.Random(1)
    tables = (compare(simulated(generator, [1.0] * methods, seeds)) for _ in range(4000))
    wrong = sum(any(ranks != (1, methods) for ranks in table.ranks.values()) for table in tables)
    assert 0.04 <= wrong / 4000 <= 0.06


@pytest.mark.parametrize(("methods", "seeds"), [(4, 3), (10, 3), (20, 5), (20, 2)])
def test_equal_spreads_are_seldom_called_uneven(methods: int, seeds: int) -> None:
    """Oracle: at most the 5 % of simulated tables that the bound is chosen for, and four standard errors (2 points)."""
    generator = random.Random(2)
    tables = (compare(simulated(generator, [1.0] * methods, seeds)) for _ in range(2000))
    assert sum(bool(table.uneven) for table in tables) / 2000 <= 0.07


@pytest.mark.parametrize(("methods", "seeds"), [(20, 3), (10, 5)])
def test_unequal_spreads_are_called_uneven(methods: int, seeds: int) -> None:
    """Oracle: two methods of five times the spread; four tables in five name one of them, and few name another."""
    generator = random.Random(3)
    tables = [compare(simulated(generator, [5.0, 5.0, *[1.0] * (methods - 2)], seeds)) for _ in range(500)]
    assert sum(bool({0, 1} & set(table.uneven)) for table in tables) >= 0.8 * len(tables)
    assert sum(bool(set(table.uneven) - {0, 1}) for table in tables) <= 0.05 * len(tables)


def test_uneven_by_hand() -> None:
    """Oracle: residuals 16 times those of the others by hand, equal ones of two methods, and none but rounding."""
    steady = {name: {seed: float(seed) for seed in range(3)} for name in "abcd"}
    noisy = {0: 4.0, 1: -3.0, 2: 2.0}  # 4, -4, 0 from the others: four fifths of it are its own, one fifth each other's
    assert compare({**steady, "noisy": noisy}).uneven == ("noisy",)
    assert compare({"steady": steady["a"], "noisy": noisy}).uneven == ()
    alike = {name: {seed: 0.01 * seed + place / 9 for seed in range(3)} for place, name in enumerate("abcdefg")}
    assert compare(alike).uneven == ()


def test_only_shared_seeds_are_compared() -> None:
    """Oracle: the same comparison without the further seeds, however good they are."""
    further = {**SCORES, "c": {**SCORES["c"], 3: 1.0, 4: 1.0}}
    assert compare(further) == compare(SCORES)
    assert compare(further).seeds == (0, 1, 2)


def test_a_method_of_one_seed_leaves_the_others_apart() -> None:
    """Oracle: the comparison without it, where it may stand anywhere: below a and b, which a seed more than c separates
    from it, or first."""
    without, lone = compare(SCORES), compare({**SCORES, "new": {1: 0.99}})
    assert (lone.seeds, lone.margin, lone.uneven) == (without.seeds, without.margin, without.uneven)
    assert lone.means == {**without.means, "new": 0.99}
    assert (lone.compared, without.compared) == (frozenset("abc"), frozenset("abc"))
    assert lone.ranks == {"a": (1, 3), "b": (1, 3), "c": (3, 4), "new": (1, 4)}
    assert compare({"a": SCORES["a"], "new": {0: 0.9}}).ranks == {"a": (1, 2), "new": (1, 2)}, "nothing to compare with"


def test_nothing_is_told_apart_without_two_shared_seeds() -> None:
    """Oracle: the means of all seeds of each method, by hand; a spread that is not known allows any rank. One method
    alone is the first."""
    comparison = compare({"a": {0: 0.9, 1: 0.5}, "b": {0: 0.8}, "c": {0: 0.7}})
    assert comparison.seeds == ()
    assert comparison.ranks == {"a": (1, 3), "b": (1, 3), "c": (1, 3)}
    assert comparison.means["a"] == pytest.approx(0.7)
    assert compare({"a": SCORES["a"]}).ranks == {"a": (1, 1)}
