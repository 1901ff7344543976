"""Leaderboards in Markdown, and the plain-text table that a finished run prints, as pure functions of records.

The same records give the same bytes, so that a stale page can be found by comparison. For that reason the Markdown
tables are joined here: the widths that tabulate pads to depend on its version and on optional packages.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from tabulate import tabulate

from benchmark.report.record import Metrics, Record
from benchmark.report.statistics import Comparison, compare, summarise
from benchmark.report.store import Cell, Setting, group, hardware

LEADING = {"linear": "linear", "knn": "kNN"}  # the evaluations that come first, and rank, and their headings
UNRANKED = ("overtime", "budget_miss")  # runs that spent another budget than the rest of their table
TERA = 1e12
Ranking = Comparison[tuple[str, str]]  # of cells by their entry
ESCAPED = {ord(character): f"\\{character}" for character in "\\`*_[]|~$"} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
}
INTRODUCTION = """\
<!-- Written by `python -m benchmark.tables` from the records in this folder: do not edit. -->
# Results

"""
EMPTY = """\
There are no records yet. A run that is published writes its record, and those of its floors, into the folder of a
board; then the tables are made from the records:

```
python -m benchmark.run --gin gin/<method>.gin --publish results/<board>
python -m benchmark.tables
```
"""
READING = """\
Top-1 accuracy on the test set in %, as mean ± half width of the 95 % t interval over seeds; a single seed has no
interval. Each column head names the version of the evaluation. The best mean is **bold**; <u>underlined</u> means are
not distinguishable from it (Tukey's range test at 5 %, seeds as blocks), and ranks are given as the range that this
leaves. Runs that diverged or collapsed count as they are. A method is not ranked if a run lacks the ranking
evaluation or missed the budget. Floors, in italics, are encoders without pretraining.
"""


class Column(NamedTuple):
    """One evaluation in one version of its protocol; versions never share a column."""

    evaluation: str
    version: int

    @property
    def heading(self) -> str:
        return f"{LEADING.get(self.evaluation, self.evaluation)} v{self.version}"


def render(records: Sequence[Record]) -> str:
    """Return the page with one table for each setting, or with the way to the first record."""
    cells = group(record for record in records if record["division"] != "floor")
    if not cells:
        return INTRODUCTION + EMPTY
    by_id = {record["id"]: record for record in records}
    parts = [INTRODUCTION + READING]
    for board, of_board in groupby(cells, key=lambda cell: cell.setting.board):
        parts.append(f"## {_escape(board or 'Single runs')}\n")
        parts.extend(_section(list(of_setting), by_id) for _, of_setting in groupby(of_board, key=_setting_of))
    return "\n".join(parts)


def row(record: Record, floors: Sequence[Record]) -> str:
    """Return a plain-text table with a line for the run and one for each floor: top-1 and macro-F1 in %, and cost."""
    columns = _columns([record, *floors])
    headings = ["method", *(column.heading for column in columns)]
    if columns:
        headings.append(f"{columns[0].heading} macro-F1")
    lines = []
    for run in [record, *floors]:
        results = [_result(run, column) for column in columns]
        lines.append(
            [
                _printable(run["method"]["name"]),
                *(_percent(result and result["top1"]) for result in results),
                *(_percent(result and result["macro_f1"]) for result in results[:1]),
                f"{run['cost']['images']:,}",
                f"{run['cost']['flops'] / TERA:,.3f}",
                f"{run['cost']['train_seconds']:,.1f}",
            ]
        )
    headings = [_printable(heading) for heading in [*headings, "images", "TFLOPs", "seconds"]]
    alignment = ["left"] + ["right"] * (len(headings) - 1)
    return tabulate(lines, headings, tablefmt="simple", disable_numparse=True, colalign=alignment)


def _section(cells: Sequence[Cell], by_id: Mapping[str, Record]) -> str:
    """Return heading, caption, table and notes of the cells of one setting."""
    runs = [run for cell in cells for run in cell.runs]
    named = sorted({identity for run in runs for identity in run["floors"]})
    floors = group(by_id[identity] for identity in named if identity in by_id)
    columns = _columns(runs)
    ranked = [cell for cell in cells if columns and _is_ranked(cell, columns[0])]
    unranked = [cell for cell in cells if cell not in ranked]
    comparisons = {column: _compare(ranked, column) for column in columns}
    ranking = comparisons[columns[0]] if ranked else None
    if ranking:
        ranked.sort(key=lambda cell: (-ranking.means[cell.entry], cell.entry))

    every = [*ranked, *unranked, *floors]
    unit, divisor = _flops_unit(run["cost"]["flops"] for run in runs)
    repeated = {entry for entry, count in Counter((cell.method, cell.varied) for cell in every).items() if count > 1}
    footnotes: dict[str, int] = {}
    lines = []
    for cell in every:
        name = _escape(_name(cell, repeated))
        name += _marks((text for run in cell.runs for text in run["method"]["deviations"]), footnotes)
        if cell in floors:
            values = [f"*{value}*" if value else "" for value in (_value(cell, column) for column in columns)]
            start, costs = ["", f"*{name}*"], [""] * 4
        else:
            values = [_emphasise(_value(cell, column), cell.entry, comparisons[column]) for column in columns]
            start, costs = [_rank(cell.entry, ranking), name], _costs(cell, divisor)
        values = [
            value + _marks(_flags(cell, column), footnotes) for value, column in zip(values, columns, strict=True)
        ]
        lines.append([*start, *values, *costs, *_seeds(cell)])

    headings = ["rank", "method", *(_escape(column.heading) for column in columns)]
    headings += ["images", unit, "device minutes", "peak GiB", "seeds", "notes"]
    notes = [f"{number}. {text}" for text, number in footnotes.items()]
    table = _markdown(headings, lines)
    remarks = _remarks(ranking, every, [identity for identity in named if identity not in by_id])
    blocks = [f"### {_title(cells[0].setting)}", _caption(runs, columns), table, "\n".join(notes), remarks]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _name(cell: Cell, repeated: Container[tuple[str, str]]) -> str:
    """Return the method with the bindings that were varied, and with its key where that does not tell it apart."""
    details = [part for part in (cell.varied, cell.key[:8] if (cell.method, cell.varied) in repeated else "") if part]
    return f"{cell.method} ({', '.join(details)})" if details else cell.method


def _setting_of(cell: Cell) -> Setting:
    return cell.setting


def _columns(records: Iterable[Record]) -> list[Column]:
    """Return the evaluations present, those that rank first, then by name; the newest version of each first."""
    present = {Column(name, result["version"]) for record in records for name, result in record["metrics"].items()}
    leading = list(LEADING)

    def order(column: Column) -> tuple[int, str, int]:
        place = leading.index(column.evaluation) if column.evaluation in LEADING else len(leading)
        return place, column.evaluation, -column.version

    return sorted(present, key=order)


def _result(run: Record, column: Column) -> Metrics | None:
    result = run["metrics"].get(column.evaluation)
    return result if result and result["version"] == column.version else None


def _scores(cell: Cell, column: Column) -> dict[int, float]:
    results = {run["seed"]: _result(run, column) for run in cell.runs}
    return {seed: result["top1"] for seed, result in results.items() if result}


def _flags(cell: Cell, column: Column) -> list[str]:
    results = (_result(run, column) for run in cell.runs)
    return [f"{column.heading}: {flag}" for result in results if result for flag in result["flags"]]


def _is_ranked(cell: Cell, column: Column) -> bool:
    return len(_scores(cell, column)) == len(cell.runs) and not any(run["status"] in UNRANKED for run in cell.runs)


def _compare(cells: Sequence[Cell], column: Column) -> Ranking | None:
    """Compare the cells of which every run has this evaluation."""
    scores = {cell.entry: _scores(cell, column) for cell in cells if _is_ranked(cell, column)}
    return compare(scores) if scores else None


def _value(cell: Cell, column: Column) -> str:
    scores = _scores(cell, column)
    if not scores:
        return ""
    summary = summarise(list(scores.values()))
    if summary.half_width is None:
        return f"{_percent(summary.mean)} (1 seed)"
    return f"{_percent(summary.mean)} ± {_percent(summary.half_width)}"


def _rank(entry: tuple[str, str], ranking: Ranking | None) -> str:
    if ranking is None or entry not in ranking.ranks:
        return ""
    first, last = ranking.ranks[entry]
    return str(first) if first == last else f"{first}-{last}"


def _emphasise(value: str, entry: tuple[str, str], comparison: Ranking | None) -> str:
    if comparison is None or entry not in comparison.ranks:
        return value
    if comparison.means[entry] == max(comparison.means.values()):
        return f"**{value}**"
    return f"<u>{value}</u>" if comparison.ranks[entry][0] == 1 else value


def _costs(cell: Cell, divisor: float) -> list[str]:
    """Return images, FLOPs and device minutes as means over runs, and the highest peak memory in GiB."""
    costs = [run["cost"] for run in cell.runs]
    memory = [cost["peak_memory_bytes"] for cost in costs if cost["peak_memory_bytes"] is not None]
    return [
        f"{fmean(cost['images'] for cost in costs):,.0f}",
        f"{fmean(cost['flops'] for cost in costs) / divisor:.2f}",
        f"{fmean(cost['train_seconds'] * cost['devices'] for cost in costs) / 60:,.1f}",
        f"{max(memory) / 2**30:.2f}" if memory else "n/a",
    ]


def _seeds(cell: Cell) -> list[str]:
    """Return the number of runs, and how many of them did not end well."""
    counts = Counter(run["status"].replace("_", " ") for run in cell.runs if run["status"] != "ok")
    counts["collapsed"] = sum(bool(run["training"]["collapsed"]) for run in cell.runs)
    return [str(len(cell.runs)), ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if count)]


def _title(setting: Setting) -> str:
    if setting.budget == "flops":
        unit, divisor = _flops_unit([setting.amount])
        amount = f"{setting.amount / divisor:.2f} {unit}"
    elif setting.budget:
        amount = f"{setting.amount:,.0f} {'images' if setting.budget == 'samples' else 'device seconds'}"
    else:
        amount = "unknown budgets"
    division = "" if setting.division == "closed" else f", {setting.division} division"
    return _escape(f"{setting.dataset}, {setting.encoder}, {amount}{division}")


def _caption(runs: Sequence[Record], columns: Sequence[Column]) -> str:
    dataset, encoder = runs[0]["dataset"], runs[0]["encoder"]
    shape = [f"{encoder['image_size']} px"]
    if encoder["patch"] is not None:
        shape.append(f"patch {encoder['patch']}")
    if encoder["stem"] is not None:
        shape.append(f"stem {encoder['stem']}")
    sentences = [
        f"Encoder: {', '.join(shape)}, {encoder['parameters']:,} parameters.",
        f"Data: {dataset['classes']} classes, {dataset['sizes']['test']:,} test images, "
        f"fingerprint {dataset['fingerprint'][:8]}.",
        f"Hardware: {', '.join(sorted({hardware(run) for run in runs}))}.",
    ]
    if columns:
        sentences.insert(0, f"Ranked by {columns[0].heading}.")
    return _escape(" ".join(sentences))


def _remarks(ranking: Ranking | None, cells: Sequence[Cell], missing: Sequence[str]) -> str:
    """Return what a reader must know about the choice of runs: seeds compared, runs left out, floors not found."""
    sentences = []
    if ranking and len(ranking.ranks) > 1:
        ranked = [cell for cell in cells if cell.entry in ranking.ranks]
        if not ranking.seeds:
            sentences.append("Ranks follow the means alone: the methods share fewer than two seeds.")
        elif any(len(cell.runs) != len(ranking.seeds) for cell in ranked):
            sentences.append(f"Ranks compare the seeds that all share: {', '.join(map(str, ranking.seeds))}.")
    superseded = sorted(run["id"] for cell in cells for run in cell.superseded)
    if superseded:
        sentences.append(f"Replaced by newer runs of the same configuration and seed: {', '.join(superseded)}.")
    if missing:
        sentences.append(f"Floors named but not found: {', '.join(_escape(identity) for identity in missing)}.")
    return " ".join(sentences)


def _marks(texts: Iterable[str], footnotes: dict[str, int]) -> str:
    """Return superscript numbers of the texts, adding those that are new to the footnotes."""
    unique = dict.fromkeys(_escape(text) for text in texts)
    numbers = sorted(footnotes.setdefault(text, len(footnotes) + 1) for text in unique)
    return f" <sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""


def _flops_unit(amounts: Iterable[float]) -> tuple[str, float]:
    """Return the unit in which the largest amount is at least 1, and its size in FLOPs."""
    largest = max(amounts)
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", TERA)):
        if largest >= size:
            return f"{prefix}FLOPs", size
    return "GFLOPs", 1e9


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    left = ("method", "notes")
    ruler = [":--" if heading in left else "--:" for heading in headings]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ruler, *lines])


def _printable(text: str) -> str:
    """Replace control characters, line ends and marks of writing direction by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escape(text: str) -> str:
    """Make any text inert in a cell, heading or paragraph of Markdown."""
    return _printable(text).translate(ESCAPED)
