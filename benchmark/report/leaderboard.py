"""The boards as data: which lines each table has, in which order, and which differences are significant.

Markdown, LaTeX, CSV and JSON are functions of these sections, which are functions of the records alone.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Literal, NamedTuple

from benchmark.report.cells import UNRANKED, Cell, Setting, by_age, group
from benchmark.report.fields import Metrics
from benchmark.report.identity import canonical
from benchmark.report.record import Record
from benchmark.report.statistics import Comparison, Summary, compare, summarise

LEADING = {  # headings of the evaluations that come first; the first one present ranks
    "linear": "linear",
    "knn": "kNN",
    "semi_probe_1": "1 % labels",
    "semi_probe_10": "10 % labels",
    "finetune": "fine-tuned",
    "semi_finetune_1": "fine-tuned on 1 %",
    "semi_finetune_10": "fine-tuned on 10 %",
}
DIVISIONS = ("tuned", "closed", "open")  # boards lead with tuned learning rates
SMOKE = {"digits": "The digits are a smoke set: raw pixels reach 97 %, so these numbers rank nothing."}
MOST_BINDINGS = 3  # in the name of a line
ABBREVIATIONS = (" Eq.", " et al.")  # that do not end a sentence
Changed = Callable[[Record], Collection[str]]  # returns the parts of the code that have changed since a record
Ranking = Comparison[tuple[str, str]]  # of cells by their entry


class Column(NamedTuple):
    """One version of an evaluation; versions never share a column."""

    evaluation: str
    version: int

    @property
    def name(self) -> str:
        return LEADING.get(self.evaluation, self.evaluation)

    @property
    def heading(self) -> str:
        return f"{self.name} v{self.version}"


@dataclass(frozen=True)
class Value:
    """The top-1 of a line in a column over seeds, whether it is the best or tied with it, and warnings.

    `macro_f1` is the mean over the runs. `is_uneven` says that the top-1 spreads so much more than others in the column
    that ties are less certain.
    """

    summary: Summary
    macro_f1: float
    standing: Literal["best", "tied", ""]
    flags: tuple[str, ...]
    is_uneven: bool


@dataclass(frozen=True)
class Cost:
    """Means over the runs of a line, and the highest peak memory, None where no run knows it.

    `epochs` are images seen, by a teacher too, over those of the split to pretrain on.
    """

    images: float
    epochs: float
    flops: float
    device_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Line:
    """A method or a floor: its name, the range of its rank, a value per column, its cost, and how its runs ended.

    A `is_reference` line learnt from labels; it is compared with by eye, never ranked.
    """

    cell: Cell
    name: str
    is_floor: bool
    is_reference: bool
    rank: tuple[int, int] | None
    values: tuple[Value | None, ...]
    cost: Cost
    endings: dict[str, int]
    stale: tuple[str, ...]

    @property
    def place(self) -> str:
        """The rank in words: 2, or 2-4 for a range of ranks, or nothing for a line that is not ranked."""
        if self.rank is None:
            return ""
        first, last = self.rank
        return str(first) if first == last else f"{first}-{last}"

    @property
    def is_beside(self) -> bool:
        """Whether it stands beside the methods, in italics: a floor or a reference."""
        return self.is_floor or self.is_reference

    @property
    def rate_factor(self) -> float | None:
        """The learning rate that its trials chose, as a multiple of the recipe's; None where none was chosen."""
        tuning = self.cell.runs[0]["tuning"]
        return tuning["factor"] if tuning else None

    @property
    def deviations(self) -> list[str]:
        """How its runs differ from the paper, each sentence once."""
        return list(dict.fromkeys(text for run in self.cell.runs for text in _sentences(run["method"]["deviations"])))


@dataclass(frozen=True)
class Section:
    """One table: the lines of one setting, and the trials that chose their learning rates.

    `earlier` lines are not ranked: those that newer runs have replaced and, beside lines of today's code, those that
    code of an earlier Major version made. `versioned` are the evaluations that have several versions on the page.
    """

    setting: Setting
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    earlier: tuple[Line, ...]
    ranking: Ranking | None
    missing_floors: tuple[str, ...]
    trials: tuple[Record, ...]
    versioned: frozenset[str]

    def heading(self, column: Column) -> str:
        """Return the name of an evaluation, with its version only where the page has several."""
        return column.heading if column.evaluation in self.versioned else column.name

    @property
    def runs(self) -> list[Record]:
        """The runs of the methods or, where a table has none, of the references."""
        of_methods = [run for line in self.lines if not line.is_beside for run in line.cell.runs]
        return of_methods or [run for line in self.lines if line.is_reference for run in line.cell.runs]


def is_reference(record: Record) -> bool:
    """Return whether the encoder of a record learnt from labels."""
    return record["method"].get("supervised", False)


