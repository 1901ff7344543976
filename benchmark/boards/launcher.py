"""A board: the runs of a plan, carried out one after another, and what is known of them.

Each run is a process of its own, by the command that a user would type, so that one that fails takes no other along.
What is finished is known by the records of the board alone: those of the code as it is, and on their own budget.
Several commands may carry out one board at a time, one for each device: a run is made by the first that comes to it.
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

from benchmark.boards.plan import Planned, Suite
from benchmark.errors import ConfigError, Interrupted, Stopped
from benchmark.experiment.run import stands
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
    """The runs of a suite, and the folders of their state and of their records.

    `known` are the ids of the records that the board had when the command was given.
    """

    name: str
    runs: Sequence[Planned]
    out: Path
    results: Path
    known: frozenset[str] = frozenset()

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
        records = self.records()
        return [_state(run, [record for record in records if run.owns(record)]) for run in self.runs]

    def missing(self) -> list[Planned]:
        """Return the runs that are to be made, for the first time or again."""
        return [run for run, state in zip(self.runs, self.states(), strict=True) if state != "done"]

    def planned(self, suite: Suite, *, tuned: bool) -> "Launcher":
        """Return the board with the runs of a suite, and with what follows from those that are done.

        In the division `tuned` these are the trials and what follows from them.
        """
        standing = self.standing()
        runs = [*suite.trials(), *suite.tuned(standing)] if tuned else list(suite.runs())
        return replace(self, runs=[*runs, *suite.evaluations(runs, standing)])

    def selected(self, pattern: str) -> "Launcher":
        """Return the board with the runs whose label has a part that matches the pattern."""
        kept = [run for run in self.runs if fnmatch.fnmatch(run.label, f"*{pattern}*")]
        if not kept:
            labels = "\n  ".join(run.label for run in self.runs)
            raise ConfigError(f"No run of {self.name} is left by --only. It has:\n  {labels}")
        return replace(self, runs=kept)

    def estimate(self) -> float | None:
        """Return the seconds of training that the missing runs will take; None where that of one is not known."""
        records = self.records()
        seconds = [run.seconds(records) for run in self.missing()]
        known = [each for each in seconds if each is not None]
        return math.fsum(known) if len(known) == len(seconds) else None

    def carry_out(self, deadline: float | None) -> tuple[list[Planned], list[Planned]]:
        """Make the missing runs in order, each once.

        Return those that failed or missed their budget, and those that other processes are making.
        Raises KeyboardInterrupt at `deadline` of the monotonic clock, or on a signal to the run, with its state saved.
        """
        failed, elsewhere = [], []
        missing = self.missing()
        for number, run in enumerate(missing, 1):
            if deadline is not None and time.monotonic() >= deadline:
                raise KeyboardInterrupt
            try:
                claim = self._lock(run).acquire(blocking=False)
            except Timeout:
                elsewhere.append(run)
                continue
            with claim:
                if not self._make(run, f"{number} of {len(missing)}", deadline):
                    failed.append(run)
        return failed, elsewhere

    def wait_for(self, run: Planned, deadline: float | None) -> None:
        """Wait until the process that makes a run is done with it. Raises KeyboardInterrupt at `deadline`."""
        wait = f"waiting for another process, which makes {run.label}"
        print(wait, flush=True)
        try:
            with progress.shown(), progress.doing(wait):
                self._lock(run).acquire(_left(deadline)).lock.release()
        except Timeout:
            raise KeyboardInterrupt from None

    def _make(self, run: Planned, place: str, deadline: float | None) -> bool:
        """Make a run that no other process is making, unless one has tried meanwhile; return whether it is done."""
        made = [record for record in self.records() if run.owns(record)]
        if _state(run, made) == "done":
            return True
        if any(record["id"] not in self.known for record in made):
            return False
        print(f"\n== {place}: {run.label}", flush=True)
        command = run.command(self.out, self.folder)
        known = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # an evaluation has no file beside its modules
        code = _wait(subprocess.Popen(command, env=known, preexec_fn=_die_with_parent), deadline)
        if code in STOPPED:
            raise KeyboardInterrupt
        return code == 0 or run not in self.missing()

    def _lock(self, run: Planned) -> FileLock:
        """Return the lock that a process holds while it makes a run."""
        return lock(self.out / hashlib.sha256(f"{run.label}\n{run.identity}".encode()).hexdigest()[:16])


def _state(run: Planned, made: Sequence[Record]) -> State:
    """Return the state of a run with these records."""
    if not made:
        return "missing"
    current = [record for record in made if run.is_by(record)]
    if any(map(stands, current)):
        return "done"
    ours = {record["status"] for record in current if not changed(record)}
    if not ours:
        return "stale"
    return "failed" if ours == {"failed"} else "missed"


def _die_with_parent() -> None:
    """Have Linux stop this process, its state saved, when the suite is killed: nobody else would."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, None where there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _wait(process: "subprocess.Popen[bytes]", deadline: float | None) -> int:
    """Wait for a run; at the deadline or on Ctrl-C ask it to save its state and stop."""
    try:
        return process.wait(_left(deadline))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGTERM)
        process.wait()
        return Interrupted.exit_code
