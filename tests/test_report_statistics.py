"""Statistics against scipy, tables of the studentised range, hand computation and simulation."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import permutations, product
from typing import NamedTuple

import pytest
from report_records import run
from scipy import stats
from scipy.stats import binomtest

from benchmark.report.contents import verdict
from benchmark.report.leaderboard import sections
from benchmark.report.statistics import Summary, compare, half_width_by_images, interval_by_images, summarise

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


@pytest.mark.parametrize(("right", "n"), [(350, 500), (15, 15), (0, 15), (1, 2), (9_999, 10_000)])
def test_interval_of_an_accuracy_is_wilsons(right: int, n: int) -> None:
    """Oracle: scipy's interval; the wider half is taken, so that 15 of 15 are not certain."""
    ends = binomtest(right, n).proportion_ci(method="wilson")
    assert interval_by_images(right / n, n) == pytest.approx((ends.low, ends.high))
    assert half_width_by_images((right / n, n)) == pytest.approx(max(right / n - ends.low, ends.high - right / n))
    assert half_width_by_images((right / n, n)) > 0


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)
def test_interval_of_a_difference_is_newcombes(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    """Oracle: the table of Newcombe 1998, method 10."""
    (a, m), (b, n) = first, second
    expected = max(a / m - b / n - low, high - (a / m - b / n))
    assert half_width_by_images((a / m, m), (b / n, n)) == pytest.approx(expected, abs=6e-5)


def test_margin_by_hand() -> None:
    """Oracle: residuals 0, 0, 0; 0, -1, 1; 0, 1, -1 hundredths by hand; q(0.95; 3, 4) = 5.040 in printed tables."""
    comparison = compare(SCORES)
    expected = dict.fromkeys(permutations("abc", 2), 5.040 * 0.01 / math.sqrt(3))
    assert comparison.margins == pytest.approx(expected, rel=1e-4)
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
    assert compare(shifted).margins == pytest.approx(compare(SCORES).margins)
    assert compare(shifted).ranks == compare(SCORES).ranks


def simulated(
    generator: random.Random, seeds: Sequence[Iterable[int]], spreads: Sequence[float] = ()
) -> dict[int, dict[int, float]]:
    """A table of methods that are equal but for their seeds and their spread over them, each with an effect on all."""
    effects = [generator.gauss(0, 3) for _ in range(40)]
    return {
        k: {seed: effects[seed] + generator.gauss(0, spread) for seed in own}
        for k, (own, spread) in enumerate(zip(seeds, spreads or [1.0] * len(seeds), strict=True))
    }


TWO, THREE, FIVE = range(2), range(3), range(5)
DESIGNS = {  # the seeds of each method
    "6 of 3": [THREE] * 6,
    "20 of 3": [THREE] * 20,
    "10 of 5": [FIVE] * 10,
    "7 of 3, 7 of 2": [THREE] * 7 + [TWO] * 7,
    "5 of 2 beside 1 of 3": [TWO] * 5 + [THREE],
    "2 of 5, 2 of 3, 2 of 2": [FIVE, FIVE, THREE, THREE, TWO, TWO],
    "a circle": [(0, 1), (1, 2), (2, 3), (3, 0), range(4)],
    "4 of 3": [THREE] * 4,
    "20 of 5": [FIVE] * 20,
    "20 of 2": [TWO] * 20,
}


@pytest.mark.parametrize("seeds", DESIGNS.values(), ids=DESIGNS)
def test_equal_methods_are_seldom_told_apart(seeds: Sequence[Iterable[int]]) -> None:
    """Oracle: 5 % of 2,000 simulated tables of equal methods, within three standard errors (1.5 points); and spreads
    are uneven in at most the 5 % of them that the bound is chosen for, and four standard errors (2 points)."""
    generator = random.Random(1)
    tables = [compare(simulated(generator, seeds)) for _ in range(2000)]
    wrong = sum(any(ranks != (1, len(seeds)) for ranks in table.ranks.values()) for table in tables)
    assert 0.035 <= wrong / 2000 <= 0.065
    assert sum(bool(table.uneven) for table in tables) / 2000 <= 0.07


@pytest.mark.parametrize(("methods", "seeds"), [(20, 3), (10, 5)])
def test_unequal_spreads_are_called_uneven(methods: int, seeds: int) -> None:
    """Oracle: two methods of five times the spread; four tables in five name one of them, and few name another."""
    generator = random.Random(3)
    spreads = [5.0, 5.0, *[1.0] * (methods - 2)]
    tables = [compare(simulated(generator, [range(seeds)] * methods, spreads)) for _ in range(500)]
    assert sum(bool({0, 1} & set(table.uneven)) for table in tables) >= 0.8 * len(tables)
    assert sum(bool(set(table.uneven) - {0, 1}) for table in tables) <= 0.05 * len(tables)


def test_uneven_by_hand() -> None:
    """Oracle: residuals 16 times those of the others by hand, equal ones of two methods, and none but rounding."""
    steady = {name: {seed: float(seed) for seed in range(3)} for name in "abcd"}
    noisy = {0: 4.0, 1: -3.0, 2: 2.0}  # 4, -4, 0 from the others: four fifths of it are its own, one fifth each other's
    assert compare({**steady, "noisy": noisy}).uneven == ("noisy",)
    assert compare({"steady": steady["a"], "noisy": noisy}).uneven == ()
    for seeds, is_named in (
        (2, False),
        (3, False),
        (4, True),
        (5, True),
        (7, True),
    ):  # 9 times, beside 10, 7, 5.5 and 5
        three = {name: {seed: float(seed) for seed in range(seeds)} for name in "abc"}
        swinging = {seed: seed + (-1.0) ** seed for seed in range(seeds)}
        assert (compare({**three, "noisy": swinging}).uneven == ("noisy",)) == is_named
    alike = {name: {seed: 0.01 * seed + place / 9 for seed in range(3)} for place, name in enumerate("abcdefg")}
    assert compare(alike).uneven == ()


def test_only_shared_seeds_are_compared() -> None:
    """Oracle: the same comparison without the further seeds, however good they are."""
    further = {**SCORES, "c": {**SCORES["c"], 3: 1.0, 4: 1.0}}
    assert compare(further).margins == pytest.approx(compare(SCORES).margins)
    assert replace(compare(further), margins={}) == replace(compare(SCORES), margins={})
    assert compare(further).seeds == dict.fromkeys("abc", (0, 1, 2))


def test_a_method_of_one_seed_leaves_the_others_apart() -> None:
    """Oracle: the comparison without it, where it may stand anywhere: below a and b, which a seed more than c separates
    from it, or first."""
    without, lone = compare(SCORES), compare({**SCORES, "new": {1: 0.99}})
    assert (lone.seeds, lone.margins, lone.uneven) == (without.seeds, without.margins, without.uneven)
    assert lone.means == {**without.means, "new": 0.99}
    assert set(lone.seeds) == set(without.seeds) == set("abc")
    assert lone.ranks == {"a": (1, 3), "b": (1, 3), "c": (3, 4), "new": (1, 4)}
    assert compare({"a": SCORES["a"], "new": {0: 0.9}}).ranks == {"a": (1, 2), "new": (1, 2)}, "nothing to compare with"


def test_nothing_is_told_apart_without_two_shared_seeds() -> None:
    """Oracle: the means of all seeds of each method, by hand; a spread that is not known allows any rank. One method
    alone is the first."""
    comparison = compare({"a": {0: 0.9, 1: 0.5}, "b": {0: 0.8}, "c": {0: 0.7}})
    assert comparison.seeds == {}
    assert comparison.ranks == {"a": (1, 3), "b": (1, 3), "c": (1, 3)}
    assert comparison.means["a"] == pytest.approx(0.7)
    assert compare({"a": SCORES["a"]}).ranks == {"a": (1, 1)}


class Fitted(NamedTuple):
    means: dict[str, float]
    errors: dict[tuple[str, str], float]
    df: int
    variances: dict[str, float]


def dot(row: Iterable[Fraction], other: Iterable[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(row, other, strict=True)), Fraction(0))


def fitted(table: Mapping[str, Mapping[int, float]]) -> Fitted:
    """Means over all seeds, squared errors of their differences, degrees of freedom and residual variances, by normal
    equations that are solved in fractions; the effect of the first seed is 0."""
    seeds = sorted({seed for row in table.values() for seed in row})
    names, cells = list(table), [(name, seed) for name, row in table.items() for seed in row]
    unknowns = [*names, *seeds[1:]]
    lines = [[Fraction(unknown in cell) for unknown in unknowns] for cell in cells]
    values = [Fraction(table[name][seed]).limit_denominator(10**6) for name, seed in cells]
    columns, n = list(zip(*lines, strict=True)), len(unknowns)
    solved = [
        [*(dot(one, other) for other in columns), *(Fraction(i == j) for j in range(n))]
        for i, one in enumerate(columns)
    ]
    for i in range(n):  # Gauss and Jordan; a matrix of inner products needs no other pivots
        solved[i] = [value / solved[i][i] for value in solved[i]]
        for j in set(range(n)) - {i}:
            solved[j] = [value - solved[j][i] * of for value, of in zip(solved[j], solved[i], strict=True)]
    inverse = [row[n:] for row in solved]
    effects = [dot(row, [dot(column, values) for column in columns]) for row in inverse]
    shift = sum(effects[len(names) :], Fraction(0)) / len(seeds)
    residuals = [value - dot(line, effects) for line, value in zip(lines, values, strict=True)]
    freedom = [1 - dot(line, [dot(row, line) for row in inverse]) for line in lines]
    squares = {name: sum(r * r for r, cell in zip(residuals, cells, strict=True) if cell[0] == name) for name in names}
    free = {name: sum(f for f, cell in zip(freedom, cells, strict=True) if cell[0] == name) for name in names}
    df = len(lines) - n
    variance = sum(squares.values()) / df
    pairs = {(a, b): (names.index(a), names.index(b)) for a, b in permutations(names, 2)}
    return Fitted(
        {name: float(effect + shift) for name, effect in zip(names, effects, strict=False)},
        {pair: float(variance * (inverse[i][i] + inverse[j][j] - 2 * inverse[i][j])) for pair, (i, j) in pairs.items()},
        df,
        {name: float(squares[name] / free[name]) for name in names},
    )


def test_methods_of_different_seeds() -> None:
    """Oracle: the model solved in fractions, Kramer's form of the margin with scipy's studentised range, and bounds of
    variances by the number of seeds; and that a seed of one method more counts, while those of others count on."""
    generator = random.Random(4)
    bounds, found = {3: 10.0, 4: 7.0, 5: 5.5}, Counter[int]()
    designs = [design for design in DESIGNS.values() if len(design) < 7]
    for seeds, spread in product(designs, (2.0, 3.0, 4.0, 9.0, 9.0, 9.0)):
        noisy = generator.randrange(len(seeds))
        spreads = [spread if place == noisy else 1.0 for place in range(len(seeds))]
        table = {f"m{k}": row for k, row in simulated(generator, seeds, spreads).items()}
        table = {name: {seed: round(score / 100, 4) for seed, score in row.items()} for name, row in table.items()}
        owners = Counter(seed for row in table.values() for seed in row)
        known = {name: {seed: row[seed] for seed in row if owners[seed] > 1} for name, row in table.items()}
        comparison, expected = compare(table), fitted(known)
        q = stats.studentized_range.ppf(0.95, len(table), expected.df)
        assert comparison.means == pytest.approx(expected.means)
        assert comparison.margins == pytest.approx({p: q * math.sqrt(e / 2) for p, e in expected.errors.items()})
        assert comparison.seeds == {name: tuple(sorted(row)) for name, row in known.items()}
        judged = {name: v for name, v in expected.variances.items() if len(known[name]) > 2}
        middle = statistics.median(judged.values()) if judged else 0.0
        uneven = tuple(name for name, v in judged.items() if v > bounds[len(known[name])] * middle)
        assert comparison.uneven == uneven
        found.update(len(known[name]) for name in uneven)
    assert found.keys() >= {3, 5}
    better = compare({**SCORES, "b": {0: 0.89, 1: 0.90}, "d": {0: 0.5, 1: 0.52}})
    assert better.margins["a", "c"] < better.margins["a", "b"] < better.margins["b", "d"]
    assert better.seeds["b"] == better.seeds["d"] == (0, 1)


def test_a_lucky_seed_gives_no_advantage() -> None:
    """Oracle: by hand: seed 2 is 0.3 better for all; b, which lacks it, stays first, by what it was ahead."""
    table = {"a": {0: 0.50, 1: 0.52, 2: 0.81}, "b": {0: 0.52, 1: 0.54}, "c": {0: 0.40, 1: 0.42, 2: 0.71}}
    comparison = compare(table)
    assert comparison.means["b"] - comparison.means["a"] == pytest.approx(0.02)
    assert comparison.ranks == {"a": (2, 2), "b": (1, 1), "c": (3, 3)}


def test_methods_that_cannot_be_compared_stand_apart() -> None:
    """Oracle: by hand: x and y share no seed with the others, z one; the seeds of b link a and c. Those of d to g,
    which each share one with the next, link nobody once g has one left. Of groups of a size the first seeds decide."""
    chain = {"a": {0: 0.9, 1: 0.91}, "b": {0: 0.8, 1: 0.82, 2: 0.81, 3: 0.8}, "c": {2: 0.7, 3: 0.71}}
    apart = {"x": {7: 0.1, 8: 0.1}, "y": {7: 0.2, 8: 0.3}, "z": {0: 0.99, 9: 0.99}}
    comparison = compare({**apart, **chain})
    assert set(comparison.seeds) == set("abc")
    assert all(comparison.ranks[name] == (1, 6) for name in apart)
    assert all(comparison.means[name] == pytest.approx(statistics.fmean(apart[name].values())) for name in apart)
    assert comparison.margins == compare(chain).margins
    assert comparison.is_above("a", "c")
    cores = {f"{core}{place}": {core: 0.1 * place, core + 1: 0.3} for core in (0, 2, 4) for place in range(2)}
    bridge = compare({**cores, "bridge": {0: 0.9, 2: 0.1, 4: 0.5}})
    assert set(bridge.seeds) == {*cores, "bridge"}
    assert bridge.uneven == (), "its residuals are none, whatever its scores"
    loose = {name: {10 + place: 0.5, 11 + place: 0.9 - place} for place, name in enumerate("defg")}
    assert set(compare({**loose, **chain, "h": {0: 0.1, 10: 0.3}}).seeds) == set("abc")
    four = {name: {5: 0.1 * place, 6: 0.4} for place, name in enumerate("pqrs")}
    few = {name: dict.fromkeys(range(5), 0.1) for name in "tu"}
    assert set(compare({**few, **four}).seeds) == set("pqrs"), "more methods, fewer scores"
    assert set(compare({"v": four["p"], "w": four["q"], **few}).seeds) == set("tu"), "more scores"
    late = {name: {seed + 9: score for seed, score in row.items()} for name, row in few.items()}
    late = {name.upper(): row for name, row in late.items()}
    assert set(compare({**late, **few}).seeds) == set(compare({**few, **late}).seeds) == set("tu"), "the first seeds"
    assert not comparison.is_above("z", "a")


def test_equal_means_are_equal() -> None:
    """Oracle: two methods of the same scores, which stay tied whatever rounding does."""
    means = compare({**SCORES, "twin": SCORES["a"], "d": {0: 0.3, 1: 0.31}}).means
    assert means["twin"] == means["a"]


def test_large_tables() -> None:
    """Oracle: Tukey's margin of a whole table, q sqrt(s2 / n), with residuals by the means of rows and columns."""
    generator = random.Random(5)
    for methods, seeds in ((40, 40), (100, 20)):
        table = simulated(generator, [range(seeds)] * methods)
        rows = {name: statistics.fmean(row.values()) for name, row in table.items()}
        columns = [statistics.fmean(row[seed] for row in table.values()) for seed in range(seeds)]
        whole, df = statistics.fmean(columns), (methods - 1) * (seeds - 1)
        squares = [(row[s] - rows[name] - columns[s] + whole) ** 2 for name, row in table.items() for s in range(seeds)]
        margin = stats.studentized_range.ppf(0.95, methods, df) * math.sqrt(sum(squares) / df / seeds)
        comparison = compare(table)
        assert comparison.means == pytest.approx(rows)
        assert comparison.margins == pytest.approx(dict.fromkeys(permutations(range(methods), 2), margin))


def test_what_cannot_be_told_from_the_best() -> None:
    """Oracle: the second, of four seeds, is told from c, and the best, of two, is not: margins differ by pairs. So c is
    not the first, and tied with it all the same."""
    table = {
        "best": (0.6029, 0.6085),
        "b": (0.5871, 0.5861),
        "c": (0.5865, 0.5580, 0.5636, 0.5721),
        "second": (0.6007, 0.5998, 0.6001, 0.5858),
    }
    comparison = compare({name: dict(enumerate(scores)) for name, scores in table.items()})
    assert comparison.is_above("second", "c")
    assert not comparison.is_above("best", "c")
    assert comparison.ranks["c"] == (2, 4)
    records = [run(name, seed, score) for name, row in table.items() for seed, score in enumerate(row)]
    (section,) = sections(records)
    assert "cannot distinguish it from 3 of the 3 others." in verdict(section)
    assert {line.name: line.values[0].standing for line in section.lines if line.values[0]} == {
        "best": "best",
        "second": "tied",
        "b": "tied",
        "c": "tied",
    }
