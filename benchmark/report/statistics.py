"""Means, intervals and ranks over seeds.

Intervals use each method's own variance, because methods differ in spread, and Student's t, because the bootstrap is
far too narrow at three seeds. Ranks are ranges, because few seeds leave them uncertain.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, compress, product
from statistics import NormalDist, fmean, median, stdev
from typing import Any, Generic, TypeVar

CONFIDENCE = 0.95
Z95 = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)  # standard errors in half the width of an interval
# Bounds in units of the median residual variance, by the number of seeds. In simulations of up to 20 methods with equal
# spread and the same seeds, at most one table in twenty has one beyond it. Two seeds say too little; 6 stands for more.
UNEVEN = {3: 10.0, 4: 7.0, 5: 5.5, 6: 5.0}
ROUNDING = 1e-20  # of squared residuals of scores, which are fractions
LEAST_FREEDOM = 1e-6  # degrees of freedom that are more than rounding
MEAN_DIGITS = 12  # of fitted means, so that equal ones are equal

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
    """Methods of several seeds, compared over the seeds that two of them have or more; they may have different ones.

    `seeds` are those that count of each method compared; its mean in `means` is adjusted for what seeds do to all
    methods, so that no method gains by the seeds that it has. Any other method has fewer than two seeds in common with
    them: it has the plain mean of its seeds, and may have any rank.
    `margins` are the largest differences of two means that still count as a tie; the keys have both orders. `ranks`
    has the first and last rank that each method may have.
    `uneven` are the methods whose residual variance is more than `UNEVEN` times the median; that of two seeds is not
    judged. The test pools variances, so with unequal ones it distinguishes equal methods in more than 5 % of tables.
    """

    seeds: dict[K, tuple[int, ...]]
    means: dict[K, float]
    margins: dict[tuple[K, K], float]
    ranks: dict[K, tuple[int, int]]
    uneven: tuple[K, ...]

    def is_above(self, method: K, other: K) -> bool:
        """Return whether a method is distinguished from another, and is the better one."""
        return self.means[method] - self.means[other] > self.margins.get((method, other), math.inf)


def summarise(values: Sequence[float]) -> Summary:
    """Summarise at least one value."""
    n = len(values)
    if n == 1:
        return Summary(values[0], None, 1, None)
    std = stdev(values)
    return Summary(fmean(values), std, n, t_quantile(n - 1) * std / math.sqrt(n))


def interval_by_images(p: float, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of an accuracy p on n images (Wilson 1927).

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    square = Z95**2 / n
    middle, half = p + square / 2, math.sqrt(square * p * (1 - p) + square**2 / 4)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def half_width_by_images(*accuracies: tuple[float, int]) -> float:
    """Return the wider half of the 95 % interval of an accuracy p on n images, `(p, n)`, or of the difference of two.

    Of one it is Wilson's; the halves of a difference are the roots of the sums of squares of theirs (Newcombe 1998,
    Statistics in Medicine 17: 873-890, method 10). Both hold for few images and for accuracies of 0 and 1. It leaves
    out the spread over seeds, and takes the images of two accuracies as independent.
    """
    ends = [interval_by_images(p, n) for p, n in accuracies]
    halves = [(p - low, high - p) for (p, _), (low, high) in zip(accuracies, ends, strict=True)]
    turned = [*halves[:1], *(half[::-1] for half in halves[1:])]  # what is subtracted
    return max(math.hypot(*sides) for sides in zip(*turned, strict=True))


def compare(scores: Mapping[K, Mapping[int, float]]) -> Comparison[K]:
    """Rank methods by their scores, given as method -> seed -> score; at least one method, each with a seed.

    Two methods are distinguished if their means differ by more than Tukey's honest significant difference, in the form
    of Kramer where methods have different seeds; counting the methods above and below gives simultaneous confidence
    intervals of the ranks (Al Mohamad, Goeman and van Zwet, Simultaneous confidence intervals for ranks with
    application to ranking institutions).
    """
    tested = _connected(scores)
    comparison = Comparison(
        seeds={method: tuple(by_seed) for method, by_seed in tested.items()},
        means={method: fmean(by_seed.values()) for method, by_seed in scores.items()},
        margins={},
        ranks=dict.fromkeys(scores, (1, len(scores))),
        uneven=(),
    )
    if len(tested) < 2:
        return comparison
    fit = _Fit.of(list(tested.values()))
    margins = zip(product(tested, tested), chain(*fit.margins()), strict=True)
    comparison = replace(
        comparison,
        means=comparison.means | dict(zip(tested, fit.means, strict=True)),
        margins={(one, other): margin for (one, other), margin in margins if one != other},
        uneven=tuple(compress(tested, fit.uneven())),
    )
    told_apart = [pair for pair in comparison.margins if comparison.is_above(*pair)]
    better, worse = (Counter(pair[end] for pair in told_apart) for end in (0, 1))
    for method in tested:
        comparison.ranks[method] = (1 + worse[method], len(scores) - better[method])
    return comparison


def _connected(scores: Mapping[K, Mapping[int, float]]) -> dict[K, dict[int, float]]:
    """Return the methods that can be compared, with the scores of the seeds that count, in the order of the seeds.

    A seed that one method alone has says nothing of differences, a method with a single seed that others have does not
    show its spread, and methods without a common seed are compared by way of others that have seeds of both. Of several
    groups that no seed links, the one of most methods counts, then of most scores, then of the first seeds.
    """
    least = min(2, len(scores))
    left = {method: dict(by_seed) for method, by_seed in scores.items()}
    size = -1
    while size != (size := sum(map(len, left.values()))):
        owners = Counter(seed for by_seed in left.values() for seed in by_seed)
        kept = {
            method: {seed: by_seed[seed] for seed in sorted(by_seed) if owners[seed] >= least}
            for method, by_seed in left.items()
        }
        left = {method: by_seed for method, by_seed in kept.items() if len(by_seed) > 1}
    groups: list[dict[K, dict[int, float]]] = []
    for method, by_seed in left.items():
        touching = [group for group in groups if any(by_seed.keys() & others.keys() for others in group.values())]
        groups = [group for group in groups if group not in touching]
        groups.append({name: row for group in touching for name, row in group.items()} | {method: by_seed})
    largest = max(groups, key=_weight, default={})
    return {method: by_seed for method, by_seed in left.items() if method in largest}


def _weight(group: Mapping[K, Mapping[int, float]]) -> tuple[int, int, list[int]]:
    """Return by what the group to compare is chosen: methods, scores, first seeds."""
    seeds = sorted({seed for by_seed in group.values() for seed in by_seed})
    return len(group), sum(map(len, group.values())), [-seed for seed in seeds]


@dataclass(frozen=True)
class _Design:
    """The additive model, score = method + seed + residual, of the scores that there are, whatever their values.

    Seeds are blocks: they remove what a seed does to all methods alike, such as data order and label subsets. `owners`
    are the places of the methods to which the scores belong, `matrix` `(scores, effects)` is that of the least squares
    and `inverse` its pseudoinverse. `deviations` `(k, k)` are the standard deviations of the differences of two means
    in units of that of a residual, `freedom` the share of the degrees of freedom that falls to each method, `counts`
    its seeds, at most as many as `UNEVEN` has.
    """

    owners: Any
    matrix: Any
    inverse: Any
    deviations: list[list[float]]
    freedom: list[float]
    counts: list[int]

    @classmethod
    @cache
    def of(cls, seeds_of: tuple[tuple[int, ...], ...]) -> "_Design":
        """Return the design of methods that have these seeds."""
        import numpy as np

        seeds, k = sorted(set(chain(*seeds_of))), len(seeds_of)
        cells = [(place, seeds.index(seed)) for place, own in enumerate(seeds_of) for seed in own]
        owners, columns = np.array(cells).T
        blocks = np.vstack([np.eye(len(seeds) - 1), -np.ones(len(seeds) - 1)])  # effects of seeds add up to 0
        matrix = np.hstack([np.eye(k)[owners], blocks[columns]])
        inverse = np.linalg.pinv(matrix)
        covariance, leverage = (inverse @ inverse.T)[:k, :k], np.einsum("ij,ji->i", matrix, inverse)
        spread = np.diag(covariance)
        return cls(
            owners,
            matrix,
            inverse,
            deviations=np.sqrt(np.maximum(spread[:, None] + spread - 2 * covariance, 0)).tolist(),
            freedom=np.bincount(owners, 1 - leverage).tolist(),
            counts=np.bincount(owners).clip(max=max(UNEVEN)).tolist(),
        )


@dataclass(frozen=True)
class _Fit:
    """The model fitted to scores: the `means` of methods over all seeds, and the sum of squared residuals of each."""

    design: _Design
    means: list[float]
    squares: list[float]

    @classmethod
    def of(cls, table: Sequence[Mapping[int, float]]) -> "_Fit":
        import numpy as np

        design = _Design.of(tuple(map(tuple, table)))
        values = np.array(list(chain(*(row.values() for row in table))))
        effects = design.inverse @ values
        residuals = values - design.matrix @ effects
        return cls(
            design,
            means=[round(mean, MEAN_DIGITS) for mean in effects[: len(table)].tolist()],
            squares=np.bincount(design.owners, residuals**2).tolist(),
        )

    def margins(self) -> list[list[float]]:
        """Return the honest significant difference `(k, k)` of each two means.

            margin = q(0.95; k, df) d sqrt(s2 / 2),   s2 = sum(squares) / df,   d = design.deviations[one][other]

        with the studentised range q; over the same n seeds d is sqrt(2 / n), and df (k - 1)(n - 1).
        """
        df = round(math.fsum(self.design.freedom))
        unit = _studentised_range_quantile(len(self.means), df) * math.sqrt(math.fsum(self.squares) / df / 2)
        return [[unit * deviation for deviation in row] for row in self.design.deviations]

    def uneven(self) -> list[bool]:
        """Return which methods have a residual variance beyond the bound; those of two seeds never have."""
        variances = [
            square / free if count in UNEVEN and free > LEAST_FREEDOM else None
            for square, free, count in zip(self.squares, self.design.freedom, self.design.counts, strict=True)
        ]
        known = [variance for variance in variances if variance is not None]
        return [
            variance is not None and variance > max(ROUNDING, UNEVEN[count] * median(known))
            for variance, count in zip(variances, self.design.counts, strict=True)
        ]


@cache
def t_quantile(df: int) -> float:
    """Return the quantile of Student's t that leaves 2.5 % above."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, df))


@cache
def _studentised_range_quantile(k: int, df: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, k, df))
