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
from benchmark.report.proofs import Proofs
from benchmark.report.record import Record, file_name, pretrained, read

UNRANKED = ("overtime", "budget_miss")  # status of runs that spent another budget than the rest of their table
UNDONE = (*UNRANKED, "failed")  # status of runs that have to be repeated
MACHINE = ("processor", "processor_flags", "gpu", "driver", "threads")
LIBRARIES = ("python", "torch", "torchvision", "timm", "cuda", "cudnn")
FIGURES = "figures"  # in the folder of a run: where `benchmark.figures` draws
PRETRAINING = "pretraining"  # the name in versions of all code but the classes that have versions of their own
FIRST_VERSION = "1.0"  # of code that states none, and of all code that made records of schema 1
NOT_OF_A_RECIPE = [f"experiment.{name}" for name in ("rate_factor", "budget_share", "is_trial", "evaluations")]
RANDOM_INIT = "random init"
RAW_PIXELS = "raw pixels"
START = "start:"  # and the name of the trained weights from which a run goes on
OF_RAW_PIXELS = ("experiment.evaluations", "experiment.limits")
OF_RANDOM_INIT = ("experiment.encoder", "experiment.encoder_size", *OF_RAW_PIXELS)


class Setting(NamedTuple):
    """What runs must have in common to be ranked together; an absent text is empty, an absent number 0.

    `hardware` is empty unless the budget is in device seconds, because only then does the result depend on it.
    `precision` is that of pretraining, and empty where nothing was pretrained. `origin` and `origin_fingerprint` are
    the name and the fingerprint of the data on which encoders were pretrained where the record of a run that was
    evaluated again names it, else empty.
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
    origin: str
    origin_fingerprint: str


@dataclass(frozen=True)
class Cell:
    """The runs of one method with one configuration in one setting, with the trials and Major versions of the newest.

    `runs` has one run for each seed, in the order of the seeds. `superseded` are other runs of the same seeds, and runs
    of other code or other trials.
    """

    setting: Setting
    method: str
    key: str
    runs: tuple[Record, ...]
    superseded: tuple[Record, ...]

    @property
    def varied(self) -> str:
        """The bindings in which its runs differ from others of their method on purpose."""
        return ", ".join(self.runs[0]["config"]["varied"])

    @property
    def entry(self) -> tuple[str, str]:
        """The method and the configuration, which identify the cell within its setting."""
        return self.method, self.key


def load(folder: Path) -> list[Record]:
    """Read all records below the folder, each once, in the order of their ids; calibrations of runs are no records.

    Raises:
        MissingError: the folder does not exist.
        BenchmarkError: a `.json` file is not a record as it was written, or was renamed.
    """
    if not folder.is_dir():
        raise MissingError(f"There is no folder {folder}. Give the folder that holds the records.")
    records, proofs = dict[str, Record](), Proofs()
    for path in sorted(folder.rglob("*.json")):
        if path.parent == folder / "calibrations":
            continue
        if not path.is_file():
            raise BenchmarkError(f"{path} is named like a record and is no file, or a link to none. Remove it.")
        record = read(path, proofs)
        if path.name != file_name(record):
            raise BenchmarkError(f"{path} was renamed: expected the name {file_name(record)}.")
        records[record["id"]] = record
    proofs.save()
    return [records[identity] for identity in sorted(records)]


def of_run(folder: Path) -> list[Record]:
    """Read the records in the folder of a run, the newest last; none where the run is not finished."""
    return by_age(map(read, folder.glob("*-s*-*-*.json")))


def by_age(records: Iterable[Record]) -> list[Record]:
    """Return records in the order in which they were made, the newest last; ids order those of one second.

    Of a run that was published again, the record that names files comes after the one that names none.
    """
    return sorted(records, key=lambda record: (record["created_utc"], "published" in record, record["id"]))


def group(records: Iterable[Record]) -> list[Cell]:
    """Group records into cells, sorted by setting, method and configuration.

    Of several runs with the same configuration and seed the newest counts; one that is `UNDONE` counts only where all
    are. Runs of other code or other trials than the newest of all do not count. A method whose learning rate was tuned
    again has one cell, even if another rate was chosen.
    """
    by_cell: dict[tuple[Setting, str, str], list[Record]] = defaultdict(list)
    for record in by_age(records):
        tuning = tuning_of(record)
        configuration = tuning["recipe"] if tuning else key_of(record)
        by_cell[_setting(record), record["method"]["name"], configuration].append(record)
    cells = []
    for (setting, method, _), of_cell in by_cell.items():
        terms = _terms(of_cell[-1])
        alike = [record for record in of_cell if _terms(record) == terms]
        by_seed = {record["seed"]: record for record in sorted(alike, key=lambda run: run["status"] not in UNDONE)}
        runs = tuple(by_seed[seed] for seed in sorted(by_seed))
        counted = {_once(run) for run in runs}  # a run that was published twice is one run
        superseded = tuple(record for record in of_cell if _once(record) not in counted)
        cells.append(Cell(setting, method, key_of(of_cell[-1]), runs, superseded))
    return sorted(cells, key=lambda cell: (cell.setting, cell.entry))


def _once(record: Record) -> tuple[object, ...]:
    return record["seed"], record["created_utc"], record["status"]


def _terms(record: Record) -> tuple[object, ...]:
    return tuning_of(record), majors(record), files_outside(record)


def hardware(record: Record) -> str:
    """Return the accelerators of a run, or its processor and threads where it had none."""
    environment, count = record["environment"], record["cost"]["devices"]
    threads = environment["threads"]
    device = environment["gpu"] or f"{environment['processor']}, {threads} thread{'s' * (threads > 1)}"
    return f"{count} x {device}" if count > 1 else device


def runs_on_gpu(record: Record) -> int:
    """Return how many runs shared the GPU of a run, as far as its suite knew; 0 where it had one of its own or none."""
    environment = record["environment"]
    return environment.get("runs_on_device", 0) if environment["gpu"] else 0


def platform(record: Record) -> dict[str, object]:
    """Return the machine and the libraries of a run, by name: runs that agree in them are equal to the bit."""
    environment: Mapping[str, object] = record["environment"]
    return {name: environment[name] for name in (*MACHINE, *LIBRARIES)}


def versions_of(record: Record) -> dict[str, str]:
    """Return the versions of the code that made a record, by name; code that is not named has the first version."""
    return record["code"]["versions"] if record["schema"] > 1 else {}


def files_outside(record: Record) -> str | None:
    """Return the hash of the files of a method that lie outside this project; None where there are none."""
    return record["method"]["module_sha256"] if record["schema"] > 1 else None


def major(version: str) -> int:
    """Return the first number of a version, 2 of 2.1."""
    return int(version.partition(".")[0])


def majors(record: Record) -> frozenset[tuple[str, int]]:
    """Return the Major versions above 1 of the code that made a record; records with equal ones are comparable."""
    return frozenset((name, major(each)) for name, each in versions_of(record).items() if major(each) > 1)


def key_of(record: Record) -> str:
    """Return the key that identifies a configuration on its data, whatever the seed, as the present schema has it.

    The key of a record of schema 1 follows from its text. Encoders that were only evaluated keep their key, which also
    depends on their weights.
    """
    key = record["config"]["key"]
    return key if record["schema"] > 1 else key_of_text(record) or key


def key_of_text(record: Record) -> str | None:
    """Return the key that follows from the text of a record, its data and the weights that it names.

    None where it follows from more than that: for an encoder of a run that was only evaluated, and where the weights
    from which a run goes on were named by a path, which is not published.
    """
    text, fingerprint = record["config"]["text"], record["dataset"]["fingerprint"]
    if record["division"] == "floor":
        return None if record["method"]["name"].startswith(START) else key_of_floor(record, text)
    teacher, start = record["teacher"], record.get("start")
    if not pretrained(record) or (start and "\nexperiment.init = 'timm:" not in text):
        return None
    weights = [teacher["digest"]] if teacher and teacher["key"] is None else []
    return _key(text, None, fingerprint, *filter(None, weights), *([start["digest"]] if start else []))


def key_of_floor(floor: Record, text: str) -> str:
    """Return the key that a floor has under a configuration: that of the floor itself, or of a run that has it."""
    roots = OF_RANDOM_INIT if floor["method"]["name"] == RANDOM_INIT else OF_RAW_PIXELS
    return _key(text, roots, floor["dataset"]["fingerprint"])


@cache
def _key(text: str, roots: tuple[str, ...] | None, *data: str) -> str:
    """Return the digest of a configuration, or of what some of its parameters reach, and of data."""
    configuration = canonical(text)
    return digest(configuration.identity if roots is None else configuration.part(roots), *data)


def tuning_of(record: Record) -> Tuning | None:
    """Return how the learning rate of a run was chosen, with the recipe's key as the present schema has it."""
    tuning = record["tuning"]
    if tuning is None or record["schema"] > 1:
        return tuning
    return {**tuning, "recipe": tuning_key(record["config"]["text"])}


