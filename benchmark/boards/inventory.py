"""What can be run and what was run, read from gin files, records and folders of runs; nothing is built or imported."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from benchmark.config.parse import Source, Statement, label, locate, parse, read, shipped_folder, value_of
from benchmark.errors import ConfigError
from benchmark.report.cells import UNDONE, load, of_run
from benchmark.report.record import Record, pretrained
from benchmark.report.section import columns_of, ranking_score
from benchmark.storage.claim import Claim

RATE = re.compile(r"^experiment\.rate_factor = .*\n", re.MULTILINE)  # which trials that are made again may change


@dataclass(frozen=True)
class Method:
    """A method: its gin file, its name in tables, its views, and the first line of the file."""

    gin: str
    name: str
    views: str
    about: str


@dataclass(frozen=True)
class Data:
    """A data set: its gin file, name and source, and the size of its images in pixels."""

    gin: str
    name: str
    source: str
    size: int
    about: str


@dataclass(frozen=True)
class Protocol:
    """A complete protocol: data, encoder and budget."""

    gin: str
    data: str
    encoder: str
    budget: str


@dataclass(frozen=True)
class Evaluations:
    """A file of evaluations."""

    gin: str
    evaluations: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Board:
    """A board: its suite, the runs that this asks for in a division, and those that have a record, by division.

    A board of runs that were published one by one has no suite. `trials` are those by which rates were chosen, or of
    which a study consists. `failed` counts runs that have failures alone.
    """

    name: str
    gin: str | None
    runs: int | None
    closed: int
    tuned: int
    trials: int = 0
    failed: int | None = None

    @property
    def missing(self) -> tuple[str, str] | None:
        """How many of its runs are made, and the command that makes the rest; None where none is missing."""
        runs = max(self.closed, self.tuned)
        if self.gin is None or self.runs is None or not 0 < runs < self.runs:
            return None
        tune = " --tune" * (self.tuned > self.closed)
        command = f"python -m benchmark.suite --gin {self.gin}{tune}"
        return f"{runs} of the {self.runs} runs of this board are made.", command


@dataclass(frozen=True)
class Run:
    """A run: how it ended, "unfinished" if it has no record, and its top-1, a fraction, in the leading evaluation.

    The top-1 of a trial is on a hold-out of train. Where images have several labels it is the mean average precision.
    A run that is "running" has the node where it is made, the seconds since its last sign of life, and the log of its
    job on a cluster.
    """

    folder: str
    method: str
    data: str
    seed: int
    division: str | None
    status: str
    evaluation: str | None
    top1: float | None
    node: str | None = None
    silent: int | None = None
    log: str | None = None


@dataclass(frozen=True)
class Inventory:
    """All that was found, each kind in the order of its names."""

    methods: tuple[Method, ...]
    data: tuple[Data, ...]
    protocols: tuple[Protocol, ...]
    evaluations: tuple[Evaluations, ...]
    boards: tuple[Board, ...]
    runs: tuple[Run, ...]


def take(out: Path, results: Path, others: Sequence[str] = ()) -> Inventory:
    """Read the shipped gin files, the folder of runs `out` and the folder of boards; either folder may not exist.

    `others` are gin files of methods outside the tree, which stand after the shipped ones.
    Raises ConfigError for a gin file that cannot be parsed or of `others` is no method, BenchmarkError for a damaged
    record.
    """
    folders = sorted({path.parent for path in results.glob("*/*.json")})
    protocols = shipped("protocol/*.gin")
    return Inventory(
        methods=tuple(_methods(shipped("*.gin") | dict(_others(others)))),
        data=tuple(data_sets(protocols)),
        protocols=tuple(_protocols(protocols)),
        evaluations=tuple(_evaluations()),
        boards=tuple(boards([record for folder in folders for record in load(folder)])),
        runs=tuple(_runs(out)),
    )


def shipped(pattern: str) -> dict[Path, list[Statement]]:
    """Return the shipped files of a pattern, in their order, with their statements and those of their includes."""
    return {path: read(path) for path in sorted(shipped_folder().glob(pattern))}


def _methods(files: Mapping[Path, list[Statement]]) -> Iterator[Method]:
    for path, statements in files.items():
        views = _text(statements, "Pretraining.views")
        yield Method(label(path), _text(statements, "Pretraining.name"), views, _about(path))


def _others(files: Sequence[str]) -> Iterator[tuple[Path, list[Statement]]]:
    """Yield the gin files of methods outside the tree with their statements."""
    for file in files:
        path = locate(file, Path())
        statements = read(path)
        if value_of(statements, "Pretraining.name") is None:
            raise ConfigError(f"--gin {file} is no method: it binds no Pretraining.name.")
        yield path, statements


def data_sets(files: Mapping[Path, list[Statement]]) -> Iterator[Data]:
    """Yield the data sets among the files of protocols."""
    for path, statements in files.items():
        if value_of(statements, "experiment.data") is not None and value_of(statements, "experiment.encoder") is None:
            name, source = _text(statements, "Images.name"), _text(statements, "Images.source")
            yield Data(label(path), name, source, value_of(statements, "Images.size"), _about(path))


def _protocols(files: Mapping[Path, list[Statement]]) -> Iterator[Protocol]:
    for path, statements in files.items():
        if all(value_of(statements, f"experiment.{part}") is not None for part in ("data", "encoder")):
            kind, amount = _text(statements, "Budget.kind"), value_of(statements, "Budget.amount")
            data = _text(statements, "Images.name")
            yield Protocol(label(path), data, path.stem.removeprefix(f"{data}_"), f"{amount:g} {kind}")


def _evaluations() -> Iterator[Evaluations]:
    for pattern in ("protocol/shared.gin", "presets/*.gin"):
        for path, statements in shipped(pattern).items():
            names = tuple(str(name).removeprefix("@") for name in value_of(statements, "experiment.evaluations"))
            yield Evaluations(label(path), names, _about(path))


def boards(records: Sequence[Record]) -> Iterator[Board]:
    """Yield the boards that a shipped suite plans or that have records."""
    published: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["board"]:
            published[record["board"]].append(record)
    suites = {path.stem: (label(path), _planned(statements)) for path, statements in shipped("suites/*.gin").items()}
    for name in sorted(suites.keys() | published):
        runs = [run for run in published.get(name, ()) if pretrained(run) and run["status"] not in UNDONE]
        closed = {run["config"]["text"] for run in runs if run["division"] in ("closed", "open")}
        tuned = {RATE.sub("", run["config"]["text"]) for run in runs if run["division"] == "tuned"}
        trials = {run["config"]["text"] for run in runs if run["division"] == "trial"}
        gin, planned = suites.get(name, (None, None))
        failures = [run for run in published.get(name, ()) if run["status"] == "failed"]
        failed = {run["config"]["text"] for run in failures} - {run["config"]["text"] for run in runs}
        yield Board(name, gin, planned, len(closed), len(tuned), len(trials), len(failed) or None)


def _planned(statements: Sequence[Statement]) -> int:
    """Return the number of runs of a suite, which are a grid."""
    axes = [value_of(statements, f"suite.{axis}") for axis in ("methods", "protocols", "seeds")]
    axes += (value_of(statements, "suite.sweep") or {}).values()
    return prod(map(len, axes))


def _runs(out: Path) -> Iterator[Run]:
    for config in sorted(out.glob("*/config.gin")):
        folder, now = str(config.parent), time.time()
        records = of_run(config.parent)
        if not records:
            statements = list(parse(config.read_text(encoding="utf-8"), Source(str(config), config)))
            name, data = _text(statements, "Pretraining.name"), _text(statements, "Images.name")
            begun = Run(folder, name, data, value_of(statements, "experiment.seed"), None, "unfinished", None, None)
            holder = Claim(config.parent).holder()
            if holder and holder.lives(now):
                silent = max(0, round(now - holder.seen))
                begun = replace(begun, status="running", node=holder.host, silent=silent, log=holder.log)
            yield begun
            continue
        run = records[-1]
        name, data = run["method"]["name"], run["dataset"]["name"]
        column = next(iter(columns_of([run])), None)
        heading, top1 = (column.heading, ranking_score(run["metrics"][column.evaluation])) if column else (None, None)
        yield Run(folder, name, data, run["seed"], run["division"], run["status"], heading, top1)


def _text(statements: Sequence[Statement], name: str) -> str:
    return str(value_of(statements, name) or "").removeprefix("@")


def _about(path: Path) -> str:
    """Return the first line of a file where it is a comment."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line[2:].rstrip(":") if line.startswith("# ") else ""
