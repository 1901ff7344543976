"""How rates are chosen: the same five for every method, each tried on a part of the budget, without the test set."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmark.errors import BenchmarkError
from benchmark.report.cells import by_age, files_outside, hardware, majors, tuning_of
from benchmark.report.fields import Tuning
from benchmark.report.leaderboard import Section, columns_of
from benchmark.report.record import Record
from benchmark.report.text import Block, flops_unit, percent

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the rate of the recipe
SHARE = 1 / 16  # of the budget, for each trial
CAPTION = """\
{evaluation} top-1 in % on a hold-out of {n:,} images of train after {share:g} of the budget, one seed, at multiples of
the recipe's rate. The trials took {flops} and {minutes:,.1f} device minutes, which the table above leaves out."""


@dataclass(frozen=True)
class Contest:
    """The trials of one recipe in the order of their factors, the newest of each."""

    trials: tuple[Record, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every factor was tried."""
        return tuple(map(factor, self.trials)) == FACTORS

    @property
    def is_tied(self) -> bool:
        """Whether all trials have one score, as those have that are too short to move a weight."""
        return len({score(trial) for trial in self.trials}) == 1

    @property
    def winner(self) -> Record:
        """The trial with the best score; of equals the one nearest to the recipe, then the slower rate."""
        return max(self.trials, key=lambda trial: (score(trial), -abs(math.log(factor(trial))), -factor(trial)))

    @property
    def tuning(self) -> Tuning:
        """What the record of a run with the chosen rate says. Raises BenchmarkError where trials are missing."""
        if not self.is_complete:
            tried = ", ".join(f"{factor(trial):g}" for trial in self.trials) or "none"
            raise BenchmarkError(
                f"A rate is chosen from trials at {', '.join(f'{each:g}' for each in FACTORS)} times the recipe's, but "
                f"there are: {tried}. Make them with python -m benchmark.suite --tune."
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

    Trials are held against each other on the same terms alone: of those of one recipe, on the terms of the newest.
    """
    known: dict[str, list[Record]] = defaultdict(list)
    for record in by_age(records):
        if record["division"] == "trial" and record["metrics"]:
            known[_tuning(record)["recipe"]].append(record)
    return {recipe: _contest(found) for recipe, found in sorted(known.items())}


def fingerprint_without_test(fingerprint: str) -> str:
    """Return the fingerprint of a data set's form for choices."""
    return hashlib.sha256(f"{fingerprint} without test".encode()).hexdigest()


def factor(record: Record) -> float:
    """Return how many times the rate of its recipe a trial or a tuned run was trained at."""
    return _tuning(record)["factor"]


def score(trial: Record) -> float:
    """Return the top-1 on the hold-out by which a trial is judged."""
    return trial["metrics"][columns_of([trial])[0].evaluation]["top1"]


def _contest(found: list[Record]) -> Contest:
    terms = _terms(found[-1])
    newest = {factor(trial): trial for trial in found if _terms(trial) == terms}
    return Contest(tuple(newest[each] for each in sorted(newest)))


def _terms(trial: Record) -> tuple[object, ...]:
    """Return what the recipe leaves open and all trials of a contest must share."""
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


def trials(section: Section) -> Iterator[Block]:
    """Yield the table of the trials behind a table of the division tuned, nothing for another."""
    known = {trial["id"]: trial for trial in section.trials}
    shown: dict[str, Contest] = {}
    for line in section.lines:
        if tuning := tuning_of(line.cell.runs[0]):
            named = contests(known[identity] for identity in tuning["trials"] if identity in known)
            contest = named.get(tuning["recipe"], Contest(()))
            if contest.is_complete:
                shown[line.name] = contest
    if not shown:
        return
    flops = math.fsum(trial["cost"]["flops"] for trial in section.trials)
    unit, divisor = flops_unit([flops])
    first = next(iter(shown.values())).winner
    yield Block(
        title=f"{section.setting.dataset}, {section.setting.encoder}, trials of the rate",
        caption=CAPTION.format(
            evaluation=columns_of([first])[0].heading,
            n=first["dataset"]["sizes"]["test"],
            share=SHARE,
            flops=f"{flops / divisor:.2f} {unit}",
            minutes=math.fsum(trial["cost"]["train_seconds"] for trial in section.trials) / 60,
        ),
        alignment="l" + "r" * (len(FACTORS) + 1),
        headings=("method", *(f"{each:g}" for each in FACTORS), "chosen"),
        lines=tuple(
            (name, *(percent(score(trial)) for trial in contest.trials), f"{factor(contest.winner):g}")
            for name, contest in sorted(shown.items())
        ),
    )
