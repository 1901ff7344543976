"""A suite: methods, protocols, seeds and points of a sweep, and the runs and evaluations that they ask for.

In the division `tuned`, each method's learning rate is chosen first, by trials that never see the test set.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, product
from pathlib import Path

import gin
import torch

from benchmark.boards.planned import Division, Entry, Planned, PlannedEvaluation
from benchmark.config import load as configuration
from benchmark.config import registry
from benchmark.config.parse import Import, locate, read, shipped_folder, value_of
from benchmark.errors import ConfigError
from benchmark.experiment.setup import Experiment
from benchmark.experiment.stage import Stage
from benchmark.experiment.trained import TrainedEncoder, configure
from benchmark.report.cells import by_age, files_outside
from benchmark.report.code import HERE, classes
from benchmark.report.record import Record
from benchmark.report.tuning import SHARE, Contest, contests, factor

TRIAL_SEED = 1000  # of all trials; runs have other seeds
TRIED = ("experiment.is_trial", "experiment.budget_share", "experiment.evaluations", "experiment.rate_factor")
SPENDING = ("Budget.", "experiment.budget_share", "experiment.rate_factor")  # the method is built alike
Value = int | float | str | bool | None | tuple[int | float, ...]


@gin.register("suite")
@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite: every method under every protocol, for every seed and every point of the sweep.

    `methods` and `protocols` are stems of files in `gin/` and `gin/protocol/`, or gin files elsewhere, relative to the
    suite's own. `settings` hold for all runs, as `--set` does. `sweep` maps a binding to its values; several bindings
    make a grid. In the division `tuned`, the evaluation `chosen_by` on a hold-out of train chooses learning rates, by
    trials on `trial_share` of the budget.

    Once trained, the encoders of `examined_seeds` are also scored by the preset `examined_by` (the stem of a file in
    `gin/presets/`, or a gin file): for evaluations that cost too much for every seed.

    With `allow_imports` the gin files may import modules outside this project.
    """

    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    sweep: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    chosen_by: str = "@Linear"
    trial_share: float = SHARE
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
        if not 0 < self.trial_share <= 1:
            raise ConfigError(f"suite.trial_share = {self.trial_share!r}: give a part of the budget, above 0 up to 1.")
        if foreign := [seed for seed in self.examined_seeds if seed not in self.seeds]:
            raise ConfigError(f"suite.examined_seeds names {foreign[0]}, which is not one of suite.seeds.")
        if bool(self.examined_seeds) != bool(self.examined_by):
            raise ConfigError("suite.examined_by and suite.examined_seeds go together: bind both or neither.")
        if empty := [binding for binding, values in self.sweep.items() if not values]:
            raise ConfigError(f"suite.sweep gives {empty[0]} no value; give at least one.")

    def located(self, folder: Path, *, allow_imports: bool) -> "Suite":
        """Return the suite with the paths of its gin files, which are looked for from its own folder.

        Raises ConfigError for a file that is missing or imports what it may not, and for a method or class that has the
        name of another: tables and gin files know them by their names.
        """
        suite = replace(
            self,
            methods=tuple(_located(name, folder, "") for name in self.methods),
            protocols=tuple(_located(name, folder, "protocol") for name in self.protocols),
            examined_by=self.examined_by and _located(self.examined_by, folder, "presets"),
            allow_imports=allow_imports,
        )
        for labels in (map(_method, suite.methods), map(_stem, suite.protocols)):
            label, count = Counter(labels).most_common(1)[0]
            if count > 1:
                raise ConfigError(
                    f"The suite has two files of the name {label}, which labels could not tell apart: rename one."
                )
        outside = [read(Path(name)) for name in (*suite.methods, *suite.protocols) if _is_outside(name)]
        for statement in configuration.execute_imports("experiment", chain(*outside), allow_imports):
            _require_new_names(statement)
        return suite

    @property
    def preset(self) -> str:
        """The file by which trained encoders are evaluated."""
        return _file(str(self.examined_by), "presets")

    def of_seeds(self, seeds: Sequence[int]) -> "Suite":
        """Return the suite with some of its seeds. Raises ConfigError for a seed that it does not have."""
        if foreign := [seed for seed in seeds if seed not in self.seeds]:
            raise ConfigError(f"--seeds {foreign[0]}: the suite has {', '.join(map(str, self.seeds))}.")
        examined = tuple(seed for seed in self.examined_seeds if seed in seeds)
        return replace(
            self,
            seeds=tuple(seed for seed in self.seeds if seed in seeds),
            examined_by=self.examined_by if examined else None,
            examined_seeds=examined,
        )

    def runs(self) -> Iterator[Planned]:
        """Yield the runs seed by seed, so that an unfinished board has every method on the same seeds.

        With `experiment.is_trial` among the settings they are trials, which never see the test set: a study of rates.
        Raises ConfigError where the configuration of a run is refused.
        """
        for seed, entry in product(self.seeds, self._entries()):
            yield self._planned("closed", entry, seed)

    def trials(self, records: Sequence[Record] = ()) -> Iterator[Planned]:
        """Yield the trials of each entry that there are or that are to be made, as the records among them ask for."""
        for entry in self._entries():
            yield from self._contest(entry, records)[0]

    def tuned(self, records: Sequence[Record]) -> Iterator[Planned]:
        """Yield those runs of the division `tuned` whose learning rates are chosen by trials among the records."""
        chosen = {
            entry: factor(contest.winner)
            for entry in self._entries()
            if not (contest := self._contest(entry, records)[1]).missing
        }
        for seed, entry in product(self.seeds, self._entries()):
            if entry in chosen:
                yield self._planned("tuned", entry, seed, f"experiment.rate_factor = {chosen[entry]!r}")

    def _contest(self, entry: Entry, records: Sequence[Record]) -> tuple[list[Planned], Contest]:
        """Return the trials of an entry, and the contest of those that have records.

        Raises ConfigError where the suite itself binds what trials set, or its runs are of the division open.
        """
        for binding in self.sweep:
            if binding in TRIED:
                raise ConfigError(f"suite.sweep varies {binding}, which trials set themselves: make it without --tune.")
        if any(setting.partition("=")[0].strip() == TRIED[0] for setting in self.settings):
            raise ConfigError(f"suite.settings bind {TRIED[0]}: its runs are trials already. Make it without --tune.")
        shared = (
            "experiment.is_trial = True",
            f"experiment.budget_share = {self.trial_share!r}",
            f"experiment.evaluations = ({self.chosen_by},)",
        )
        trials: dict[float, Planned] = {}
        contest = Contest(())
        while missing := [each for each in contest.missing if each not in trials]:
            for each in missing:
                trial = self._planned("trial", entry, TRIAL_SEED, *shared, f"experiment.rate_factor = {each!r}")
                if outside := trial.outside:
                    raise ConfigError(
                        f"The suite plans {trial.label} with {outside}: such runs are of the division open, whatever "
                        f"their rate, so no trials choose it. Make them without --tune."
                    )
                trials[each] = trial
            done = [record for record in records if any(run.owns(record) for run in trials.values())]
            alike = [record for record in done if files_outside(record) == trial.files_outside]
            contest = next(iter(contests(alike).values()), Contest(()))
        return list(trials.values()), contest

    def evaluations(self, runs: Sequence[Planned], records: Sequence[Record]) -> Iterator[PlannedEvaluation]:
        """Yield the evaluations by the preset of those runs that are among the records.

        Raises ConfigError where a run has other data or another encoder than the files of its evaluation.
        """
        for run in runs:
            of_run = [record for record in records if run.owns(record) and run.has_files_of(record)]
            if of_run and run.seed in self.examined_seeds and run.division != "trial":
                yield self._evaluation(run, by_age(of_run)[-1])

    def _evaluation(self, run: Planned, record: Record) -> PlannedEvaluation:
        files = (_file(run.entry.protocol, "protocol"), self.preset)
        trained = TrainedEncoder(run=record)
        text = configure(trained, files, (), allow_imports=self.allow_imports).text
        bound = {line.partition(" = ")[0] for line in text.splitlines()} - {"experiment.evaluations"}
        candidates = (*self.settings, *run.entry.point)
        settings = tuple(setting for setting in candidates if setting.partition("=")[0].strip() in bound)
        config = configure(trained, files, settings, allow_imports=self.allow_imports)
        for part in ("data", "encoder"):
            root = [f"experiment.{part}"]
            if config.canonical.part(root) != run.config.canonical.part(root):
                raise ConfigError(
                    f"suite.examined_by: {run.label} has another {part} than {files[0]}. Bind what differs there, "
                    f"not by a macro in suite.settings or suite.sweep."
                )
        label = f"{run.label}/{_stem(str(self.examined_by))}"
        changes = {"label": label, "files": files, "settings": settings, "config": config, "of": record}
        return PlannedEvaluation(**vars(run) | changes)

    def _entries(self) -> list[Entry]:
        points = [
            tuple(f"{binding} = {value!r}" for binding, value in zip(self.sweep, values, strict=True))
            for values in product(*self.sweep.values())
        ]
        return [Entry(*each) for each in product(self.protocols, self.methods, points)]

    def _planned(self, division: Division, entry: Entry, seed: int, *settings: str) -> Planned:
        files = (_file(entry.method), _file(entry.protocol, "protocol"))
        settings = (*self.settings, *settings)
        last = settings[-1].partition(".")[2] if division == "trial" else f"seed {seed}"
        names = _stem(entry.protocol), _method(entry.method)
        label = "/".join([*names, *entry.point, *([division] * (division != "closed")), last])
        try:
            of_method = tuple(each for each in (*self.settings, *entry.point) if not each.startswith(SPENDING))
            outside = _build(files, of_method, self.allow_imports)
            bindings = (*settings, *entry.point, f"experiment.seed = {seed}")
            config = configuration.load(files, bindings, allow_imports=self.allow_imports)
        except ConfigError as error:
            raise ConfigError(f"The suite plans {label}, which is refused:\n{error}") from None
        if config.tree["params"]["is_trial"]:
            division = "trial"
        return Planned(label, division, entry, files, settings, seed, config, outside, self.allow_imports)


