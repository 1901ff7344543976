"""How long trials of a learning rate have to be: rates tried on several shares of a budget, up to the whole.

The regret of a choice is what the chosen rate loses beside the best one, after the whole budget, on the hold-out.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmark.report.record import Record
from benchmark.report.section import columns_of
from benchmark.report.statistics import Z95
from benchmark.report.text import alignment, markdown, percent
from benchmark.report.tuning import Contest, factor, noise, score

SHARE = "experiment.budget_share = "  # as a sweep varies it
DRAWS = 10_000  # of the scores of trials on other hold-outs of the same size
PAGE = """\
<!-- Written by `python -m benchmark.tables` from the records in this folder: do not edit. -->
# How long a trial of a learning rate has to be

{evaluation} in % on a hold-out of {n:,} training images, one seed, on {dataset} with {encoder}: multiples of the
recipe's learning rate after shares of the budget. The regret is what a choice loses beside the best of these rates,
after the whole budget. "Best" takes the best trial; its expected regret is the mean over {draws:,} draws of the trials'
scores on other hold-outs of this size. "Rule" is that of `benchmark.suite --tune`: the recipe's rate stays unless
another is better by more than the 95 % interval of the difference, here about {interval:.1f} points. Regrets are in
points, and uncertain by as much.

{table}

{sentence}
"""

Trials = Mapping[float, Record]  # by factor


def studies(records: Sequence[Record]) -> dict[str, str]:
    """Return a page for each board that has trials on several shares of a budget, by the name of the board."""
    boards: dict[str, dict[str, dict[float, dict[float, Record]]]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (record["created_utc"], record["id"])):
        varied = [binding for binding in record["config"]["varied"] if binding.startswith(SHARE)]
        if record["division"] == "trial" and varied and record["board"] and record["metrics"]:
            of_method = boards[record["board"]].setdefault(record["method"]["name"], {})
            of_method.setdefault(float(varied[0].removeprefix(SHARE)), {})[factor(record)] = record
    return {board: _page(methods) for board, methods in sorted(boards.items())}


def _page(methods: Mapping[str, Mapping[float, Trials]]) -> str:
    factors = sorted({each for shares in methods.values() for trials in shares.values() for each in trials})
    lines, regrets = [], defaultdict[float, list[tuple[float, float]]](list)
    for method, shares in sorted(methods.items()):
        whole = shares.get(1.0, {})
        for share, trials in sorted(shares.items()):
            steps = max(budget["steps"] for trial in trials.values() if (budget := trial["budget"]))
            scores = [percent(score(trials[each])) if each in trials else "" for each in factors]
            choices = [""] * 5
            if trials.keys() <= whole.keys() and 1.0 in trials and len(trials) > 1:
                contest = Contest(tuple(trials[each] for each in sorted(trials)))
                best, ruled, expected = factor(contest.best), factor(contest.clear_winner), _expected(trials, whole)
                regrets[share].append((expected, _regret(ruled, whole)))
                choices = [f"{best:g}", percent(_regret(best, whole)), percent(expected)]
                choices += [f"{ruled:g}", percent(_regret(ruled, whole))]
            lines.append([method, f"{share:g}", f"{steps:,}", *scores, *choices])
    headings = ["method", "share", "steps", *(f"{each:g}" for each in factors)]
    headings += ["best", "regret", "expected", "rule", "regret"]
    first = next(trial for shares in methods.values() for trials in shares.values() for trial in trials.values())
    column = columns_of([first])[0]
    return PAGE.format(
        evaluation=column.evaluation + column.measure,
        n=first["dataset"]["sizes"]["test"],
        dataset=first["dataset"]["name"],
        encoder=first["encoder"]["name"],
        draws=DRAWS,
        interval=100 * noise(first, first),
        table=markdown(headings, alignment(headings), lines),
        sentence=_sentence(regrets),
    )


def _sentence(regrets: Mapping[float, Sequence[tuple[float, float]]]) -> str:
    """Return what the choices lose on average over the methods that have trials at the whole budget."""
    if not regrets:
        return "No method has its trials at the whole budget yet."
    parts = []
    for share, pairs in sorted(regrets.items()):
        expected, ruled = (100 * fmean(values) for values in zip(*pairs, strict=True))
        parts.append(f"{expected:.2f} and {ruled:.2f} points at {share:g} of the budget")
    count = max(map(len, regrets.values()))
    return f"Expected regret of the best, and regret by the rule, mean over {count} methods: {'; '.join(parts)}."


def _regret(chosen: float, whole: Trials) -> float:
    return max(map(score, whole.values())) - score(whole[chosen])


def _expected(trials: Trials, whole: Trials) -> float:
    """Return the mean regret of the best trial, where the scores of trials are drawn anew as on other hold-outs."""
    generator = random.Random(0)
    spreads = {each: (score(trial), noise(trial) / Z95) for each, trial in trials.items()}
    return fmean(_regret(max(spreads, key=lambda each: generator.gauss(*spreads[each])), whole) for _ in range(DRAWS))
