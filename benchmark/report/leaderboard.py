"""The boards as data: which lines each table has, in which order, and which differences are significant.

Markdown, LaTeX, CSV and JSON are functions of these sections, which are functions of the records alone.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Literal

from benchmark.report.cells import UNRANKED, Cell, group
from benchmark.report.naming import dated, names
from benchmark.report.record import Record, pretrained, pretrained_on
from benchmark.report.section import Column, Cost, Line, Ranking, Section, Value, columns_of, ranking_score, result
from benchmark.report.statistics import compare, summarise

DIVISIONS = ("tuned", "closed", "open")  # boards lead with tuned learning rates
SMOKE = {"digits": "The digits are a smoke set: raw pixels reach 97 %, so these numbers rank nothing."}
Changed = Callable[[Record], Collection[str]]  # returns the parts of the code that have changed since a record


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
    texts = {run["training"]["digest"]: run["config"]["text"] for run in records if pretrained(run)}
    known = {digest: text for digest, text in texts.items() if digest is not None}
    return [_section(list(of_setting), by_id, changed, versioned, known) for _, of_setting in by_setting]


def _section(
    cells: Sequence[Cell],
    by_id: Mapping[str, Record],
    changed: Changed,
    versioned: frozenset[str],
    texts: Mapping[str, str],
) -> Section:
    current = [cell for cell in cells if not _stale(cell, changed)]
    if all(is_reference(cell.runs[0]) for cell in current):
        current = list(cells)
    runs = [run for cell in current for run in cell.runs]
    floor_ids = sorted({identity for run in runs for identity in run["floors"]})
    measured = group(by_id[identity] for identity in floor_ids if identity in by_id)
    floors = sorted(measured, key=lambda cell: cell.runs[0]["method"]["name"])
    columns = columns_of(runs)
    references = [cell for cell in current if is_reference(cell.runs[0])]
    methods = [cell for cell in current if cell not in references]
    ranked = [cell for cell in methods if columns and _is_ranked(cell, columns[0])]
    comparisons = [_compare(ranked, column) for column in columns]
    ranking = comparisons[0] if ranked else None
    if ranking:
        ranked.sort(key=lambda cell: (-ranking.means[cell.entry], cell.entry))
    ordered = [*ranked, *(cell for cell in methods if cell not in ranked), *references, *floors]

    def lines(cells: Sequence[Cell], texts: Sequence[str], comparisons: Sequence[Ranking | None]) -> Iterator[Line]:
        for cell, name in zip(cells, texts, strict=True):
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
                stale=_stale(cell, changed),
            )

    missing = tuple(identity for identity in floor_ids if identity not in by_id)
    trial_ids = sorted({identity for run in runs if run["tuning"] for identity in run["tuning"]["trials"]})
    earlier = [*(cell for cell in cells if cell not in current), *_replaced([*cells, *floors])]
    return Section(
        setting=cells[0].setting,
        columns=tuple(columns),
        lines=tuple(lines(ordered, names(ordered), comparisons)),
        earlier=tuple(lines(earlier, [dated(cell) for cell in earlier], [None] * len(columns))),
        ranking=ranking,
        missing_floors=missing,
        trials=tuple(by_id[identity] for identity in trial_ids if identity in by_id),
        versioned=versioned,
        texts=texts,
    )


def _stale(cell: Cell, changed: Changed) -> tuple[str, ...]:
    """Return the parts of the code that have changed since any run of a cell."""
    return tuple(sorted({part for run in cell.runs for part in changed(run)}))


def _replaced(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Yield the cells of the runs that others replaced, then those of the runs that these had replaced, and so on."""
    while cells := group(record for cell in cells for record in cell.superseded):
        yield from cells


def _scores(cell: Cell, column: Column) -> dict[int, float]:
    """Return the score by seed."""
    return {run["seed"]: ranking_score(metrics) for run in cell.runs if (metrics := result(run, column))}


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
    if comparison and cell.entry in comparison.seeds:
        best = max(comparison.seeds, key=comparison.means.__getitem__)
        if comparison.means[cell.entry] == comparison.means[best]:
            standing = "best"
        elif not comparison.is_above(best, cell.entry):
            standing = "tied"
    return Value(
        summary=summarise([ranking_score(metrics) for metrics in results]),
        macro_f1=fmean(metrics["macro_f1"] for metrics in results),
        standing=standing,
        flags=tuple(_merged(flag for metrics in results for flag in metrics["flags"])),
        is_uneven=comparison is not None and cell.entry in comparison.uneven,
    )


def _merged(flags: Iterable[str]) -> Iterator[str]:
    """Yield each warning once, with the numbers of all draws of the training data that it concerns."""
    draws: dict[str, set[str]] = defaultdict(set)
    for flag in flags:
        of_draw = re.fullmatch(r"draw (\d{1,9}): (.+)", flag)
        draws[of_draw[2] if of_draw else flag].update([of_draw[1]] if of_draw else [])
    for text, numbers in draws.items():
        prefix = f"draw{'s' * (len(numbers) > 1)} {', '.join(sorted(numbers, key=int))}: "
        yield f"{prefix}{text}" if numbers else text


def _cost(cell: Cell) -> Cost:
    costs = [run["cost"] for run in cell.runs]
    return Cost(
        images=fmean(cost["images"] for cost in costs),
        epochs=fmean(run["cost"]["images"] / pretrained_on(run)["images"] for run in cell.runs),
        flops=fmean(cost["flops"] for cost in costs),
        device_seconds=fmean(cost["train_seconds"] * cost["devices"] for cost in costs),
        peak_bytes=max((peak for cost in costs if (peak := cost["peak_memory_bytes"]) is not None), default=None),
    )


def _endings(cell: Cell) -> dict[str, int]:
    """Count the runs that did not end well, by how they ended."""
    counts = Counter(run["status"].replace("_", " ") for run in cell.runs if run["status"] != "ok")
    counts["collapsed"] = sum(bool(run["training"]["collapsed"]) for run in cell.runs)
    return {status: count for status, count in sorted(counts.items()) if count}
