"""What a suite plans: runs and evaluations, known by their configuration, with the commands that make them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from benchmark.config.load import Config
from benchmark.experiment.stage import TEACHERS
from benchmark.report.cells import files_outside
from benchmark.report.identity import SEED, canonical, digest, without_paths
from benchmark.report.record import Record

Division = Literal["closed", "trial", "tuned"]
ENDLESS = ("Budget.kind = 'samples'", "Budget.amount = 1e9", "experiment.is_trial = True")  # days, and no floors


class Entry(NamedTuple):
    """What enters a board: a protocol and a method, by stems or paths, and a point of the sweep, as bindings."""

    protocol: str
    method: str
    point: tuple[str, ...]


@cache
def identity(text: str) -> str:
    """Return what identifies the run of a canonical configuration: all but defaults and paths, and its seed.

    Absolute paths count by their last part, as they are published.
    """
    config = canonical(without_paths(text))
    return digest(config.identity, config.lines[SEED])


@dataclass(frozen=True)
class Planned:
    """A run of a suite, which may have records already."""

    label: str
    division: Division
    entry: Entry
    files: tuple[str, ...]
    settings: tuple[str, ...]
    seed: int
    config: Config
    files_outside: str | None
    allow_imports: bool

    @property
    def identity(self) -> str:
        """Identifies its records: by configuration and seed."""
        return identity(self.config.text)

    def owns(self, record: Record) -> bool:
        """Return whether a record is of this run."""
        division = "closed" if record["division"] == "open" else record["division"]  # with a teacher from elsewhere
        return (division, identity(record["config"]["text"])) == (self.division, self.identity)

    def has_files_of(self, record: Record) -> bool:
        """Return whether those files of its method that lie outside this project are as when the record was made."""
        return files_outside(record) == self.files_outside

    @property
    def is_timed(self) -> bool:
        """Whether its budget is in seconds."""
        budget = self.config.tree["params"]["budget"]
        return budget is not None and budget["params"]["kind"] == "device_seconds"

    @property
    def outside(self) -> str | None:
        """What of its start or its teacher comes from elsewhere, by parameter; None where all is trained here."""
        parameters = self.config.tree["params"]
        names = (f"experiment.{name}" for name in ("init", "teacher_weights") if parameters[name] is not None)
        return next(names, None)

    @property
    def teacher(self) -> str | None:
        """Identifies the teacher that is trained for it, which runs share; None where there is none."""
        if self.config.tree["params"]["teacher"] is None:
            return None
        return digest(self.config.canonical.part(TEACHERS), self.seed)

    def seconds(self, records: Sequence[Record]) -> float | None:
        """Return the seconds of training: a budget in seconds, or another budget times the pace of the records.

        The pace is their median of seconds per image or FLOP: of the records of the same method, or else of all. None
        where no record has one, or where nothing is trained.
        """
        experiment = self.config.tree["params"]
        budget, stage = experiment["budget"], experiment["pretraining"]
        if budget is None or stage is None:
            return None
        amount: float = budget["params"]["amount"] * experiment["budget_share"]
        if self.is_timed:
            return amount
        unit: Literal["flops", "images"] = "flops" if budget["params"]["kind"] == "flops" else "images"
        trained = [record for record in records if record["cost"][unit]]
        alike = [record for record in trained if record["method"]["name"] == stage["params"]["name"]]
        paces = [record["cost"]["train_seconds"] / record["cost"][unit] for record in alike or trained]
        return median(paces) * amount if paces else None

    def command(self, out: Path, publish: Path, tracker: str | None = None) -> list[str]:
        """Return the command that makes the run, or resumes it where it was interrupted."""
        parts = [sys.executable, "-m", "benchmark.run"]
        for option, values in (("--gin", self.files), ("--set", self.settings), ("--vary", self.entry.point)):
            parts += [part for value in values for part in (option, value)]
        if self.division == "tuned":
            parts += ["--trials", str(publish)]
        parts += ["--track", tracker] if tracker else []
        parts += ["--allow-imports"] * self.allow_imports
        return [*parts, "--seed", str(self.seed), "--out", str(out), "--publish", str(publish)]

    def endless(self, folder: Path) -> list[str]:
        """Return the command of a training like this one that only a signal ends; it writes to a folder."""
        entry = self.entry._replace(point=(*self.entry.point, *ENDLESS))
        return replace(self, division="closed", entry=entry).command(folder, folder)


@dataclass(frozen=True)
class PlannedEvaluation(Planned):
    """An evaluation of the encoder of a finished run."""

    of: Record

    @property
    def is_timed(self) -> bool:
        """Whether its budget is in seconds: it has none."""
        return False

    @property
    def teacher(self) -> str | None:
        """Identifies its teacher: it has none."""
        return None

    def owns(self, record: Record) -> bool:
        """Return whether a record is of this evaluation: of the same weights, by the same configuration."""
        is_of_run = record["division"] == "open" and record["checkpoint"] == self.of["checkpoint"]
        return is_of_run and identity(record["config"]["text"]) == self.identity

    def seconds(self, records: Sequence[Record]) -> float | None:
        """Return the seconds of training: none."""
        return 0.0

    def command(self, out: Path, publish: Path, tracker: str | None = None) -> list[str]:
        """Return the command that evaluates the encoder in the folder of its run; nothing of it is tracked."""
        pattern = f"*-s{self.seed}-{self.of['config']['key'][:8]}"
        folder = next(iter(sorted(out.glob(pattern))), out / pattern)
        parts = [sys.executable, "-m", "benchmark.evaluate", "--run", str(folder)]
        parts += [part for file in self.files for part in ("--gin", file)]
        parts += [part for setting in self.settings for part in ("--set", setting)]
        parts += ["--allow-imports"] * self.allow_imports
        return [*parts, "--out", str(out), "--publish", str(publish)]
