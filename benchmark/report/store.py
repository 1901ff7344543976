"""The folder of records, and records grouped into the cells of a leaderboard."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import BenchmarkError, MissingError
from benchmark.report.lineage import ancestor
from benchmark.report.record import Record, file_name, read

UNRANKED = ("overtime", "budget_miss")  # runs that spent another budget than the rest of their table
UNDONE = (*UNRANKED, "failed")  # runs that are to be made again
MACHINE = ("processor", "processor_flags", "gpu", "driver", "threads")
VERSIONS = ("python", "torch", "torchvision", "timm", "cuda", "cudnn")


class Setting(NamedTuple):
    """What runs must have in common to be ranked together; an absent text is empty, an absent number 0.

    `hardware` is empty unless the budget is in device seconds: only then does the result depend on it.
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


@dataclass(frozen=True)
class Cell:
    """The runs of one method with one configuration in one setting, by the code and the trials of the newest.

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


def group(records: Iterable[Record]) -> list[Cell]:
    """Group records into cells, sorted by setting, method and configuration.

    Of several runs with the same configuration and seed the newest counts, one that is `UNDONE` only where all are, and
    none of other code than the newest of all. A method whose rate was chosen again, even another rate, has one cell.
    """
    cells: dict[tuple[Setting, str, str], list[Record]] = defaultdict(list)
    for record in records:
        tuning = record["tuning"]
        configuration = tuning["recipe"] if tuning else record["config"]["key"]
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
    return {name: environment[name] for name in (*MACHINE, *VERSIONS)}


def made_by(record: Record) -> tuple[str, str, str | None]:
    """Return what the code of a run is known by: the ancestors of its pretraining, its evaluation and its method."""
    code, method = record["code"], record["method"]["module_sha256"]
    return ancestor(code["protocol_sha256"]), ancestor(code["evaluation_sha256"]), method and ancestor(method)


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
    )


def _cell(setting: Setting, method: str, records: Iterable[Record]) -> Cell:
    """Return the cell of what counts of each seed, by code and trials of the newest of all, and of the rest."""
    ordered = sorted(records, key=lambda record: (record["created_utc"], record["id"]))
    terms = ordered[-1]["tuning"], made_by(ordered[-1])
    alike = [record for record in ordered if (record["tuning"], made_by(record)) == terms]
    counting = {record["seed"]: record for record in sorted(alike, key=lambda record: record["status"] not in UNDONE)}
    runs = tuple(counting[seed] for seed in sorted(counting))
    known = {run["id"] for run in runs}
    superseded = tuple(record for record in ordered if record["id"] not in known)
    return Cell(setting, method, ordered[-1]["config"]["key"], runs, superseded)