def _is_outside(name: str) -> bool:
    return name.endswith(".gin")


def _located(name: str, folder: Path, shipped: str) -> str:
    """Return the stem of a shipped file, or the absolute path of another."""
    if not _is_outside(name):
        return name
    path, home = locate(name, folder), shipped_folder() / shipped
    return path.relative_to(home).with_suffix("").as_posix() if path.is_relative_to(home) else str(path)


def _file(name: str, shipped: str = "") -> str:
    return name if _is_outside(name) else (Path("gin") / shipped / f"{name}.gin").as_posix()


def _stem(name: str) -> str:
    return Path(name).stem if _is_outside(name) else name


@cache
def _method(name: str) -> str:
    """Return a method's name in labels: the stem of a shipped file, or `Pretraining.name` of another.

    Raises ConfigError for a file that is no method, and for the name of a shipped one.
    """
    if not _is_outside(name):
        return name
    title = value_of(read(Path(name)), "Pretraining.name")
    if title is None:
        raise ConfigError(f"suite.methods names {name}, which is no method: it binds no Pretraining.name.")
    for path in shipped_folder().glob("*.gin"):
        if value_of(read(path), "Pretraining.name") == title:
            raise ConfigError(
                f"suite.methods names {name}, whose Pretraining.name = {title!r} is that of gin/{path.name}. Tables "
                f"know methods by their names: give it another."
            )
    return str(title)


