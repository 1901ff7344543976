"""Methods over all data sets of a board: mean rank, mean gap to the best, and how often one beats another."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmark.report.leaderboard import Section

RESAMPLES = 2000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Standing:
    """A method over all data sets: mean rank, mean gap to the best in points, and their 95 % intervals.

    The intervals are None where some method has a single seed on some data set. `wins` has, for each other method, the
    number of data sets on which this one is better, tied and worse by the range test of the table.
    """

    name: str
    mean_rank: float
    mean_gap: float
    rank_interval: Interval | None
    gap_interval: Interval | None
    wins: dict[str, tuple[int, int, int]]


def standings(sections: Sequence[Section]) -> list[Standing]:
    """Compare the methods that every table ranks; the lowest mean rank comes first.

    Data sets are fixed. Seeds are resampled within each method and data set, and their spread is widened by
    sqrt(n / (n - 1)), without which intervals of few seeds are too narrow.
    """
    tables = [_scores(section) for section in sections]
    names = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    if len(names) < 2:
        return []
    scores = [{name: table[name] for name in names} for table in tables]
    means = [{name: fmean(values) for name, values in table.items()} for table in scores]
    has_spread = all(len(values) > 1 for table in scores for values in table.values())
    resamples = _resamples(scores) if has_spread else []
    methods = []
    for name in names:
        mean_rank, mean_gap = _rank_and_gap(means, name)
        resampled = zip(*(_rank_and_gap(resample, name) for resample in resamples), strict=True)
        rank_interval, gap_interval = map(_middle, resampled) if resamples else (None, None)
        wins = {other: _wins(sections, name, other) for other in names if other != name}
        methods.append(Standing(name, mean_rank, mean_gap, rank_interval, gap_interval, wins))
    return sorted(methods, key=lambda method: (method.mean_rank, method.name))


def _scores(section: Section) -> dict[str, list[float]]:
    """Return the scores of the ranked methods in the ranking evaluation, a score for each seed."""
    return {
        line.name: [run["metrics"][section.columns[0].evaluation]["top1"] for run in line.cell.runs]
        for line in section.lines
        if line.rank is not None
    }


def _rank_and_gap(means: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    """Return the mean rank of a method, where equal scores share their mean rank, and its mean gap in points."""
    ranks, gaps = [], []
    for table in means:
        scores = list(table.values())
        ranks.append(sum(score > table[name] for score in scores) + (scores.count(table[name]) + 1) / 2)
        gaps.append(100 * (max(scores) - table[name]))
    return fmean(ranks), fmean(gaps)


def _resamples(scores: Sequence[Mapping[str, list[float]]]) -> list[list[dict[str, float]]]:
    """Return the mean score of each method in each table, for each of `RESAMPLES` resamples of the seeds."""
    generator = random.Random(0)

    def mean(values: list[float]) -> float:
        centre, n = fmean(values), len(values)
        shift = fmean(generator.choices(values, k=n)) - centre
        return centre + shift * math.sqrt(n / (n - 1))

    return [[{name: mean(values) for name, values in table.items()} for table in scores] for _ in range(RESAMPLES)]


def _middle(values: Sequence[float]) -> Interval:
    """Return the bounds of the middle 95 % of the values."""
    ordered, outside = sorted(values), round(0.025 * len(values))
    return ordered[outside], ordered[-1 - outside]


def _wins(sections: Sequence[Section], name: str, other: str) -> tuple[int, int, int]:
    better = worse = 0
    for section in sections:
        assert section.ranking is not None
        means = {line.name: section.ranking.means[line.cell.entry] for line in section.lines if line.rank is not None}
        better += means[name] - means[other] > section.ranking.margin
        worse += means[other] - means[name] > section.ranking.margin
    return better, len(sections) - better - worse, worse
