"""How learning rates are chosen: every method tries the same five factors on a part of the budget, without test set."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmark.errors import BenchmarkError
from benchmark.report.cells import by_age, files_outside, hardware, majors, tuning_of
from benchmark.report.fields import Tuning
from benchmark.report.record import Record
from benchmark.report.section import Section, columns_of
from benchmark.report.text import Block, flops_unit, percent

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the learning rate of the recipe
SHARE = 1 / 16  # of the budget, for each trial
CAPTION = """\
{evaluation} top-1 in % on a hold-out of {n:,} training images after {share:g} of the budget, one seed, at multiples of
the recipe's learning rate. The trials took {flops} and {minutes:,.1f} device minutes, which are not in the table
above."""


@dataclass(frozen=True)
class Contest:
    """The trials of one recipe, the newest of each factor, in the order of the factors."""

    trials: tuple[Record, ...]

    @property
    def is_complete(self) -> bool:
        return tuple(map(factor, self.trials)) == FACTORS

    @property
    def is_tied(self) -> bool:
        """Whether all trials have the same score, as trials have that are too short to move a weight."""
        return len({score(trial) for trial in self.trials}) == 1

    @property
    def winner(self) -> Record:
        """The trial with the best score; of equal ones the nearest to the recipe, then the lower learning rate."""
        return max(self.trials, key=lambda trial: (score(trial), -abs(math.log(factor(trial))), -factor(trial)))

    @property
    def tuning(self) -> Tuning:
        """What the record of a run with the chosen learning rate stores.

        Raises:
            BenchmarkError: some factors have not been tried.
        """
        if not self.is_complete:
            tried = ", ".join(f"{factor(trial):g}" for trial in self.trials) or "none"
            raise BenchmarkError(
                f"A learning rate is chosen from trials at {', '.join(f'{each:g}' for each in FACTORS)} times the "
                f"recipe's, but there are: {tried}. Make them with python -m benchmark.suite --tune."
            )
        return {
            "recipe": _tuning(self.winner)["recipe"],
            "factor": factor(self.winner),
            "trials": [trial["id"] for trial in self.trials],
            "flops": math.fsum(trial["cost"]["flops"] for trial in self.trials),
            "seconds": math.fsum(trial["cost"]["train_seconds"] for trial in self.trials),
        }


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
    """Return the top-1 of a trial on the hold-out, in its leading evaluation."""
    return trial["metrics"][columns_of([trial])[0].evaluation]["top1"]


def _terms(trial: Record) -> tuple[object, ...]:
    """Return what all trials of a contest must share beside their recipe."""
    budget = trial["budget"]
    assert budget is not None
    return (
        trial["seed"],
        trial["dataset"]["fingerprint"],
        columns_of([trial]),
        (budget["kind"], budget["amount"], hardware(trial) if budget["kind"] == "device_seconds" else ""),
        majors(trial),
        files_outside(trial),
    )


def _tuning(record: Record) -> Tuning:
    tuning = tuning_of(record)
    assert tuning is not None
    return tuning


def trials_table(section: Section) -> Iterator[Block]:
    """Yield the table of the trials behind a table of the tuned division, nothing for another."""
    by_id = {trial["id"]: trial for trial in section.trials}
    by_name: dict[str, Contest] = {}
    for line in section.lines:
        if tuning := tuning_of(line.cell.runs[0]):
            named = contests(by_id[identity] for identity in tuning["trials"] if identity in by_id)
            if (contest := named.get(tuning["recipe"])) and contest.is_complete:
                by_name[line.name] = contest
    if not by_name:
        return
    flops = math.fsum(trial["cost"]["flops"] for trial in section.trials)
    unit, divisor = flops_unit([flops])
    first = next(iter(by_name.values())).winner
    yield Block(
        title=f"{section.setting.dataset}, {section.setting.encoder}, learning rate trials",
        caption=CAPTION.format(
            evaluation=section.heading(columns_of([first])[0]),
            n=first["dataset"]["sizes"]["test"],
            share=SHARE,
            flops=f"{flops / divisor:.2f} {unit}",
            minutes=math.fsum(trial["cost"]["train_seconds"] for trial in section.trials) / 60,
        ),
        headings=("method", *(f"{each:g}" for each in FACTORS), "chosen"),
        lines=tuple(
            (name, *(percent(score(trial)) for trial in contest.trials), f"{factor(contest.winner):g}")
            for name, contest in sorted(by_name.items())
        ),
    )
