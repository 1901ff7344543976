"""The plan of a board: which methods, protocols, seeds and variations make which runs, by which commands.

In the division `tuned` each method's rate is chosen before, from trials that never see the test set.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, product
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import gin
import torch

from benchmark.config import load as configuration
from benchmark.config import registry
from benchmark.config.load import Config
from benchmark.config.parse import Import, locate, read, shipped_folder, value_of
from benchmark.errors import ConfigError
from benchmark.experiment.setup import Experiment
from benchmark.experiment.stage import Stage
from benchmark.experiment.trained import TrainedEncoder, configure
from benchmark.report.cells import by_age, files_outside
from benchmark.report.code import HERE, classes
from benchmark.report.identity import SEED, canonical, digest
from benchmark.report.record import Record
from benchmark.report.tuning import FACTORS, SHARE, contests, factor

TRIAL_SEED = 1000  # of all trials; the runs that follow have fresh seeds
Value = int | float | str | bool | None | tuple[int | float, ...]
TRIED = ("experiment.is_trial", "experiment.budget_share", "experiment.evaluations", "experiment.rate_factor")
Division = Literal["closed", "trial", "tuned"]


class Entry(NamedTuple):
    """What enters a board: a method under a protocol, at a point of the sweep; stems or paths, and bindings."""

    protocol: str
    method: str
    point: tuple[str, ...]


@gin.register("suite")
@dataclass(frozen=True, kw_only=True)
class Suite:
    """What makes a board: every method under every protocol, for every seed and every point of the sweep.

    `methods` and `protocols` are the stems of files in `gin/` and `gin/protocol/`, or gin files elsewhere, relative to
    the suite's own. `settings` hold for all runs, as `--set` does. `sweep` maps a binding to the values that it takes;
    several bindings make a grid. In the division `tuned`, `chosen_by` is the evaluation on whose score, on a hold-out
    of train, rates are chosen.

    The encoders of `examined_seeds` are scored once more when their runs are done, by the preset `examined_by` (the
    stem of a file in `gin/presets/`, or a gin file): what costs too much for every seed.

    With `allow_imports` the gin files may import modules outside this project.
    """

    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    sweep: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    chosen_by: str = "@Linear"
    examined_by: str | None = None
    examined_seeds: tuple[int, ...] = ()
    allow_imports: bool = field(default=False, kw_only=False)  # positional, so that no gin file can bind it

    def __post_init__(self) -> None:
        for name in ("methods", "protocols", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"suite.{name} = {values!r}: name at least one, and each once.")
        if TRIAL_SEED in self.seeds:
            raise ConfigError(
                f"suite.seeds = {self.seeds!r}: {TRIAL_SEED} is the seed of trials; runs have fresh ones."
            )
        if foreign := [seed for seed in self.examined_seeds if seed not in self.seeds]:
            raise ConfigError(f"suite.examined_seeds names {foreign[0]}, which is not one of suite.seeds.")
        if bool(self.examined_seeds) != bool(self.examined_by):
            raise ConfigError("suite.examined_by and suite.examined_seeds go together: bind both or neither.")
        if empty := [binding for binding, values in self.sweep.items() if not values]:
            raise ConfigError(f"suite.sweep gives {empty[0]} no value; give at least one.")

    def located(self, folder: Path, *, allow_imports: bool) -> "Suite":
        """Return the suite with the gin files that it names found, from its own folder.

        Raises ConfigError for a file that is missing, for one that imports what it may not, and where a method or a
        class of it has the name of another: tables and gin files know them by their names.
        """
        found = replace(
            self,
            methods=tuple(_located(name, folder, "") for name in self.methods),
            protocols=tuple(_located(name, folder, "protocol") for name in self.protocols),
            examined_by=self.examined_by and _located(self.examined_by, folder, "presets"),
            allow_imports=allow_imports,
        )
        for labels in (map(_method, found.methods), map(_stem, found.protocols)):
            if twice := [label for label, count in Counter(labels).items() if count > 1]:
                raise ConfigError(
                    f"The suite has two files of the name {twice[0]}, which labels could not tell apart: rename one."
                )
        outside = [read(Path(name)) for name in (*found.methods, *found.protocols) if _is_outside(name)]
        for line in configuration.execute_imports("experiment", chain(*outside), allow_imports):
            _require_own_classes(line)
        return found

    @property
    def preset(self) -> str:
        """The file by which encoders are examined."""
        return _file(str(self.examined_by), "presets")

    def of_seeds(self, seeds: Sequence[int]) -> "Suite":
        """Return the suite with these of its seeds alone. Raises ConfigError for a seed that it does not have."""
        if foreign := [seed for seed in seeds if seed not in self.seeds]:
            raise ConfigError(f"--seeds {foreign[0]}: the suite has {', '.join(map(str, self.seeds))}.")
        examined = tuple(seed for seed in self.examined_seeds if seed in seeds)
        return replace(
            self,
            seeds=tuple(seed for seed in self.seeds if seed in seeds),
            examined_by=self.examined_by if examined else None,
            examined_seeds=examined,
        )

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
        tried = {trial.identity: trial for trial in self.trials()}
        made: dict[Entry, list[Record]] = defaultdict(list)
        for record in records:
            trial = tried.get(identity(record["config"]["text"]))
            if trial and trial.owns(record) and trial.is_by(record):
                made[trial.entry].append(record)
        chosen = {
            entry: factor(contest.winner)
            for entry, trials in made.items()
            for contest in contests(trials).values()
            if contest.is_complete
        }
        for seed, entry in product(self.seeds, self._entries()):
            if entry in chosen:
                yield self._planned("tuned", entry, seed, f"experiment.rate_factor = {chosen[entry]!r}")

    def evaluations(self, runs: Sequence["Planned"], records: Sequence[Record]) -> Iterator["PlannedEvaluation"]:
        """Yield what is to be scored of those of the runs that the records have.

        Raises ConfigError where a run has other data or another encoder than the files by which it would be examined.
        """
        for run in runs:
            made = [record for record in records if run.owns(record) and run.is_by(record)]
            if made and run.seed in self.examined_seeds and run.division != "trial":
                yield self._evaluation(run, by_age(made)[-1])

    def _evaluation(self, run: "Planned", record: Record) -> "PlannedEvaluation":
        files = (_file(run.entry.protocol, "protocol"), self.preset)
        trained = TrainedEncoder(run=record)
        text = configure(trained, files, (), allow_imports=self.allow_imports).text
        bound = {line.partition(" = ")[0] for line in text.splitlines()} - {"experiment.evaluations"}
        own = (*self.settings, *run.entry.point)
        settings = tuple(setting for setting in own if setting.partition("=")[0].strip() in bound)
        config = configure(trained, files, settings, allow_imports=self.allow_imports)
        for part in ("data", "encoder"):
            root = [f"experiment.{part}"]
            if config.canonical.part(root) != run.config.canonical.part(root):
                raise ConfigError(
                    f"suite.examined_by: {run.label} has another {part} than {files[0]}. Bind what differs there, "
                    f"not by a macro in suite.settings or suite.sweep."
                )
        label = f"{run.label}/{_stem(str(self.examined_by))}"
        return PlannedEvaluation(
            label, run.division, run.entry, files, settings, run.seed, config, run.made_by, self.allow_imports, record
        )

    def _entries(self) -> list[Entry]:
        points = [
            tuple(f"{binding} = {value!r}" for binding, value in zip(self.sweep, values, strict=True))
            for values in product(*self.sweep.values())
        ]
        return [Entry(*found) for found in product(self.protocols, self.methods, points)]

    def _planned(self, division: Division, entry: Entry, seed: int, *settings: str) -> "Planned":
        files = (_file(entry.method), _file(entry.protocol, "protocol"))
        settings = (*self.settings, *settings)
        last = settings[-1].partition(".")[2] if division == "trial" else f"seed {seed}"
        names = _stem(entry.protocol), _method(entry.method)
        label = "/".join([*names, *entry.point, *([division] * (division != "closed")), last])
        try:
            made_by = _build(files, (*self.settings, *entry.point), self.allow_imports)
            own = (*settings, *entry.point, f"experiment.seed = {seed}")
            config = configuration.load(files, own, allow_imports=self.allow_imports)
        except ConfigError as error:
            raise ConfigError(f"The suite plans {label}, which is refused:\n{error}") from None
        return Planned(label, division, entry, files, settings, seed, config, made_by, self.allow_imports)


def _is_outside(name: str) -> bool:
    return name.endswith(".gin")


def _located(name: str, folder: Path, shipped: str) -> str:
    """Return the stem of a shipped file, or the absolute path of another."""
    if not _is_outside(name):
        return name
    path, home = locate(name, folder), shipped_folder().resolve() / shipped
    return path.relative_to(home).with_suffix("").as_posix() if path.is_relative_to(home) else str(path)


def _file(name: str, shipped: str = "") -> str:
    return name if _is_outside(name) else (Path("gin") / shipped / f"{name}.gin").as_posix()


def _stem(name: str) -> str:
    return Path(name).stem if _is_outside(name) else name


@cache
def _method(name: str) -> str:
    """Return what labels call a method: the stem of a shipped file, or the name that another file gives.

    Raises ConfigError for a file that is no method, and for the name of a shipped one.
    """
    if not _is_outside(name):
        return name
    own = value_of(read(Path(name)), "Pretraining.name")
    if own is None:
        raise ConfigError(f"suite.methods names {name}, which is no method: it binds no Pretraining.name.")
    for path in shipped_folder().resolve().glob("*.gin"):
        if value_of(read(path), "Pretraining.name") == own:
            raise ConfigError(
                f"suite.methods names {name}, whose Pretraining.name = {own!r} is that of gin/{path.name}. Tables know "
                f"methods by their names: give it another."
            )
    return str(own)


def _require_own_classes(line: Import) -> None:
    """Raise ConfigError where a module outside this project registers a name that something else has."""
    for selector in registry.of_module(line.module):
        name = selector.rpartition(".")[2]
        known = classes(HERE.parent).get(name)
        if known or registry.short(selector) != name:
            where = f" in {known.file}" if known else ""
            raise line.line.error(
                f"the module {line.module} registers {name}, but there is another {name}{where}. Gin files and records "
                f"know classes by their names: rename yours."
            )


@cache
def identity(text: str) -> str:
    """Return what a run with this canonical configuration is recognised by, its seed among it."""
    known = canonical(text)
    return digest(known.identity, known.lines[SEED])


@cache
def _build(files: tuple[str, ...], settings: tuple[str, ...], allow_imports: bool) -> str | None:
    """Build the method on its encoder, without data, and return the hash of its files outside this project.

    Raises ConfigError where one refuses the other. An encoder whose weights would be fetched is left for the run.
    """
    config = configuration.load(files, settings, allow_imports=allow_imports)
    experiment: Experiment = configuration.build(config)
    if experiment.pretraining is None:
        return None
    if "\nTimm.pretrained = True\n" in config.text:
        untrained = (*settings, "Timm.pretrained = False")
        return _build(files, untrained, allow_imports) if any(Path(file).is_absolute() for file in files) else None
    with torch.device("meta"):
        return Stage(config, experiment, experiment.data(), torch.device("meta"), Path()).made_by


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
    made_by: str | None
    allow_imports: bool

    @property
    def identity(self) -> str:
        """What its record is recognised by: its configuration without defaults and places, and its seed."""
        return identity(self.config.text)

    def owns(self, record: Record) -> bool:
        """Return whether a record is of this run."""
        division = "closed" if record["division"] == "open" else record["division"]  # with a teacher from elsewhere
        return (division, identity(record["config"]["text"])) == (self.division, self.identity)

    def is_by(self, record: Record) -> bool:
        """Return whether the files of its method outside this project are those that made a record."""
        return files_outside(record) == self.made_by

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
        parts += ["--allow-imports"] * self.allow_imports
        return [*parts, "--seed", str(self.seed), "--out", str(out), "--publish", str(publish), "--resume"]


@dataclass(frozen=True)
class PlannedEvaluation(Planned):
    """An evaluation to come, of the encoder of a finished run."""

    of: Record

    def owns(self, record: Record) -> bool:
        """Return whether a record is of this evaluation: by the same rules, of the same weights."""
        is_of_run = record["division"] == "open" and record["checkpoint"] == self.of["checkpoint"]
        return is_of_run and identity(record["config"]["text"]) == self.identity

    def seconds(self, records: Sequence[Record]) -> float | None:
        """Return the seconds of training: none."""
        return 0.0

    def command(self, out: Path, publish: Path) -> list[str]:
        """Return the command that evaluates the encoder in the folder of its run."""
        pattern = f"*-s{self.seed}-{self.of['config']['key'][:8]}"
        folder = next(iter(sorted(out.glob(pattern))), out / pattern)
        parts = [sys.executable, "-m", "benchmark.evaluate", "--run", str(folder)]
        parts += [part for file in self.files for part in ("--gin", file)]
        parts += [part for setting in self.settings for part in ("--set", setting)]
        parts += ["--allow-imports"] * self.allow_imports
        return [*parts, "--out", str(out), "--publish", str(publish)]