def unchanged(record: Record) -> Sequence[str]:
    """Say of every record that its code is unchanged."""
    return ()


def sections(records: Sequence[Record], changed: Changed = unchanged) -> list[Section]:
    """Return the tables of all boards in a fixed order; none where there are only floors and trials."""
    cells = group(record for record in records if record["division"] in DIVISIONS)
    cells.sort(
        key=lambda cell: (cell.setting._replace(division=str(DIVISIONS.index(cell.setting.division))), cell.entry)
    )
    by_id = {record["id"]: record for record in records}
    by_setting = groupby(cells, key=lambda cell: cell.setting)
    columns = columns_of(run for cell in cells for run in cell.runs)
    versions = Counter(column.evaluation for column in columns)
    versioned = frozenset(name for name, count in versions.items() if count > 1)
    return [_section(list(of_setting), by_id, changed, versioned) for _, of_setting in by_setting]


def columns_of(records: Iterable[Record]) -> list[Column]:
    """Return the evaluations present: leading ones first, then by name; the newest version of each first."""
    present = {Column(name, result["version"]) for record in records for name, result in record["metrics"].items()}
    leading = list(LEADING)

    def order(column: Column) -> tuple[int, str, int]:
        place = leading.index(column.evaluation) if column.evaluation in LEADING else len(leading)
        return place, column.evaluation, -column.version

    return sorted(present, key=order)


def result(run: Record, column: Column) -> Metrics | None:
    """Return the metrics of a run in a column."""
    metrics = run["metrics"].get(column.evaluation)
    return metrics if metrics and metrics["version"] == column.version else None


def _section(
    cells: Sequence[Cell], by_id: Mapping[str, Record], changed: Changed, versioned: frozenset[str]
) -> Section:
    stale = {cell.entry: tuple(sorted({part for run in cell.runs for part in changed(run)})) for cell in cells}
    current = [cell for cell in cells if not stale[cell.entry]]
    if all(is_reference(cell.runs[0]) for cell in current):
        current = list(cells)
    runs = [run for cell in current for run in cell.runs]
    floor_ids = sorted({identity for run in runs for identity in run["floors"]})
    floors = group(by_id[identity] for identity in floor_ids if identity in by_id)
    columns = columns_of(runs)
    references = [cell for cell in current if is_reference(cell.runs[0])]
    methods = [cell for cell in current if cell not in references]
    ranked = [cell for cell in methods if columns and _is_ranked(cell, columns[0])]
    comparisons = [_compare(ranked, column) for column in columns]
    ranking = comparisons[0] if ranked else None
    if ranking:
        ranked.sort(key=lambda cell: (-ranking.means[cell.entry], cell.entry))
    ordered = [*ranked, *(cell for cell in methods if cell not in ranked), *references, *floors]

    def lines(cells: Sequence[Cell], names: Sequence[str], comparisons: Sequence[Ranking | None]) -> Iterator[Line]:
        for cell, name in zip(cells, names, strict=True):
            is_floor = cell.setting.division == "floor"
            is_beside = is_floor or is_reference(cell.runs[0])
            pairs = zip(columns, comparisons, strict=True)
            yield Line(
                cell=cell,
                name=name,
                is_floor=is_floor,
                is_reference=is_beside and not is_floor,
                rank=comparisons[0].ranks.get(cell.entry) if comparisons and comparisons[0] and not is_beside else None,
                values=tuple(_value(cell, column, None if is_beside else comparison) for column, comparison in pairs),
                cost=_cost(cell),
                endings=_endings(cell),
                stale=tuple(sorted({part for run in cell.runs for part in changed(run)})),
            )

    missing = tuple(identity for identity in floor_ids if identity not in by_id)
    trial_ids = sorted({identity for run in runs if run["tuning"] for identity in run["tuning"]["trials"]})
    earlier = [*(cell for cell in cells if cell not in current), *_replaced([*cells, *floors])]
    return Section(
        setting=cells[0].setting,
        columns=tuple(columns),
        lines=tuple(lines(ordered, _names(ordered), comparisons)),
        earlier=tuple(lines(earlier, [_dated(cell) for cell in earlier], [None] * len(columns))),
        ranking=ranking,
        missing_floors=missing,
        trials=tuple(by_id[identity] for identity in trial_ids if identity in by_id),
        versioned=versioned,
    )


