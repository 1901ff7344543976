"""A board: which methods, protocols, seeds and variations, as a plan of runs that is carried out one after another.

In the division `tuned` each method's rate is chosen before, from trials that never see the test set.

Each run is a process of its own, by the command that a user would type, so that one that fails takes no other along.
What is finished is known by the records of the board alone: those of the code as it is, and on their own budget.
"""

import ctypes
import fnmatch
import math
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import gin

from benchmark import config as configuration
from benchmark.checkout import changed
from benchmark.config import Config
from benchmark.errors import ConfigError
from benchmark.experiment import stands
from benchmark.report.record import Record
from benchmark.report.store import load
from benchmark.report.tuning import FACTORS, SHARE, contests, factor

INTERRUPTED = 75
TRIAL_SEED = 1000  # of all trials; the runs that follow have fresh seeds
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
Value = int | float | str | bool | None | tuple[int | float, ...]
TRIED = ("experiment.is_trial", "experiment.budget_share", "experiment.evaluations", "experiment.rate_factor")
Division = Literal["closed", "trial", "tuned"]
State = Literal["done", "missing", "stale", "missed", "failed"]


class Entry(NamedTuple):
    """What enters a board: a method under a protocol, at a point of the sweep; stems of files and bindings."""

    protocol: str
    method: str
    point: tuple[str, ...]


@gin.register("suite")
@dataclass(frozen=True, kw_only=True)
class Suite:
    """What makes a board: every method under every protocol, for every seed and every point of the sweep.

    `methods` and `protocols` are the stems of files in `gin/` and `gin/protocol/`. `settings` hold for all runs, as
    `--set` does. `sweep` maps a binding to the values that it takes; several bindings make a grid. In the division
    `tuned`, `chosen_by` is the evaluation on whose score, on a hold-out of train, rates are chosen.
    """

    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    sweep: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    chosen_by: str = "@Linear"

    def __post_init__(self) -> None:
        for name in ("methods", "protocols", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"suite.{name} = {values!r}: name at least one, and each once.")
        if TRIAL_SEED in self.seeds:
            raise ConfigError(
                f"suite.seeds = {self.seeds!r}: {TRIAL_SEED} is the seed of trials; runs have fresh ones."
            )
        if empty := [binding for binding, values in self.sweep.items() if not values]:
            raise ConfigError(f"suite.sweep gives {empty[0]} no value; give at least one.")

    def of_seeds(self, seeds: Sequence[int]) -> "Suite":
        """Return the suite with these of its seeds alone. Raises ConfigError for a seed that it does not have."""
        if foreign := [seed for seed in seeds if seed not in self.seeds]:
            raise ConfigError(f"--seeds {foreign[0]}: the suite has {', '.join(map(str, self.seeds))}.")
        return replace(self, seeds=tuple(seed for seed in self.seeds if seed in seeds))

    def runs(self) -> Iterator["Planned"]:
        """Yield the runs: all of the first seed, then of the second, so that a board cut short compares like with like.

        Raises ConfigError where a run's configuration is refused, before any of them is started.
        """
        for seed, entry in product(self.seeds, self._entries()):
            yield self._planned("closed", entry, seed)

    def trials(self) -> Iterator["Planned"]:
        """Yield the trials of each entry: the recipe's rate times each factor, on a share of the budget."""
        for binding in self.sweep:
            if binding in TRIED:
                raise ConfigError(f"suite.sweep varies {binding}, which trials set themselves: make it without --tune.")
        for entry, each in product(self._entries(), FACTORS):
            yield self._planned(
                "trial",
                entry,
                TRIAL_SEED,
                "experiment.is_trial = True",
                f"experiment.budget_share = {SHARE!r}",
                f"experiment.evaluations = ({self.chosen_by},)",
                f"experiment.rate_factor = {each!r}",
            )

    def tuned(self, records: Sequence[Record]) -> Iterator["Planned"]:
        """Yield the runs of the division `tuned` whose rates the trials among the records have chosen."""
        tried = {trial.text: trial.entry for trial in self.trials()}
        made: dict[Entry, list[Record]] = defaultdict(list)
        for record in records:
            if record["division"] == "trial" and (entry := tried.get(record["config"]["text"])):
                made[entry].append(record)
        chosen = {
            entry: factor(contest.winner)
            for entry, trials in made.items()
            for contest in contests(trials).values()
            if contest.is_complete
        }
        for seed, entry in product(self.seeds, self._entries()):
            if entry in chosen:
                yield self._planned("tuned", entry, seed, f"experiment.rate_factor = {chosen[entry]!r}")

    def _entries(self) -> list[Entry]:
        points = [
            tuple(f"{binding} = {value!r}" for binding, value in zip(self.sweep, values, strict=True))
            for values in product(*self.sweep.values())
        ]
        return [Entry(*found) for found in product(self.protocols, self.methods, points)]

    def _planned(self, division: Division, entry: Entry, seed: int, *settings: str) -> "Planned":
        files = (f"gin/{entry.method}.gin", f"gin/protocol/{entry.protocol}.gin")
        settings = (*self.settings, *settings)
        config = configuration.load(files, (*settings, *entry.point, f"experiment.seed = {seed}"))
        last = settings[-1].partition(".")[2] if division == "trial" else f"seed {seed}"
        label = "/".join([entry.protocol, entry.method, *entry.point, *([division] * (division != "closed")), last])
        return Planned(label, division, entry, files, settings, seed, config)


