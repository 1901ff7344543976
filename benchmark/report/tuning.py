"""How learning rates are chosen: by trials on a part of the budget, which see no test image.

The rate of the recipe stays unless another is clearly better on the hold-out. A first rule chose the best of five
trials at a sixteenth of the budget; on CIFAR-10 it chose noise, and worse rates for five methods of eight.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from benchmark.errors import BenchmarkError
from benchmark.report.cells import by_age, files_outside, hardware, majors, tuning_of
from benchmark.report.fields import Tuning
from benchmark.report.record import Record
from benchmark.report.section import Section, columns_of, ranking_score
from benchmark.report.statistics import Z95
from benchmark.report.text import Block, flops_unit, percent

FACTORS = (0.5, 1.0, 2.0)  # times the learning rate of the recipe
LIMITS = (1 / 16, 16.0)  # of the factors that are tried where the best lies at the edge
SHARE = 1 / 4  # of the budget, for each trial, unless the suite has another
FIRST_FACTORS, FIRST_SHARE = (0.25, 0.5, 1.0, 2.0, 4.0), 1 / 16  # of the first rule
CAPTION = """\
{evaluation} in % on a hold-out of {n:,} training images after {share:g} of the budget, one seed, at multiples of
the recipe's learning rate. {rule} The trials took {flops} and {minutes:,.1f} device minutes, which are not in the table
above."""
FIRST_RULE = "The best was chosen, by a rule that is no longer used."
RULE = """\
The recipe's rate stays unless another is better by more than the 95 % interval of the difference of two such scores;
then rates beyond it are tried too, while the best lies at the edge."""


@dataclass(frozen=True)
class Contest:
    """The trials of one recipe, the newest of each factor, in the order of the factors."""

    trials: tuple[Record, ...]

    @property
    def share(self) -> float | None:
        """The part of the budget of each trial; None by the first rule, where all trials had `FIRST_SHARE`."""
        return next((share for trial in self.trials if (share := _tuning(trial).get("share")) is not None), None)

    @property
    def missing(self) -> tuple[float, ...]:
        """The factors that are still to be tried."""
        is_first = bool(self.trials) and self.share is None
        tried = [*map(factor, self.trials)]
        if lacking := [each for each in (FIRST_FACTORS if is_first else FACTORS) if each not in tried]:
            return tuple(lacking)
        if is_first:
            return ()
        best = factor(self.winner)
        beyond = {tried[0]: best / 2, tried[-1]: best * 2}.get(best, math.inf)  # the best lies within the others
        return (beyond,) if LIMITS[0] <= beyond <= LIMITS[1] else ()

    @property
    def is_tied(self) -> bool:
        """Whether all trials have the same score, as trials have that are too short to move a weight."""
        return len({score(trial) for trial in self.trials}) == 1

    @property
    def winner(self) -> Record:
        """The trial that chooses the rate: the best by the first rule, today the clear winner."""
        return self.best if self.share is None else self.clear_winner

    @property
    def best(self) -> Record:
        """The trial with the best score; of equal ones the nearest to the recipe, then the lower learning rate."""
        return max(self.trials, key=lambda trial: (score(trial), -abs(math.log(factor(trial))), -factor(trial)))

    @property
    def clear_winner(self) -> Record:
        """The best trial where it is better than the recipe's by more than their noise, else the recipe's."""
        recipe = next(trial for trial in self.trials if factor(trial) == 1)
        return self.best if score(self.best) - score(recipe) > noise(self.best, recipe) else recipe

    @property
    def tuning(self) -> Tuning:
        """What the record of a run with the chosen learning rate stores.

        Raises:
            BenchmarkError: some factors have not been tried.
        """
        if self.missing:
            tried = ", ".join(f"{factor(trial):g}" for trial in self.trials) or "none"
            raise BenchmarkError(
                f"A learning rate is chosen from trials at multiples of the recipe's. There are: {tried}. Still to be "
                f"tried: {', '.join(f'{each:g}' for each in self.missing)}. Make them with python -m benchmark.suite "
                f"--tune."
            )
        chosen: Tuning = {
            "recipe": _tuning(self.winner)["recipe"],
            "factor": factor(self.winner),
            "trials": [trial["id"] for trial in self.trials],
            "flops": math.fsum(trial["cost"]["flops"] for trial in self.trials),
            "seconds": math.fsum(trial["cost"]["train_seconds"] for trial in self.trials),
        }
        if self.share is not None:
            chosen["share"] = self.share
        return chosen


def noise(*trials: Record) -> float:
    """Return the half width of the 95 % interval of a score p on a hold-out of n, or of the difference of two.

        z sqrt(sum of p (1 - p) / n)

    Rates are chosen by it, so it stays as it is, though it is too narrow for few images.
    It takes two hold-outs as independent. Trials share theirs, so that the true interval is narrower. A mean average
    precision is taken as an accuracy of that size, our choice, as its own variance is not in the records.
    """
    scores = ((score(trial), trial["dataset"]["sizes"]["test"]) for trial in trials)
    return Z95 * math.sqrt(math.fsum(p * (1 - p) / n for p, n in scores))


def contests(records: Iterable[Record]) -> dict[str, Contest]:
    """Return the contests among the records by their recipe.

    Only trials on the same terms are compared: for each recipe, those on the terms of its newest trial.
    """
    by_recipe: dict[str, list[Record]] = defaultdict(list)
    for record in by_age(records):
        if record["division"] == "trial" and record["metrics"]:
            by_recipe[_tuning(record)["recipe"]].append(record)
    contests_by_recipe = {}
    for recipe, trials in sorted(by_recipe.items()):
        terms = _terms(trials[-1])
        newest = {factor(trial): trial for trial in trials if _terms(trial) == terms}
        contests_by_recipe[recipe] = Contest(tuple(newest[each] for each in sorted(newest)))
    return contests_by_recipe


def fingerprint_without_test(fingerprint: str) -> str:
    """Return the fingerprint of a data set that has a hold-out in place of its test set."""
    return hashlib.sha256(f"{fingerprint} without test".encode()).hexdigest()


def factor(record: Record) -> float:
    """Return the learning rate of a trial or a tuned run as a multiple of its recipe's."""
    return _tuning(record)["factor"]