def _require_new_names(statement: Import) -> None:
    """Raise ConfigError where a module outside this project registers a name that is in use."""
    for selector in registry.of_module(statement.module):
        name = selector.rpartition(".")[2]
        other = classes(HERE.parent).get(name)
        if other or registry.short(selector) != name:
            where = f" in {other.file}" if other else ""
            raise statement.line.error(
                f"the module {statement.module} registers {name}, but there is another {name}{where}. Gin files and "
                f"records know classes by their names: rename yours."
            )


@cache
def _build(files: tuple[str, ...], settings: tuple[str, ...], allow_imports: bool) -> str | None:
    """Build the method on its encoder, without data, and return the hash of its files outside this project.

    Raises ConfigError where they do not fit. Trained weights, on which no class depends, are neither read nor fetched.
    """
    config = configuration.load(files, settings, allow_imports=allow_imports)
    experiment: Experiment = configuration.build(config)
    if experiment.pretraining is None:
        return None
    if experiment.init is not None:
        return _build(files, (*settings, "experiment.init = None"), allow_imports)
    if "\nTimm.pretrained = True\n" in config.text:
        untrained = (*settings, "Timm.pretrained = False")
        return _build(files, untrained, allow_imports) if any(Path(file).is_absolute() for file in files) else None
    with torch.device("meta"):
        return Stage(config, experiment, experiment.data(), torch.device("meta"), Path()).files_outside