def _replaced(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Yield the cells of the runs that others replaced, then those of the runs that these had replaced, and so on."""
    while cells := group(record for cell in cells for record in cell.superseded):
        yield from cells


def _names(cells: Sequence[Cell]) -> list[str]:
    """Return the names of lines: the method, what was varied, and what else differs where that is not unique."""
    names = []
    for cell in cells:
        others = [other for other in cells if (other.method, other.varied) == (cell.method, cell.varied)]
        details = ", ".join(filter(None, [cell.varied, _differences(cell, others) if len(others) > 1 else ""]))
        names.append(f"{cell.method} ({details})" if details else cell.method)
    return names


def _dated(cell: Cell) -> str:
    """Return the name of an earlier line: the method, what was varied, and the day of its newest run."""
    day = by_age(cell.runs)[-1]["created_utc"][:10]
    return f"{cell.method} ({', '.join(filter(None, [cell.varied, day]))})"


def _differences(cell: Cell, others: Sequence[Cell]) -> str:
    """Return the bindings in which a configuration differs from others, or its key where these say too little."""
    texts = [canonical(other.runs[0]["config"]["text"]) for other in others]
    counting = sorted(set().union(*(text.counting for text in texts)))
    differing = [name for name in counting if len({text.lines.get(name) for text in texts}) > 1]
    bindings = [[f"{name} = {text.lines[name]}" for name in differing if name in text.lines] for text in texts]
    of_cell = bindings[others.index(cell)]
    is_clear = bindings.count(of_cell) == 1 and len(differing) <= MOST_BINDINGS
    return ", ".join(of_cell) if is_clear else cell.key[:8]


def _scores(cell: Cell, column: Column) -> dict[int, float]:
    """Return the top-1 by seed."""
    return {run["seed"]: metrics["top1"] for run in cell.runs if (metrics := result(run, column))}


def _is_ranked(cell: Cell, column: Column) -> bool:
    return len(_scores(cell, column)) == len(cell.runs) and not any(run["status"] in UNRANKED for run in cell.runs)


def _compare(cells: Sequence[Cell], column: Column) -> Ranking | None:
    """Compare the cells of which every run has this evaluation."""
    scores = {cell.entry: _scores(cell, column) for cell in cells if _is_ranked(cell, column)}
    return compare(scores) if scores else None


def _value(cell: Cell, column: Column, comparison: Ranking | None) -> Value | None:
    results = [metrics for run in cell.runs if (metrics := result(run, column))]
    if not results:
        return None
    standing: Literal["best", "tied", ""] = ""
    if comparison and comparison.seeds and cell.entry in comparison.ranks:
        if comparison.means[cell.entry] == max(comparison.means.values()):
            standing = "best"
        elif comparison.ranks[cell.entry][0] == 1:
            standing = "tied"
    return Value(
        summary=summarise([metrics["top1"] for metrics in results]),
        macro_f1=fmean(metrics["macro_f1"] for metrics in results),
        standing=standing,
        flags=tuple(_merged(flag for metrics in results for flag in metrics["flags"])),
        is_uneven=comparison is not None and cell.entry in comparison.uneven,
    )


def _merged(flags: Iterable[str]) -> Iterator[str]:
    """Yield each warning once, with the numbers of all draws of the training data that it concerns."""
    draws: dict[str, set[str]] = defaultdict(set)
    for flag in flags:
        of_draw = re.fullmatch(r"draw (\d+): (.+)", flag)
        draws[of_draw[2] if of_draw else flag].update([of_draw[1]] if of_draw else [])
    for text, numbers in draws.items():
        prefix = f"draw{'s' * (len(numbers) > 1)} {', '.join(sorted(numbers, key=int))}: "
        yield f"{prefix}{text}" if numbers else text


def _sentences(deviations: Sequence[str]) -> list[str]:
    """Return the sentences of deviations; early records split some after an abbreviation, which is mended here."""
    sentences: list[str] = []
    for text in deviations:
        name, colon, rest = text.partition(": ")
        if sentences and colon and sentences[-1].startswith(f"{name}: ") and sentences[-1].endswith(ABBREVIATIONS):
            sentences[-1] += f" {rest}"
        else:
            sentences.append(text)
    return sentences


def _cost(cell: Cell) -> Cost:
    costs = [run["cost"] for run in cell.runs]
    return Cost(
        images=fmean(cost["images"] for cost in costs),
        epochs=fmean(run["cost"]["images"] / run["dataset"]["sizes"]["pretrain"] for run in cell.runs),
        flops=fmean(cost["flops"] for cost in costs),
        device_seconds=fmean(cost["train_seconds"] * cost["devices"] for cost in costs),
        peak_bytes=max((peak for cost in costs if (peak := cost["peak_memory_bytes"]) is not None), default=None),
    )


def _endings(cell: Cell) -> dict[str, int]:
    """Count the runs that did not end well, by how they ended."""
    counts = Counter(run["status"].replace("_", " ") for run in cell.runs if run["status"] != "ok")
    counts["collapsed"] = sum(bool(run["training"]["collapsed"]) for run in cell.runs)
    return {status: count for status, count in sorted(counts.items()) if count}