def score(trial: Record) -> float:
    """Return the score of a trial on the hold-out, in its leading evaluation."""
    return ranking_score(trial["metrics"][columns_of([trial])[0].evaluation])


def _terms(trial: Record) -> tuple[object, ...]:
    """Return what all trials of a contest must share beside their recipe."""
    budget = trial["budget"]
    assert budget is not None
    return (
        trial["seed"],
        trial["dataset"]["fingerprint"],
        columns_of([trial]),
        (budget["kind"], budget["amount"], hardware(trial) if budget["kind"] == "device_seconds" else ""),
        _tuning(trial).get("share", FIRST_SHARE),  # a trial that is made again has one, where older ones have none
        majors(trial),
        files_outside(trial),
    )


def _tuning(record: Record) -> Tuning:
    tuning = tuning_of(record)
    assert tuning is not None
    return tuning


def trials_table(section: Section) -> Iterator[Block]:
    """Yield the tables of the trials behind a table of the tuned division, one for each rule and share."""
    by_id = {trial["id"]: trial for trial in section.trials}
    named: list[tuple[str, Contest]] = []
    for line in section.lines:
        if tuning := tuning_of(line.cell.runs[0]):
            of_line = contests(by_id[identity] for identity in tuning["trials"] if identity in by_id)
            if (contest := of_line.get(tuning["recipe"])) and not contest.missing:
                named.append((line.name, contest))
    by_rule = sorted(named, key=lambda pair: (pair[1].share or 0.0, pair[0]))
    for share, of_rule in groupby(by_rule, key=lambda pair: pair[1].share):
        yield _table(section, share, [*of_rule])


def _table(section: Section, share: float | None, named: list[tuple[str, Contest]]) -> Block:
    trials = {trial["id"]: trial for _, contest in named for trial in contest.trials}.values()
    flops = math.fsum(trial["cost"]["flops"] for trial in trials)
    unit, divisor = flops_unit([flops])
    first = named[0][1].winner
    column = columns_of([first])[0]
    factors = sorted({factor(trial) for _, contest in named for trial in contest.trials})
    lines = []
    for name, contest in named:
        scores = {factor(trial): percent(score(trial)) for trial in contest.trials}
        lines.append((name, *(scores.get(each, "") for each in factors), f"{factor(contest.winner):g}"))
    return Block(
        title=f"{section.setting.dataset}, {section.setting.encoder}, learning rate trials",
        caption=CAPTION.format(
            evaluation=section.heading(column) + column.measure,
            n=first["dataset"]["sizes"]["test"],
            share=share or FIRST_SHARE,
            rule=(FIRST_RULE if share is None else RULE).replace("\n", " "),
            flops=f"{flops / divisor:.2f} {unit}",
            minutes=math.fsum(trial["cost"]["train_seconds"] for trial in trials) / 60,
        ),
        headings=("method", *(f"{each:g}" for each in factors), "chosen"),
        lines=tuple(lines),
    )
