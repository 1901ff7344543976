"""Starts the runs of a board that are missing, one after another in each slot.

Each run is a process, by the command that a user would type, so that its failure stops no other. The records of the
board alone decide what is done: those of unchanged code that kept their budget. Several commands may work on one board
at a time, for instance one for each device: the first that comes to a run makes it.
"""

import fnmatch
import hashlib
import math
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmark.boards.jobs import Job, Jobs, Slot
from benchmark.boards.plan import Suite
from benchmark.boards.planned import Planned
from benchmark.errors import ConfigError
from benchmark.experiment.run import is_done
from benchmark.report.cells import load
from benchmark.report.code import changed
from benchmark.report.record import Record
from benchmark.runtime import progress
from benchmark.storage.claim import Claim, Held
from benchmark.storage.files import claim

State = Literal["done", "missing", "stale", "missed", "failed"]


@dataclass
class Launcher:
    """The runs of a suite; `out` is the folder of runs, `results` that of boards.

    `known` are the ids of the records that the board had when the command was given. One run is made in each of the
    `slots` at a time, and shown in the `tracker`.
    """

    name: str
    runs: Sequence[Planned]
    out: Path
    results: Path
    known: frozenset[str] = frozenset()
    slots: tuple[Slot, ...] = ({},)
    tracker: str | None = None

    @property
    def folder(self) -> Path:
        return self.results / self.name

    def records(self) -> list[Record]:
        """Return the records of the board, with those of floors."""
        return load(self.folder) if self.folder.is_dir() else []

    def states(self) -> list[State]:
        """Return the state of each run.

        All records of a "stale" run are by code that has changed, all of a "failed" one are of failures. A "missed" run
        took more or less than its budget.
        """
        records = self.records()
        return [_state(run, [record for record in records if run.owns(record)]) for run in self.runs]

    def missing(self) -> list[Planned]:
        """Return the runs that are not done."""
        return [run for run, state in zip(self.runs, self.states(), strict=True) if state != "done"]

    def planned(self, suite: Suite, *, tuned: bool) -> "Launcher":
        """Return the launcher with the runs of a suite, and the evaluations of those that are done.

        In the division `tuned` its runs are the trials, and the runs whose learning rates the trials have chosen.
        """
        done = [record for record in self.records() if is_done(record)]
        runs = [*suite.trials(done), *suite.tuned(done)] if tuned else list(suite.runs())
        return replace(self, runs=[*runs, *suite.evaluations(runs, done)])

    def selected(self, pattern: str) -> "Launcher":
        """Return the launcher with those runs whose label has a part that matches the pattern."""
        matching = [run for run in self.runs if fnmatch.fnmatch(run.label, f"*{pattern}*")]
        if not matching:
            labels = "\n  ".join(run.label for run in self.runs)
            raise ConfigError(f"No run of {self.name} is left by --only. It has:\n  {labels}")
        return replace(self, runs=matching)

    def estimate(self) -> float | None:
        """Return the seconds of training of all missing runs; None where those of one are not known."""
        records, missing = self.records(), self.missing()
        seconds = [each for run in missing if (each := run.seconds(records)) is not None]
        return math.fsum(seconds) if len(seconds) == len(missing) else None

    def carry_out(self, plan: "Callable[[], Launcher]", deadline: float | None) -> list[Planned]:
        """Make the missing runs in order, each once, with one in each slot; return those that failed or missed budgets.

        Once all have begun, and whenever one has ended from then on, `plan` says which runs there are, as evaluations
        follow from runs. It is asked again as soon as the last trials end: they choose runs of the division `tuned`,
        and no method is to come last with all of its seeds. What other processes make is waited for. A run that was
        killed, as where memory is short, is tried once more.
        Raises KeyboardInterrupt at the `deadline`, a time of the monotonic clock, or where a run was stopped by a
        signal; all runs at work have then saved their state.
        """
        failed: list[Planned] = []
        settled: list[Planned] = []
        killed: list[Planned] = []
        selection = self
        with Jobs(self.slots) as jobs:
            while selection.runs or jobs.active:
                ended: list[Job] = []
                elsewhere: list[Planned] = []
                queue = selection.missing()
                count = len(queue)
                while queue:
                    if queue[0].division != "trial" and any(job.run.division == "trial" for job in ended):
                        break
                    if not jobs.free:
                        ended += jobs.wait(deadline)
                        continue
                    if deadline is not None and time.monotonic() >= deadline:
                        raise KeyboardInterrupt
                    run = _first(queue, jobs.active)
                    queue.remove(run)
                    with ExitStack() as stack:
                        try:
                            claimed = stack.enter_context(self._claim(run).acquire(0))
                        except Held:
                            elsewhere.append(run)
                            continue
                        if self._is_to_make(run):
                            progress.announce(f"\n== {count - len(queue)} of {count}: {run.label}")
                            jobs.start(run, run.command(self.out, self.folder, self.tracker), claimed)
                            stack.pop_all()  # the job gives the claim up
                        else:
                            failed += [run] * (not self._is_done(run))
                if jobs.active and not (ended and jobs.free):
                    ended += jobs.wait(deadline)
                again = [job.run for job in ended if job.code == -signal.SIGKILL and job.run not in killed]
                killed += again
                missed = [job.run for job in ended if job.code != 0 and job.run not in again]
                failed += [run for run in missed if not self._is_done(run)]
                settled += [run for run in selection.runs if run not in (*elsewhere, *queue)]
                settled = [run for run in settled if run not in again]
                selection = plan()
                selection.runs = [run for run in selection.runs if run not in settled]
                if not jobs.active and selection.runs and all(run in elsewhere for run in selection.runs):
                    selection.wait_for(selection.runs[0], deadline)
        return failed

    def wait_for(self, run: Planned, deadline: float | None) -> None:
        """Wait for the process that makes a run. Raises KeyboardInterrupt at the `deadline`."""
        message = f"waiting for another process, which makes {run.label}"
        print(message, flush=True)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            with progress.shown(), progress.doing(message):
                self._claim(run).acquire(left).release()
        except Held:
            raise KeyboardInterrupt from None

    def _is_to_make(self, run: Planned) -> bool:
        """Return whether a run is not done, and no other process has tried since the command was given."""
        records = self._records(run)
        return _state(run, records) != "done" and all(record["id"] in self.known for record in records)

    def _is_done(self, run: Planned) -> bool:
        return _state(run, self._records(run)) == "done"

    def _records(self, run: Planned) -> list[Record]:
        return [record for record in self.records() if run.owns(record)]

    def _claim(self, run: Planned) -> Claim:
        return claim(self.out / hashlib.sha256(f"{run.label}\n{run.identity}".encode()).hexdigest()[:16])


def _state(run: Planned, records: Sequence[Record]) -> State:
    """Return the state of a run with these records."""
    if not records:
        return "missing"
    same_files = [record for record in records if run.has_files_of(record)]
    if any(map(is_done, same_files)):
        return "done"
    statuses = {record["status"] for record in same_files if not changed(record)}
    if not statuses:
        return "stale"
    return "failed" if statuses == {"failed"} else "missed"


def _first(queue: Sequence[Planned], jobs: Sequence[Job]) -> Planned:
    """Return the first run that would not wait for a teacher which a job makes, or else the first of all."""
    teachers = {job.run.teacher for job in jobs} - {None}
    return next((run for run in queue if run.teacher not in teachers), queue[0])
