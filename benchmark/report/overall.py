"""One view over the data sets of a board: mean rank, mean gap to the best, and who beats whom how often."""

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
    """A method over all data sets: mean rank, mean gap to the best in points, their 95 % intervals, and its duels.

    The intervals are None where a method has a single seed somewhere. `wins` has, for each other method, the data
    sets on which this one is better, tied and worse by the range test of its table.
    """

    name: str
    mean_rank: float
    mean_gap: float
    rank_interval: Interval | None
    gap_interval: Interval | None
    wins: dict[str, tuple[int, int, int]]


def standings(sections: Sequence[Section]) -> list[Standing]:
    """Compare the methods that every table ranks; the least mean rank first. Tables of one setting need none of this.

    Data sets are fixed; seeds are resampled within each method and data set, and their spread is widened by
    sqrt(n / (n - 1)), without which intervals of few seeds are too narrow.
    """
    tables = [_scores(section) for section in sections]
    names = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    if len(names) < 2:
        return []
    scores = [{name: table[name] for name in names} for table in tables]
    ranks, gaps = _summaries([{name: fmean(values) for name, values in table.items()} for table in scores])
    intervals = None
    if all(len(values) > 1 for table in scores for values in table.values()):
        intervals = _intervals(scores, names)
    found = [
        Standing(
            name=name,
            mean_rank=ranks[name],
            mean_gap=gaps[name],
            rank_interval=intervals[name][0] if intervals else None,
            gap_interval=intervals[name][1] if intervals else None,
            wins={other: _duels(sections, name, other) for other in names if other != name},
        )
        for name in names
    ]
    return sorted(found, key=lambda standing: (standing.mean_rank, standing.name))


def _scores(section: Section) -> dict[str, list[float]]:
    """Return the scores in the ranking column of the methods that are ranked."""
    column = section.columns[0] if section.columns else None
    return {
        line.name: [run["metrics"][column.evaluation]["top1"] for run in line.cell.runs]
        for line in section.lines
        if line.rank is not None and column is not None
    }


def _summaries(means: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the mean rank, where equal scores share the mean of their ranks, and the mean gap in points."""
    ranks: dict[str, list[float]] = {name: [] for name in means[0]}
    gaps: dict[str, list[float]] = {name: [] for name in means[0]}
    for table in means:
        best = max(table.values())
        for name, value in table.items():
            above = sum(other > value for other in table.values())
            equal = sum(other == value for other in table.values())
            ranks[name].append(above + (equal + 1) / 2)
            gaps[name].append(100 * (best - value))
    return {name: fmean(values) for name, values in ranks.items()}, {name: fmean(v) for name, v in gaps.items()}


def _intervals(
    scores: Sequence[Mapping[str, list[float]]], names: Sequence[str]
) -> dict[str, tuple[Interval, Interval]]:
    generator = random.Random(0)
    drawn: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for _ in range(RESAMPLES):
        means = []
        for table in scores:
            resampled = {}
            for name, values in table.items():
                centre, n = fmean(values), len(values)
                shift = fmean(generator.choices(values, k=n)) - centre
                resampled[name] = centre + shift * math.sqrt(n / (n - 1))
            means.append(resampled)
        ranks, gaps = _summaries(means)
        for name in names:
            drawn[name][0].append(ranks[name])
            drawn[name][1].append(gaps[name])
    return {name: (_middle(ranks), _middle(gaps)) for name, (ranks, gaps) in drawn.items()}


def _middle(values: list[float]) -> Interval:
    """Return the bounds of the middle 95 % of the values."""
    ordered, outside = sorted(values), round(0.025 * len(values))
    return ordered[outside], ordered[-1 - outside]


def _duels(sections: Sequence[Section], name: str, other: str) -> tuple[int, int, int]:
    counts = [0, 0, 0]
    for section in sections:
        assert section.ranking is not None
        means = {line.name: section.ranking.means[line.cell.entry] for line in section.lines if line.rank is not None}
        ahead = means[name] - means[other]
        counts[0 if ahead > section.ranking.margin else 2 if -ahead > section.ranking.margin else 1] += 1
    return counts[0], counts[1], counts[2]
