"""Means, intervals and ranks over seeds.

Intervals use each method's own variance, because methods differ in spread, and Student's t, because the bootstrap is
far too narrow at three seeds. Ranks are ranges, because few seeds leave them uncertain.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean, median, stdev
from typing import Generic, TypeVar

CONFIDENCE = 0.95
Z95 = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)  # standard errors in half the width of an interval
# Bounds in units of the median residual variance, by the number of seeds. In simulations of up to 20 methods with equal
# spread, at most one table in twenty has a method beyond it. Two seeds say too little; more than 5 count as 6.
UNEVEN = {2: math.inf, 3: 10.0, 4: 7.0, 5: 5.5, 6: 5.0}
ROUNDING = 1e-20  # of squared residuals of scores, which are fractions

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
    """Methods of several seeds, compared on the seeds that all of them have.

    `compared` are these methods, and `seeds` these seeds. A method of one seed has the mean of that seed, and may have
    any rank. Both are empty where fewer than two seeds are shared, or where only one of several methods has more than
    one seed: then each mean is over the seeds of its method, and no methods are distinguished.
    `margin` is the largest difference of two means that still counts as a tie. `ranks` has the first and last rank
    that each method may have; methods tied with the best have the first rank 1.
    `uneven` are the methods whose residual variance is more than `UNEVEN` times the median. The test pools variances,
    so with such methods it distinguishes equal ones in more than 5 % of tables.
    """

    seeds: tuple[int, ...]
    compared: frozenset[K]
    margin: float
    means: dict[K, float]
    ranks: dict[K, tuple[int, int]]
    uneven: tuple[K, ...]


def summarise(values: Sequence[float]) -> Summary:
    """Summarise at least one value."""
    n = len(values)
    if n == 1:
        return Summary(values[0], None, 1, None)
    std = stdev(values)
    return Summary(fmean(values), std, n, t_quantile(n - 1) * std / math.sqrt(n))


def half_width_by_images(*accuracies: tuple[float, int]) -> float:
    """Return the half width of the 95 % interval of an accuracy p on n images, `(p, n)`, or of the difference of two.

        z sqrt(sum of p (1 - p) / n)

    It leaves out the spread over seeds, and takes the images of two accuracies as independent.
    """
    return Z95 * math.sqrt(math.fsum(p * (1 - p) / n for p, n in accuracies))


def compare(scores: Mapping[K, Mapping[int, float]]) -> Comparison[K]:
    """Rank methods by their scores, given as method -> seed -> score; at least one method, each with a seed.

    Two methods are distinguished if their means differ by more than Tukey's honest significant difference; counting
    the methods above and below gives simultaneous confidence intervals of the ranks (Al Mohamad, Goeman and van Zwet,
    Simultaneous confidence intervals for ranks with application to ranking institutions).
    """
    compared = [method for method, by_seed in scores.items() if len(by_seed) > 1]
    shared = sorted(set.intersection(*(set(scores[method]) for method in compared))) if compared else []
    if len(shared) < 2 or len(compared) < min(2, len(scores)):
        shared, compared = [], []
    means = {
        method: fmean([by_seed[seed] for seed in (shared if method in compared else sorted(by_seed))])
        for method, by_seed in scores.items()
    }
    squares = _residual_squares([[scores[method][seed] for seed in shared] for method in compared])
    margin = _tukey_margin(squares, len(shared))
    ranks = dict.fromkeys(scores, (1, len(scores)))
    for method in compared:
        above = sum(means[other] - means[method] > margin for other in compared)
        below = sum(means[method] - means[other] > margin for other in compared)
        ranks[method] = (1 + above, len(scores) - below)
    bound = max(ROUNDING, UNEVEN[min(len(shared), max(UNEVEN))] * median(squares)) if shared else 0.0
    uneven = tuple(method for method, square in zip(compared, squares, strict=True) if square > bound)
    return Comparison(tuple(shared), frozenset(compared), margin, means, ranks, uneven)


def _residual_squares(table: Sequence[Sequence[float]]) -> list[float]:
    """Return the sum of squared residuals of each row of a (methods, seeds) table with seeds as blocks.

    The model is additive: score = method + seed + residual. Blocks remove what a seed does to all methods alike, such
    as data order and label subsets.
    """
    effects = [fmean(column) for column in zip(*table, strict=True)]
    rows = [[value - effect for value, effect in zip(row, effects, strict=True)] for row in table]
    return [math.fsum((value - math.fsum(row) / len(row)) ** 2 for value in row) for row in rows]


def _tukey_margin(squares: Sequence[float], n: int) -> float:
    """Return Tukey's honest significant difference of k means over n seeds, from the k sums of squared residuals.

        margin = q(0.95; k, df) sqrt(s2 / n),   s2 = sum(squares) / df,   df = (k - 1)(n - 1)

    with the studentised range q. It is infinite for fewer than two methods or seeds.
    """
    k = len(squares)
    if k < 2 or n < 2:
        return math.inf
    df = (k - 1) * (n - 1)
    return _studentised_range_quantile(k, df) * math.sqrt(math.fsum(squares) / df / n)


@cache
def t_quantile(df: int) -> float:
    """Return the quantile of Student's t that leaves 2.5 % above."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, df))


@cache
def _studentised_range_quantile(k: int, df: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, k, df))