@cache
def tuning_key(text: str) -> str:
    """Return the key that a configuration shares with the trials that choose its learning rate."""
    configuration = canonical(text)
    reached = configuration.reached_without(NOT_OF_A_RECIPE)
    return digest({name: value for name, value in configuration.identity.items() if name in reached})


def _setting(record: Record) -> Setting:
    dataset, encoder, budget = record["dataset"], record["encoder"], record["budget"]
    origin = record.get("pretrained_on")
    is_encoded = (record["division"], record["method"]["name"]) != ("floor", RAW_PIXELS)
    return Setting(
        board=record["board"] or "",
        dataset=dataset["name"],
        fingerprint=dataset["fingerprint"],
        encoder=encoder["name"] if is_encoded else "",
        image_size=encoder["image_size"],
        patch=(encoder["patch"] or 0) if is_encoded else 0,
        stem=(encoder["stem"] or "") if is_encoded else "",
        budget=budget["kind"] if budget else "",
        amount=budget["amount"] if budget else 0,
        division=record["division"],
        hardware=hardware(record) if budget and budget["kind"] == "device_seconds" else "",
        precision=record["environment"]["precision"] if pretrained(record) else "",
        origin=origin["name"] if origin else "",
        origin_fingerprint=origin["fingerprint"] if origin else "",
    )
