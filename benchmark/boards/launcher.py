"""Starts the runs of a board that are missing, one after another.

Each run is a process, by the command that a user would type, so that its failure stops no other. The records of the
board alone decide what is done: those of unchanged code that kept their budget. Several commands may work on one board
at a time, for instance one for each device: the first that comes to a run makes it.
"""

import ctypes
import fnmatch
import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from benchmark.boards.plan import Suite
from benchmark.boards.planned import Planned
from benchmark.errors import ConfigError, Interrupted, Stopped
from benchmark.experiment.run import is_done
from benchmark.report.cells import load
from benchmark.report.code import changed
from benchmark.report.record import Record
from benchmark.runtime import progress
from benchmark.storage.files import lock

STOPPED = (Interrupted.exit_code, Stopped.exit_code, -signal.SIGINT, -signal.SIGTERM)
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
State = Literal["done", "missing", "stale", "missed", "failed"]


@dataclass
class Launcher:
    """The runs of a suite; `out` is the folder of runs, `results` that of boards.

    `known` are the ids of the records that the board had when the command was given.
    """

    name: str
    runs: Sequence[Planned]
    out: Path
    results: Path
    known: frozenset[str] = frozenset()

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
        runs = [*suite.trials(), *suite.tuned(done)] if tuned else list(suite.runs())
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

    def carry_out(self, deadline: float | None) -> tuple[list[Planned], list[Planned]]:
        """Make the missing runs in order, each once.

        Return those that failed or missed their budget, and those that other processes are making.
        Raises KeyboardInterrupt at the `deadline`, a time of the monotonic clock, or where a run was stopped by a
        signal; the run has then saved its state.
        """
        failed, elsewhere = [], []
        missing = self.missing()
        for number, run in enumerate(missing, 1):
            if deadline is not None and time.monotonic() >= deadline:
                raise KeyboardInterrupt
            try:
                acquired = self._lock(run).acquire(blocking=False)
            except Timeout:
                elsewhere.append(run)
                continue
            with acquired:
                if not self._make(run, f"{number} of {len(missing)}", deadline):
                    failed.append(run)
        return failed, elsewhere

    def wait_for(self, run: Planned, deadline: float | None) -> None:
        """Wait for the process that makes a run. Raises KeyboardInterrupt at the `deadline`."""
        message = f"waiting for another process, which makes {run.label}"
        print(message, flush=True)
        try:
            with progress.shown(), progress.doing(message):
                self._lock(run).acquire(_left(deadline)).lock.release()
        except Timeout:
            raise KeyboardInterrupt from None

    def _make(self, run: Planned, place: str, deadline: float | None) -> bool:
        """Make a run, unless another process has tried since the command was given; return whether it is done."""
        records = [record for record in self.records() if run.owns(record)]
        if _state(run, records) == "done":
            return True
        if any(record["id"] not in self.known for record in records):
            return False
        print(f"\n== {place}: {run.label}", flush=True)
        command = run.command(self.out, self.folder)
        # an evaluation has no gin file beside the modules that its configuration imports
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        code = _wait(subprocess.Popen(command, env=variables, preexec_fn=_die_with_parent), deadline)
        if code in STOPPED:
            raise KeyboardInterrupt
        return code == 0 or run not in self.missing()

    def _lock(self, run: Planned) -> FileLock:
        return lock(self.out / hashlib.sha256(f"{run.label}\n{run.identity}".encode()).hexdigest()[:16])


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


def _die_with_parent() -> None:
    """Have Linux ask this process to stop when the suite is killed; it then saves its state."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline; None where there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _wait(process: "subprocess.Popen[bytes]", deadline: float | None) -> int:
    """Wait for a run and return its exit code; at the deadline or on Ctrl-C ask it to save its state and stop."""
    try:
        return process.wait(_left(deadline))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGTERM)
        process.wait()
        return Interrupted.exit_code
