"""A board: which methods, protocols, seeds and variations, as a plan of runs that is carried out one after another.

Each run is a process of its own, by the command that a user would type, so that one that fails takes no other along.
What is finished is known by the records of the board alone.
"""

import ctypes
import fnmatch
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import gin

import benchmark.experiment  # noqa: F401  registers what the configurations of the runs name
from benchmark import config as configuration
from benchmark.errors import ConfigError
from benchmark.report.record import Record
from benchmark.report.store import load

INTERRUPTED = 75
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
Value = int | float | str | bool | None | tuple[int | float, ...]


@gin.register("suite")
@dataclass(frozen=True, kw_only=True)
class Suite:
    """What makes a board: every method under every protocol, for every seed and every point of the sweep.

    `methods` and `protocols` are the stems of files in `gin/` and `gin/protocol/`. `settings` hold for all runs, as
    `--set` does. `sweep` maps a binding to the values that it takes; several bindings make a grid.
    """

    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    sweep: dict[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("methods", "protocols", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"suite.{name} = {values!r}: name at least one, and each once.")
        if empty := [binding for binding, values in self.sweep.items() if not values]:
            raise ConfigError(f"suite.sweep gives {empty[0]} no value; give at least one.")

    def runs(self) -> Iterator["Planned"]:
        """Yield the runs: all of the first seed, then of the second, so that a board cut short compares like with like.

        Raises ConfigError where a run's configuration is refused, before any of them is started.
        """
        points = [
            tuple(f"{binding} = {value!r}" for binding, value in zip(self.sweep, values, strict=True))
            for values in product(*self.sweep.values())
        ]
        for seed, protocol, method, point in product(self.seeds, self.protocols, self.methods, points):
            files = (f"gin/{method}.gin", f"gin/protocol/{protocol}.gin")
            text = configuration.load(files, (*self.settings, *point, f"experiment.seed = {seed}")).text
            label = "/".join([protocol, method, *point, f"seed {seed}"])
            yield Planned(label, files, self.settings, point, seed, text)


@dataclass(frozen=True)
class Planned:
    """A run to come; `text` is the canonical configuration, by which its record is recognised."""

    label: str
    files: tuple[str, ...]
    settings: tuple[str, ...]
    varied: tuple[str, ...]
    seed: int
    text: str

    def command(self, out: Path, publish: Path) -> list[str]:
        """Return the command that makes this run, or goes on with it where it was interrupted."""
        parts = [sys.executable, "-m", "benchmark.run"]
        for option, values in (("--gin", self.files), ("--set", self.settings), ("--vary", self.varied)):
            parts += [part for value in values for part in (option, value)]
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

    def missing(self) -> list[Planned]:
        """Return the runs without a record."""
        known = {record["config"]["text"] for record in self.records() if record["division"] != "floor"}
        return [run for run in self.runs if run.text not in known]

    def selected(self, pattern: str | None, seeds: Sequence[int]) -> "Board":
        """Return the board with the runs whose label matches the pattern and whose seed is named, if any is."""
        kept = [
            run
            for run in self.runs
            if (pattern is None or fnmatch.fnmatch(run.label, f"*{pattern}*")) and (not seeds or run.seed in seeds)
        ]
        if not kept:
            labels = "\n  ".join(run.label for run in self.runs)
            raise ConfigError(f"No run of {self.name} is left by --only and --seeds. It has:\n  {labels}")
        return Board(self.name, kept, self.out, self.results)

    def estimate(self) -> float | None:
        """Return the seconds of training that the missing runs will take, at the median of those measured here."""
        seconds = [record["cost"]["train_seconds"] for record in self.records() if record["division"] != "floor"]
        return median(seconds) * len(self.missing()) if seconds else None

    def carry_out(self, time_limit: float | None) -> list[str]:
        """Make the missing runs in order and return the labels of those that failed.

        Raises KeyboardInterrupt after `time_limit` seconds, or on a signal to the run, with its state saved.
        """
        deadline = None if time_limit is None else time.monotonic() + time_limit
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
                failed.append(run.label)
        return failed


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
