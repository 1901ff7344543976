"""The folder of records, and records grouped into the cells of a leaderboard."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import BenchmarkError, MissingError
from benchmark.report.fields import Tuning
from benchmark.report.identity import canonical, digest
from benchmark.report.record import Record, file_name, pretrained, read

UNRANKED = ("overtime", "budget_miss")  # runs that spent another budget than the rest of their table
UNDONE = (*UNRANKED, "failed")  # runs that are to be made again
MACHINE = ("processor", "processor_flags", "gpu", "driver", "threads")
LIBRARIES = ("python", "torch", "torchvision", "timm", "cuda", "cudnn")
PRETRAINING = "pretraining"  # what stands for all code but the classes that have versions of their own
FIRST_VERSION = "1.0"  # of all code that says no other, and of all that made records of schema 1
NOT_OF_A_RECIPE = ("rate_factor", "budget_share", "is_trial", "evaluations")
RANDOM_INIT = "random init"
OF_RAW_PIXELS = ("experiment.evaluations", "experiment.limits")
OF_RANDOM_INIT = ("experiment.encoder", *OF_RAW_PIXELS)


class Setting(NamedTuple):
    """What runs must have in common to be ranked together; an absent text is empty, an absent number 0.

    `hardware` is empty unless the budget is in device seconds: only then does the result depend on it. `precision` is
    that of pretraining, and empty where nothing was pretrained.
    """

    board: str
    dataset: str
    fingerprint: str
    encoder: str
    image_size: int
    patch: int
    stem: str
    budget: str
    amount: float
    division: str
    hardware: str
    precision: str


@dataclass(frozen=True)
class Cell:
    """The runs of one method with one configuration in one setting, by the trials and the Major versions of the newest.

    `runs` are in the order of their seeds, one for each; `superseded` are other runs of the same seeds, and those
    of other code or other trials.
    """

    setting: Setting
    method: str
    key: str
    runs: tuple[Record, ...]
    superseded: tuple[Record, ...]

    @property
    def varied(self) -> str:
        """The bindings by which its runs differ from others of their method on purpose."""
        return ", ".join(self.runs[0]["config"]["varied"])

    @property
    def entry(self) -> tuple[str, str]:
        """What tells the cell apart within its setting: method and configuration."""
        return self.method, self.key


def load(folder: Path) -> list[Record]:
    """Read all records below the folder, in the order of their ids and each once, wherever the files lie.

    Raises:
        MissingError: the folder does not exist.
        BenchmarkError: a `.json` file is not a record as it was written, or was renamed.
    """
    if not folder.is_dir():
        raise MissingError(f"There is no folder {folder}. Give the folder that holds the records.")
    records: dict[str, Record] = {}
    for path in sorted(folder.rglob("*.json")):
        record = read(path)
        if path.name != file_name(record):
            raise BenchmarkError(f"{path} was renamed: expected the name {file_name(record)}.")
        records[record["id"]] = record
    return [records[identity] for identity in sorted(records)]


def of_run(folder: Path) -> list[Record]:
    """Read the records in the folder of a run, the newest last; none where it is not finished."""
    return by_age(map(read, folder.glob("*-s*-*-*.json")))


def by_age(records: Iterable[Record]) -> list[Record]:
    """Return records in the order in which they were made, the newest last; ids part those of one second."""
    return sorted(records, key=lambda record: (record["created_utc"], record["id"]))


def group(records: Iterable[Record]) -> list[Cell]:
    """Group records into cells, sorted by setting, method and configuration.

    Of several runs with the same configuration and seed the newest counts, one that is `UNDONE` only where all are, and
    none of other code than the newest of all. A method whose rate was chosen again, even another rate, has one cell.
    """
    cells: dict[tuple[Setting, str, str], list[Record]] = defaultdict(list)
    for record in records:
        tuning = tuning_of(record)
        configuration = tuning["recipe"] if tuning else key_of(record)
        cells[_setting(record), record["method"]["name"], configuration].append(record)
    made = [_cell(setting, method, found) for (setting, method, _), found in cells.items()]
    return sorted(made, key=lambda cell: (cell.setting, cell.entry))


def hardware(record: Record) -> str:
    """Return the accelerators of a run, or its processor and threads where it had none."""
    environment, count = record["environment"], record["cost"]["devices"]
    threads = environment["threads"]
    own = f"{environment['processor']}, {threads} thread{'s' * (threads > 1)}"
    device = environment["gpu"] or own
    return f"{count} x {device}" if count > 1 else device


def platform(record: Record) -> dict[str, object]:
    """Return the part of a run's environment in which runs must agree to be the same to the bit, by name."""
    environment: Mapping[str, object] = record["environment"]
    return {name: environment[name] for name in (*MACHINE, *LIBRARIES)}


