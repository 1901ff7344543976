"""Whether another rule, or another data set, puts the methods into another order.

A table ranks by one rule: an evaluation, a budget and a way to choose learning rates. Kendall's tau says how far the
order follows from that: it is 1 for the same order under another rule, 0 for an unrelated one and -1 for the reverse.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.report.section import Column, Section, ranking_score, result
from benchmark.report.text import Block, amount

RESAMPLES = 1000
FEWEST = 3  # methods with an order
OTHER_EVALUATION = "knn"
CAPTION = """\
Ranks of the same methods by the mean under other rules. Kendall's tau compares each order with the first: 1 is the same
order, 0 an unrelated one, -1 the reverse. Its 95 % interval is from resampled seeds, and absent where a method has one
seed."""
Scores = Mapping[str, Mapping[str, float]]  # of each method by its name, and of each of its runs by the run's id


class Agreement(NamedTuple):
    """Kendall's tau-b of two orders, with its 95 % interval where every method has several seeds in both."""

    tau: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        interval = "" if self.interval is None else f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return f"{self.tau:.2f}{interval}"


def other_rules(alike: Sequence[Section]) -> Iterator[Block]:
    """Yield a table for each ranking table of a data set that has records under other rules.

    These are the learning rates of the recipes, another evaluation of the same runs, and another kind of budget. A
    table of the closed division has one only where there is no tuned one beside it. The cost of trials is no rule:
    each method has as many, of the same share of the budget, so that no order depends on it.
    """
    by_setting = {section.setting: section for section in alike}
    for section in alike:
        setting = section.setting
        if not section.columns or setting.division == "open":
            continue
        if setting.division == "closed" and setting._replace(division="tuned") in by_setting:
            continue
        is_tuned = setting.division == "tuned"
        first = section.columns[0]
        rules = {section.heading(first) + ", tuned rates" * is_tuned: scores(section, first)}
        if is_tuned and (closed := by_setting.get(setting._replace(division="closed"))):
            rules["recipes' rates"] = scores(closed, first)
        rules |= {
            section.heading(column): scores(section, column)
            for column in section.columns[1:]
            if column.evaluation == OTHER_EVALUATION
        }
        for other in alike:
            same = setting._replace(budget=other.setting.budget, amount=other.setting.amount, hardware="")
            if other.setting.budget != setting.budget and other.setting._replace(hardware="") == same:
                rules[amount(other.setting)] = scores(other, first)
        yield from _table(section, rules)


def scores(section: Section, column: Column) -> Scores:
    """Return the scores of the ranked methods of which every run has this evaluation."""
    by_name = {}
    for line in section.lines:
        results = {run["id"]: result(run, column) for run in line.cell.runs}
        if line.rank is not None and all(results.values()):
            by_name[line.name] = {key: ranking_score(metrics) for key, metrics in results.items() if metrics}
    return by_name


def agreement(first: Scores, second: Scores) -> Agreement | None:
    """Compare the order of the methods that both have; None for fewer than three.

    Seeds are resampled within each method, and their spread is widened by sqrt(n / (n - 1)), as for mean ranks. Scores
    of the same runs are resampled together.
    """
    names = [name for name in first if name in second]
    if len(names) < FEWEST:
        return None
    means = [np.array([fmean(scores[name].values()) for name in names]) for scores in (first, second)]
    tau = float(kendall_tau(*means))
    if any(len(scores[name]) < 2 for name in names for scores in (first, second)):
        return Agreement(tau, None)
    resampled: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    for place, name in enumerate(names):
        is_same = first[name].keys() == second[name].keys()
        resampled[0].append(_resampled([*first[name].values()], 2 * place))
        values = [second[name][key] for key in first[name]] if is_same else [*second[name].values()]
        resampled[1].append(_resampled(values, 2 * place + (not is_same)))
    taus = np.sort(kendall_tau(np.stack(resampled[0], axis=1), np.stack(resampled[1], axis=1)))
    outside = round(0.025 * RESAMPLES)
    return Agreement(tau, (float(taus[outside]), float(taus[-1 - outside])))


def kendall_tau(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Return Kendall's tau-b of scores `(..., methods)`; 0 where all are equal.

    tau = (concordant - discordant) / sqrt(pairs that differ in the first * pairs that differ in the second)
    """
    pairs = np.array([*combinations(range(first.shape[-1]), 2)]).T
    # rounded, so that means that are equal but for the order of a sum are ties on every machine
    signs = [np.sign(np.round(each[..., pairs[0]] - each[..., pairs[1]], 12)) for each in (first, second)]
    differing = np.sqrt(np.prod([np.abs(each).sum(-1) for each in signs], axis=0))
    tau: NDArray[Any] = (signs[0] * signs[1]).sum(-1) / np.maximum(differing, 1)
    return tau


def _resampled(values: Sequence[float], stream: int) -> NDArray[Any]:
    n = len(values)
    each = np.array(values)
    shift = each[_picks(n, stream)].mean(axis=1) - each.mean()
    resampled: NDArray[Any] = each.mean() + shift * math.sqrt(n / (n - 1))
    return resampled


@cache
def _picks(n: int, stream: int) -> NDArray[Any]:
    """Return the seeds of each resample; RandomState draws the same numbers with every version of numpy."""
    return np.random.RandomState(stream).randint(0, n, (RESAMPLES, n))


def _table(section: Section, rules: Mapping[str, Scores]) -> Iterator[Block]:
    (ranking, first), *others = rules.items()
    agreements = {name: agreed for name, scores in others if (agreed := agreement(first, scores))}
    if not agreements:
        return
    shown = {ranking: first, **{name: rules[name] for name in agreements}}
    ranks = {name: _ranks({each: scores[each] for each in first if each in scores}) for name, scores in shown.items()}
    lines = [(name, *(ranks[rule].get(name, "") for rule in shown)) for name in first]
    setting = section.setting
    yield Block(
        title=", ".join([setting.dataset, setting.encoder, amount(setting), "the order under other rules"]),
        caption=CAPTION,
        headings=("method", *shown),
        lines=(*lines, ("Kendall's tau", "", *map(str, agreements.values()))),
    )


def _ranks(scores: Scores) -> dict[str, str]:
    means = {name: fmean(runs.values()) for name, runs in scores.items()}
    return {name: str(1 + sum(other > mean for other in means.values())) for name, mean in means.items()}
