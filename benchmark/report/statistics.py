"""Means, intervals and ranks over seeds.

Intervals come from a cell's own variance, because methods differ in spread, and from Student's t, because the
bootstrap is far too narrow at three seeds. Ranks come with the uncertainty that few seeds leave.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Generic, TypeVar

CONFIDENCE = 0.95

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """A sample's mean, standard deviation (ddof 1), size and the half width of the 95 % t interval of its mean.

    The standard deviation and the half width are None for a single value.
    """

    mean: float
    std: float | None
    n: int
    half_width: float | None


@dataclass(frozen=True)
class Comparison(Generic[K]):
    """Methods compared on the seeds that all of them have.

    `seeds` are those seeds, or empty where fewer than two are shared: then each mean is over the method's own seeds
    and no ties are claimed. `margin` is the largest difference of two means that still counts as a tie. `ranks` has
    the first and last rank that each method may hold; methods tied with the best are those whose first rank is 1.
    """

    seeds: tuple[int, ...]
    margin: float
    means: dict[K, float]
    ranks: dict[K, tuple[int, int]]


def summarise(values: Sequence[float]) -> Summary:
    """Summarise at least one value."""
    n = len(values)
    if n == 1:
        return Summary(values[0], None, 1, None)
    std = stdev(values)
    return Summary(fmean(values), std, n, t_quantile(n - 1) * std / math.sqrt(n))


def compare(scores: Mapping[K, Mapping[int, float]]) -> Comparison[K]:
    """Rank methods by their scores, given as method -> seed -> score; at least one method, each with a seed.

    Two methods are distinguished if their means differ by more than Tukey's honest significant difference; counting
    the methods above and below gives simultaneous confidence intervals of the ranks (Al Mohamad, Goeman and van Zwet,
    Simultaneous confidence intervals for ranks with application to ranking institutions).
    """
    shared = sorted(set.intersection(*(set(by_seed) for by_seed in scores.values())))
    if len(shared) < 2:
        shared = []
    means = {method: fmean([by_seed[seed] for seed in shared or sorted(by_seed)]) for method, by_seed in scores.items()}
    margin = _tukey_margin([[scores[method][seed] for seed in shared] for method in scores]) if shared else 0.0
    ranks = {
        method: (
            1 + sum(other - mean > margin for other in means.values()),
            len(means) - sum(mean - other > margin for other in means.values()),
        )
        for method, mean in means.items()
    }
    return Comparison(tuple(shared), margin, means, ranks)


def _tukey_margin(table: Sequence[Sequence[float]]) -> float:
    """Tukey's honest significant difference of row means, in a (methods, seeds) table with seeds as blocks.

    q(0.95; k, df) sqrt(s2 / n) with the studentised range q, s2 the residual variance of the additive two-way model
    and df = (k - 1)(n - 1). Blocks take out what a seed does to all methods alike (data order, subsets).
    """
    k, n = len(table), len(table[0])
    if k < 2:
        return 0.0
    rows, columns = [fmean(row) for row in table], [fmean(column) for column in zip(*table, strict=True)]
    grand = fmean(rows)
    squares = math.fsum(
        (value - rows[i] - columns[j] + grand) ** 2 for i, row in enumerate(table) for j, value in enumerate(row)
    )
    df = (k - 1) * (n - 1)
    return _studentised_range_quantile(k, df) * math.sqrt(squares / df / n)


@cache
def t_quantile(df: int) -> float:
    """Return the quantile of Student's t that leaves 2.5 % above."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, df))


@cache
def _studentised_range_quantile(k: int, df: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, k, df))