@dataclass(frozen=True)
class Planned:
    """A run to come."""

    label: str
    division: Division
    entry: Entry
    files: tuple[str, ...]
    settings: tuple[str, ...]
    seed: int
    config: Config

    @property
    def text(self) -> str:
        """The canonical configuration, by which its record is recognised."""
        return self.config.text

    def seconds(self, records: Sequence[Record]) -> float | None:
        """Return the seconds of training: its budget in seconds, or its budget at the pace of the records.

        The pace is the median, over records of the same method or else over all, of seconds per image or per FLOP.
        None where no record has one, or where there is nothing to train.
        """
        experiment = self.config.tree["params"]
        budget, stage = experiment["budget"], experiment["pretraining"]
        if budget is None or stage is None:
            return None
        amount: float = budget["params"]["amount"] * experiment["budget_share"]
        if budget["params"]["kind"] == "device_seconds":
            return amount
        unit: Literal["flops", "images"] = "flops" if budget["params"]["kind"] == "flops" else "images"
        trained = [record for record in records if record["cost"][unit]]
        own = [record for record in trained if record["method"]["name"] == stage["params"]["name"]]
        paces = [record["cost"]["train_seconds"] / record["cost"][unit] for record in own or trained]
        return median(paces) * amount if paces else None

    def command(self, out: Path, publish: Path) -> list[str]:
        """Return the command that makes this run, or makes it again, or goes on where it was interrupted."""
        parts = [sys.executable, "-m", "benchmark.run"]
        for option, values in (("--gin", self.files), ("--set", self.settings), ("--vary", self.entry.point)):
            parts += [part for value in values for part in (option, value)]
        if self.division == "tuned":
            parts += ["--trials", str(publish)]
        return [*parts, "--seed", str(self.seed), "--out", str(out), "--publish", str(publish), "--resume"]


@dataclass
class Board:
    """The runs of a suite, and the folders of their state and of their records."""

    name: str
    runs: Sequence[Planned]
    out: Path
    results: Path

    @property
    def folder(self) -> Path:
        """Where the records of this board are."""
        return self.results / self.name

    def records(self) -> list[Record]:
        """Return the records that the board has, floors included."""
        return load(self.folder) if self.folder.is_dir() else []

    def standing(self) -> list[Record]:
        """Return the records of runs that need not be made again; rates are chosen from such trials alone."""
        return [record for record in self.records() if stands(record)]

    def states(self) -> list[State]:
        """Return the state of each run.

        "stale" has records of changed code alone, "missed" one of another budget, "failed" only such as ended so.
        """
        entered = {"open": "closed"}  # with a teacher from elsewhere
        made: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in self.records():
            made[entered.get(record["division"], record["division"]), record["config"]["text"]].append(record)
        return [_state(made.get((run.division, run.text), [])) for run in self.runs]

    def missing(self) -> list[Planned]:
        """Return the runs that are to be made, for the first time or again."""
        return [run for run, state in zip(self.runs, self.states(), strict=True) if state != "done"]

    def planned(self, suite: Suite, *, tuned: bool) -> "Board":
        """Return the board with the runs of a suite: in the division `tuned` the trials and what follows from them."""
        runs = [*suite.trials(), *suite.tuned(self.standing())] if tuned else list(suite.runs())
        return Board(self.name, runs, self.out, self.results)

    def selected(self, pattern: str) -> "Board":
        """Return the board with the runs whose label has a part that matches the pattern."""
        kept = [run for run in self.runs if fnmatch.fnmatch(run.label, f"*{pattern}*")]
        if not kept:
            labels = "\n  ".join(run.label for run in self.runs)
            raise ConfigError(f"No run of {self.name} is left by --only. It has:\n  {labels}")
        return Board(self.name, kept, self.out, self.results)

    def estimate(self) -> float | None:
        """Return the seconds of training that the missing runs will take; None where that of one is not known."""
        records = self.records()
        seconds = [run.seconds(records) for run in self.missing()]
        known = [each for each in seconds if each is not None]
        return math.fsum(known) if len(known) == len(seconds) else None

    def carry_out(self, deadline: float | None) -> list[Planned]:
        """Make the missing runs in order, each once, and return those that failed or missed their budget.

        Raises KeyboardInterrupt at `deadline` of the monotonic clock, or on a signal to the run, with its state saved.
        """
        failed = []
        missing = self.missing()
        for number, run in enumerate(missing, 1):
            if deadline is not None and time.monotonic() >= deadline:
                raise KeyboardInterrupt
            print(f"\n== {number} of {len(missing)}: {run.label}", flush=True)
            code = _wait(subprocess.Popen(run.command(self.out, self.folder), preexec_fn=_die_with_parent), deadline)
            if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
                raise KeyboardInterrupt
            if code and run in self.missing():
                failed.append(run)
        return failed


def _state(made: Sequence[Record]) -> State:
    """Return the state of a run with these records."""
    if not made:
        return "missing"
    if any(map(stands, made)):
        return "done"
    ours = {record["status"] for record in made if not changed(record)}
    if not ours:
        return "stale"
    return "failed" if ours == {"failed"} else "missed"


def _die_with_parent() -> None:
    """Have Linux stop this process, its state saved, when the suite is killed: nobody else would."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: "subprocess.Popen[bytes]", deadline: float | None) -> int:
    """Wait for a run; at the deadline or on Ctrl-C ask it to save its state and stop."""
    try:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return process.wait(left)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGTERM)
        process.wait()
        return INTERRUPTED
