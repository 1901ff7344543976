"""The boards as data: which lines each table has, in which order, and what may be claimed of them.

Every rendering, Markdown, LaTeX, CSV or JSON, is a function of these sections, and these of the records alone.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Literal, NamedTuple

from benchmark.report.cells import UNRANKED, Cell, Setting, group
from benchmark.report.fields import Metrics
from benchmark.report.identity import canonical
from benchmark.report.record import Record
from benchmark.report.statistics import Comparison, Summary, compare, summarise

LEADING = {  # the evaluations that come first, and rank, and their headings
    "linear": "linear",
    "knn": "kNN",
    "semi_probe_1": "1 % labels",
    "semi_probe_10": "10 % labels",
    "finetune": "fine-tuned",
    "semi_finetune_1": "fine-tuned on 1 %",
    "semi_finetune_10": "fine-tuned on 10 %",
}
DIVISIONS = ("tuned", "closed", "open")  # boards lead with rates that were chosen alike
MOST_BINDINGS = 3  # that a line's name has room for
ABBREVIATIONS = (" Eq.", " et al.")  # which end no sentence
Changed = Callable[[Record], Collection[str]]  # to the parts of the code that made a record and are not the same now
Ranking = Comparison[tuple[str, str]]  # of cells by their entry


class Column(NamedTuple):
    """One evaluation in one version of its protocol; versions never share a column."""

    evaluation: str
    version: int

    @property
    def heading(self) -> str:
        return f"{LEADING.get(self.evaluation, self.evaluation)} v{self.version}"


@dataclass(frozen=True)
class Value:
    """The top-1 of a line in a column over seeds, whether it is the best or tied with it, and warnings.

    `macro_f1` is the mean over the runs. `is_uneven` says that the top-1 spreads so much more than others of its column
    that what is tied there is less certain.
    """

    summary: Summary
    macro_f1: float
    standing: Literal["best", "tied", ""]
    flags: tuple[str, ...]
    is_uneven: bool


@dataclass(frozen=True)
class Cost:
    """Means over the runs of a line, and the highest peak memory, None where no run knows it."""

    images: float
    flops: float
    device_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Line:
    """A method or a floor: its name, the range of its rank, a value per column, costs and what became of its runs."""

    cell: Cell
    name: str
    is_floor: bool
    rank: tuple[int, int] | None
    values: tuple[Value | None, ...]
    cost: Cost
    endings: dict[str, int]
    stale: tuple[str, ...]

    @property
    def rate_factor(self) -> float | None:
        """The rate that its trials chose, as a multiple of the recipe's; None where none was chosen."""
        tuning = self.cell.runs[0]["tuning"]
        return tuning["factor"] if tuning else None

    @property
    def deviations(self) -> list[str]:
        """How its runs differ from the paper, each sentence once."""
        return list(dict.fromkeys(text for run in self.cell.runs for text in _joined(run["method"]["deviations"])))


@dataclass(frozen=True)
class Section:
    """One table: the lines that share data set, encoder, budget and division, and the trials of their rates."""

    setting: Setting
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    ranking: Ranking | None
    missing_floors: tuple[str, ...]
    trials: tuple[Record, ...]

    @property
    def runs(self) -> list[Record]:
        """The runs of the methods, without the floors."""
        return [run for line in self.lines if not line.is_floor for run in line.cell.runs]


def unchanged(record: Record) -> Sequence[str]:
    """Take every record for one of this code."""
    return ()


def sections(records: Sequence[Record], changed: Changed = unchanged) -> list[Section]:
    """Return the tables of all boards in a fixed order; none where there are floors and trials alone."""
    cells = group(record for record in records if record["division"] in DIVISIONS)
    cells.sort(
        key=lambda cell: (cell.setting._replace(division=str(DIVISIONS.index(cell.setting.division))), cell.entry)
    )
    by_id = {record["id"]: record for record in records}
    return [
        _section(list(of_setting), by_id, changed) for _, of_setting in groupby(cells, key=lambda cell: cell.setting)
    ]


def columns_of(records: Iterable[Record]) -> list[Column]:
    """Return the evaluations present, those that rank first, then by name; the newest version of each first."""
    present = {Column(name, result["version"]) for record in records for name, result in record["metrics"].items()}
    leading = list(LEADING)

    def order(column: Column) -> tuple[int, str, int]:
        place = leading.index(column.evaluation) if column.evaluation in LEADING else len(leading)
        return place, column.evaluation, -column.version

    return sorted(present, key=order)


def result(run: Record, column: Column) -> Metrics | None:
    """Return the metrics of a run in a column."""
    found = run["metrics"].get(column.evaluation)
    return found if found and found["version"] == column.version else None


