"""Methods over all data sets of a board: mean rank, mean gap to the best, and how often one beats another.

Beside them stands how far the data sets agree on the order.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean

from benchmark.report.leaderboard import DIVISIONS
from benchmark.report.orders import agreement, scores
from benchmark.report.section import Section, ranking_score
from benchmark.report.text import Block, terms

RESAMPLES = 2000
CAPTION = """\
Mean rank and mean gap to the best of each data set, by plain means over all tables above. 95 % intervals are from
resampled seeds; data sets are fixed. The columns named after methods count the tables in which the line's method is
better, tied and worse."""
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


def overall_tables(board: Sequence[Section]) -> Iterator[Block]:
    """Yield a table over the data sets of a board for each division and precision that has several.

    Encoders that were pretrained on other data than they are evaluated on are left out.
    """
    own = [section for section in board if not section.setting.origin]
    for shared in product(DIVISIONS, sorted({section.setting.precision for section in own})):
        alike = [section for section in own if (section.setting.division, section.setting.precision) == shared]
        datasets = {section.setting.dataset for section in alike}
        methods = standings(alike) if len(datasets) > 1 else []
        if methods:
            names = [method.name for method in methods]
            yield Block(
                title=f"Over {', '.join([f'{len(datasets)} data sets', *terms(alike[0].setting)])}",
                caption=CAPTION + _orders(alike),
                headings=("method", "mean rank", "mean gap (points)", *names),
                lines=tuple(
                    (
                        method.name,
                        _interval(method.mean_rank, method.rank_interval),
                        _interval(method.mean_gap, method.gap_interval),
                        *("-".join(map(str, method.wins[name])) if name in method.wins else "" for name in names),
                    )
                    for method in methods
                ),
            )


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
        line.name: [ranking_score(run["metrics"][section.columns[0].evaluation]) for run in line.cell.runs]
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
        ranking, entries = section.ranking, {line.name: line.cell.entry for line in section.lines if line.rank}
        better += ranking.is_above(entries[name], entries[other])
        worse += ranking.is_above(entries[other], entries[name])
    return better, len(sections) - better - worse, worse


def _orders(sections: Sequence[Section]) -> str:
    """Return a sentence on how far the orders of each two data sets agree; empty where none can be compared."""
    pairs = [
        f"{first.setting.dataset} and {second.setting.dataset} {agreed}"
        for first, second in combinations(sections, 2)
        if first.setting.dataset != second.setting.dataset
        and (agreed := agreement(*(scores(section, section.columns[0]) for section in (first, second))))
    ]
    return f" Kendall's tau of the orders, with its 95 % interval: {'; '.join(pairs)}." if pairs else ""


def _interval(value: float, interval: Interval | None) -> str:
    return f"{value:.2f}" + ("" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})")