def versions_of(record: Record) -> dict[str, str]:
    """Return the versions of the code that made a record, by name; what has none there is of the first."""
    return record["code"]["versions"] if record["schema"] > 1 else {}


def files_outside(record: Record) -> str | None:
    """Return the hash of those files of a method that lie outside this project; None where there are none."""
    return record["method"]["module_sha256"] if record["schema"] > 1 else None


def major(version: str) -> int:
    """Return the first number of a version such as 2.1."""
    return int(version.partition(".")[0])


def majors(record: Record) -> frozenset[tuple[str, int]]:
    """Return the Major versions, past the first, of the code that made a record: equal ones give comparable numbers."""
    return frozenset((name, major(each)) for name, each in versions_of(record).items() if major(each) > 1)


def key_of(record: Record) -> str:
    """Return what tells a configuration on its data from others, whatever the seed: that of the present schema.

    That of an early record follows from its text, but for encoders that were evaluated alone, whose keys also follow
    from the weights: they keep theirs.
    """
    if record["schema"] > 1:
        return record["config"]["key"]
    text, fingerprint = canonical(record["config"]["text"]), record["dataset"]["fingerprint"]
    if record["division"] == "floor":
        roots = OF_RANDOM_INIT if record["method"]["name"] == RANDOM_INIT else OF_RAW_PIXELS
        return digest(text.part(roots), fingerprint)
    if not pretrained(record):
        return record["config"]["key"]
    teacher = record["teacher"]
    weights = teacher["digest"] if teacher and teacher["key"] is None else None
    return digest(text.identity, fingerprint, *([weights] if weights else []))


def tuning_of(record: Record) -> Tuning | None:
    """Return how the rate of a run was chosen, with the recipe as the present schema knows it."""
    tuning = record["tuning"]
    if tuning is None or record["schema"] > 1:
        return tuning
    return {**tuning, "recipe": tuning_key(record["config"]["text"])}


@cache
def tuning_key(text: str) -> str:
    """Return what a configuration has in common with the trials from which its rate is chosen."""
    return digest(canonical(text).part_without(NOT_OF_A_RECIPE))


def _setting(record: Record) -> Setting:
    dataset, encoder, budget = record["dataset"], record["encoder"], record["budget"]
    return Setting(
        board=record["board"] or "",
        dataset=dataset["name"],
        fingerprint=dataset["fingerprint"],
        encoder=encoder["name"],
        image_size=encoder["image_size"],
        patch=encoder["patch"] or 0,
        stem=encoder["stem"] or "",
        budget=budget["kind"] if budget else "",
        amount=budget["amount"] if budget else 0,
        division=record["division"],
        hardware=hardware(record) if budget and budget["kind"] == "device_seconds" else "",
        precision=record["environment"]["precision"] if pretrained(record) else "",
    )


def _terms(record: Record) -> tuple[object, ...]:
    return tuning_of(record), majors(record), files_outside(record)


def _cell(setting: Setting, method: str, records: Iterable[Record]) -> Cell:
    """Return the cell of what counts of each seed, by code and trials of the newest of all, and of the rest."""
    ordered = by_age(records)
    terms = _terms(ordered[-1])
    alike = [record for record in ordered if _terms(record) == terms]
    counting = {record["seed"]: record for record in sorted(alike, key=lambda record: record["status"] not in UNDONE)}
    runs = tuple(counting[seed] for seed in sorted(counting))
    known = {run["id"] for run in runs}
    superseded = tuple(record for record in ordered if record["id"] not in known)
    return Cell(setting, method, key_of(ordered[-1]), runs, superseded)