def _section(cells: Sequence[Cell], by_id: Mapping[str, Record], changed: Changed) -> Section:
    runs = [run for cell in cells for run in cell.runs]
    named = sorted({identity for run in runs for identity in run["floors"]})
    floors = group(by_id[identity] for identity in named if identity in by_id)
    columns = columns_of(runs)
    ranked = [cell for cell in cells if columns and _is_ranked(cell, columns[0])]
    unranked = [cell for cell in cells if cell not in ranked]
    comparisons = [_compare(ranked, column) for column in columns]
    ranking = comparisons[0] if ranked else None
    if ranking:
        ranked.sort(key=lambda cell: (-ranking.means[cell.entry], cell.entry))
    every = [*ranked, *unranked, *floors]
    names = _names(every)
    lines = []
    for cell, line_name in zip(every, names, strict=True):
        is_floor = cell in floors
        own = [None] * len(columns) if is_floor else comparisons
        values = [_value(cell, column, comparison) for column, comparison in zip(columns, own, strict=True)]
        lines.append(
            Line(
                cell=cell,
                name=line_name,
                is_floor=is_floor,
                rank=None if is_floor or ranking is None else ranking.ranks.get(cell.entry),
                values=tuple(values),
                cost=_cost(cell),
                endings=_endings(cell),
                stale=tuple(sorted({part for run in cell.runs for part in changed(run)})),
            )
        )
    missing = tuple(identity for identity in named if identity not in by_id)
    chosen_by = sorted({identity for run in runs if run["tuning"] for identity in run["tuning"]["trials"]})
    trials = tuple(by_id[identity] for identity in chosen_by if identity in by_id)
    return Section(cells[0].setting, tuple(columns), tuple(lines), ranking, missing, trials)


def _names(cells: Sequence[Cell]) -> list[str]:
    """Return the names of lines: the method and what was varied; of several such, what was set to another value."""
    names = []
    for cell in cells:
        others = [other for other in cells if (other.method, other.varied) == (cell.method, cell.varied)]
        details = [cell.varied, _apart(cell, others) if len(others) > 1 else ""]
        details = [part for part in details if part]
        names.append(f"{cell.method} ({', '.join(details)})" if details else cell.method)
    return names


def _apart(cell: Cell, others: Sequence[Cell]) -> str:
    """Return the bindings that tell a configuration from others; its key where these do not, or are too many."""
    texts = [canonical(other.runs[0]["config"]["text"]) for other in others]
    counting = sorted(set().union(*(text.counting for text in texts)))
    differing = [name for name in counting if len({text.lines.get(name) for text in texts}) > 1]
    points = [[f"{name} = {text.lines[name]}" for name in differing if name in text.lines] for text in texts]
    own = points[others.index(cell)]
    return ", ".join(own) if points.count(own) == 1 and len(differing) <= MOST_BINDINGS else cell.key[:8]


def _scores(cell: Cell, column: Column) -> dict[int, float]:
    results = {run["seed"]: result(run, column) for run in cell.runs}
    return {seed: found["top1"] for seed, found in results.items() if found}


def _is_ranked(cell: Cell, column: Column) -> bool:
    return len(_scores(cell, column)) == len(cell.runs) and not any(run["status"] in UNRANKED for run in cell.runs)


def _compare(cells: Sequence[Cell], column: Column) -> Ranking | None:
    """Compare the cells of which every run has this evaluation."""
    scores = {cell.entry: _scores(cell, column) for cell in cells if _is_ranked(cell, column)}
    return compare(scores) if scores else None


def _value(cell: Cell, column: Column, comparison: Ranking | None) -> Value | None:
    scores = _scores(cell, column)
    if not scores:
        return None
    results = [found for run in cell.runs if (found := result(run, column))]
    standing: Literal["best", "tied", ""] = ""
    if comparison and comparison.seeds and cell.entry in comparison.ranks:
        if comparison.means[cell.entry] == max(comparison.means.values()):
            standing = "best"
        elif comparison.ranks[cell.entry][0] == 1:
            standing = "tied"
    return Value(
        summary=summarise(list(scores.values())),
        macro_f1=fmean(found["macro_f1"] for found in results),
        standing=standing,
        flags=tuple(_merged(flag for found in results for flag in found["flags"])),
        is_uneven=comparison is not None and cell.entry in comparison.uneven,
    )


def _merged(flags: Iterable[str]) -> list[str]:
    """Return the warnings, each once; what several draws of the training data have in common is said once."""
    draws: dict[str, set[int]] = defaultdict(set)
    for flag in flags:
        of_draw = re.fullmatch(r"draw (\d+): (.+)", flag)
        draws[of_draw[2] if of_draw else flag] |= {int(of_draw[1])} if of_draw else set()
    return [
        f"draw{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}: {text}" if numbers else text
        for text, numbers in draws.items()
    ]


def _joined(deviations: Sequence[str]) -> list[str]:
    """Return the sentences, with those whole again that early records cut after an abbreviation."""
    whole: list[str] = []
    for text in deviations:
        name, colon, rest = text.partition(": ")
        if whole and colon and whole[-1].startswith(f"{name}: ") and whole[-1].endswith(ABBREVIATIONS):
            whole[-1] += f" {rest}"
        else:
            whole.append(text)
    return whole


def _cost(cell: Cell) -> Cost:
    costs = [run["cost"] for run in cell.runs]
    memory = [cost["peak_memory_bytes"] for cost in costs if cost["peak_memory_bytes"] is not None]
    return Cost(
        images=fmean(cost["images"] for cost in costs),
        flops=fmean(cost["flops"] for cost in costs),
        device_seconds=fmean(cost["train_seconds"] * cost["devices"] for cost in costs),
        peak_bytes=max(memory) if memory else None,
    )


def _endings(cell: Cell) -> dict[str, int]:
    """Count the runs that did not end well, by how they ended."""
    counts = Counter(run["status"].replace("_", " ") for run in cell.runs if run["status"] != "ok")
    counts["collapsed"] = sum(bool(run["training"]["collapsed"]) for run in cell.runs)
    return {status: count for status, count in sorted(counts.items()) if count}
