"""Leaderboards in Markdown, and the plain-text table that a finished run prints, as pure functions of records.

The same records give the same bytes, so that a stale page can be found by comparison. For that reason the Markdown
tables are joined here: the widths that tabulate pads to depend on its version and on optional packages.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby, product

from tabulate import tabulate

from benchmark.report.cells import Setting, hardware
from benchmark.report.contents import contents
from benchmark.report.leaderboard import (
    DIVISIONS,
    Changed,
    Column,
    Line,
    Section,
    Value,
    columns_of,
    result,
    sections,
    unchanged,
)
from benchmark.report.overall import standings
from benchmark.report.published import Result
from benchmark.report.record import Record
from benchmark.report.text import TERA, Block, amount, flops_unit, markdown, percent, spread

ESCAPED = {ord(character): f"\\{character}" for character in "\\`*_[]|~$"} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
}
INTRODUCTION = """\
<!-- Written by `python -m benchmark.tables` from the records in this folder: do not edit. -->
# Results

"""
OVERALL = """\
Mean rank and mean gap to the best of each data set, over all tables above, with 95 % intervals from resampled seeds;
data sets are fixed. The columns of methods count the tables in which the line's method is better, tied and worse."""
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
leaves; methods that do not share two seeds cannot be told apart. Runs that diverged or collapsed count as they are. A
method is not ranked if a run lacks the ranking evaluation or missed the budget. Floors, in italics, are encoders
without pretraining. In the tuned division the rate of each method was chosen from the same multiples of its recipe's,
by short trials on a hold-out of train. The open division has encoders that were scored once more after their run,
encoders from elsewhere, and runs whose teacher is from elsewhere; a table without a name is of the closed division,
where the rates are the recipes'. The name of a method leads to how it differs from its paper. Device minutes are wall
time, whatever else the machine did meanwhile; on a CPU the peak memory is that of the whole process. Stale lines were
made by code that has changed since.
"""


def render(records: Sequence[Record], published: Sequence[Result] = (), changed: Changed = unchanged) -> str:
    """Return the page with one table for each setting and what stands beside, or with the way to the first record."""
    found = sections(records, changed)
    if not found:
        return INTRODUCTION + EMPTY
    parts = [INTRODUCTION + READING]
    for board, of_board in groupby(found, key=lambda section: section.setting.board):
        parts.append(f"## {_escape(board or 'Single runs')}\n")
        tables = list(of_board)
        parts.extend(
            _block(shown) if isinstance(shown, Block) else _section(shown) for shown in contents(tables, published)
        )
        for division, precision in product(DIVISIONS, sorted({table.setting.precision for table in tables})):
            alike = [
                table for table in tables if (table.setting.division, table.setting.precision) == (division, precision)
            ]
            parts.extend(_overall(alike, division, precision))
    return "\n".join([*parts, *_deviations(found)])


def summary(records: Sequence[Record], changed: Changed = unchanged) -> str:
    """Return the table that leads all boards, without costs and notes; a sentence if there is none.

    It is the one of most FLOPs, of its divisions the first, among those that compare two methods or more over seeds;
    where no table does, among the first of each board.
    """
    found = sections(records, changed)
    if not found:
        return "There are no records yet."
    comparing = [section for section in found if _compares(section)]
    leading: dict[object, Section] = {}
    for table in comparing or found:
        setting = table.setting
        leading.setdefault(setting._replace(division="") if comparing else setting.board, table)
    section = max(leading.values(), key=lambda table: max(line.cost.flops for line in table.lines))
    headings = ["rank", "method", *(_escape(column.heading) for column in section.columns), "seeds"]
    lines = [
        [
            rank(line),
            f"*{_escape(line.name)}*" if line.is_floor else _escape(line.name),
            *(_value(value, line) for value in line.values),
            str(len(line.cell.runs)),
        ]
        for line in section.lines
    ]
    return f"{_escape(title(section.setting))}:\n\n{_markdown(headings, lines)}"


def _compares(section: Section) -> bool:
    """Return whether a table ranks two methods or more, each over two seeds or more."""
    return sum(line.rank is not None and len(line.cell.runs) > 1 for line in section.lines) > 1


def row(record: Record, floors: Sequence[Record]) -> str:
    """Return a plain-text table with a line for the run and one for each floor: top-1 and macro-F1 in %, and cost."""
    columns = columns_of([record, *floors])
    headings = ["method", *(column.heading for column in columns)]
    if columns:
        headings.append(f"{columns[0].heading} macro-F1")
    lines = []
    for run in [record, *floors]:
        results = [result(run, column) for column in columns]
        lines.append(
            [
                printable(run["method"]["name"]),
                *(percent(found and found["top1"]) for found in results),
                *(percent(found and found["macro_f1"]) for found in results[:1]),
                f"{run['cost']['images']:,}",
                f"{run['cost']['flops'] / TERA:,.3f}",
                f"{run['cost']['train_seconds']:,.1f}",
            ]
        )
    headings = [printable(heading) for heading in [*headings, "images", "TFLOPs", "seconds"]]
    alignment = ["left"] + ["right"] * (len(headings) - 1)
    return tabulate(lines, headings, tablefmt="simple", disable_numparse=True, colalign=alignment)


def _section(section: Section) -> str:
    """Return heading, caption, table and notes of one setting."""
    unit, divisor = flops_unit(run["cost"]["flops"] for run in section.runs)
    footnotes: dict[str, int] = {}
    is_tuned = section.setting.division == "tuned"
    lines = []
    for line in section.lines:
        name = _escape(line.name)
        if line.deviations:
            name = f"[{name}](#{_anchor(line)})"
        values = [
            _value(value, line)
            + _marks((f"{column.heading}: {flag}" for flag in (value.flags if value else ())), footnotes)
            for column, value in zip(section.columns, line.values, strict=True)
        ]
        spent = [""] * 4 if line.is_floor else costs(line, divisor)
        start = [rank(line), f"*{name}*" if line.is_floor else name, *[rate(line)] * is_tuned]
        lines.append([*start, *values, *spent, str(len(line.cell.runs)), notes(line)])
    headings = ["rank", "method", *["rate x"] * is_tuned, *(_escape(column.heading) for column in section.columns)]
    headings += ["images", unit, "device minutes", "peak GiB", "seeds", "notes"]
    numbered = [f"{number}. {text}" for text, number in footnotes.items()]
    table = _markdown(headings, lines)
    caption = _escape(_caption(section.runs, section.columns))
    blocks = [f"### {_escape(title(section.setting))}", caption, table, "\n".join(numbered), _remarks(section)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _deviations(found: Sequence[Section]) -> list[str]:
    """Return a list for each method of how it differs from its paper, to which the tables lead."""
    methods: dict[str, tuple[str, dict[str, None]]] = {}
    for line in (line for section in found for line in section.lines if line.deviations):
        _, sentences = methods.setdefault(_anchor(line), (line.cell.method, {}))
        sentences.update(dict.fromkeys(line.deviations))
    lists = [
        f'### <a id="{anchor}"></a>{_escape(method)}\n\n' + "".join(f"- {_escape(text)}\n" for text in sentences)
        for anchor, (method, sentences) in sorted(methods.items())
    ]
    return ["## How methods differ from their papers\n", *lists] if lists else []


def _anchor(line: Line) -> str:
    return "differences-" + re.sub(r"\W+", "-", line.cell.method.lower())


def _block(block: Block) -> str:
    headings, *lines = ([_escape(cell) for cell in line] for line in [block.headings, *block.lines])
    table = markdown(headings, block.alignment, lines)
    return f"### {_escape(block.title)}\n\n{_escape(block.caption)}\n\n{table}\n"


def _overall(alike: Sequence[Section], division: str, precision: str) -> list[str]:
    """Return the table over the data sets of a board in one division and precision, if there are several."""
    found = standings(alike) if len({section.setting.dataset for section in alike}) > 1 else []
    if not found:
        return []
    names = [standing.name for standing in found]
    lines = []
    for standing in found:
        duels = ["-".join(map(str, standing.wins[name])) if name in standing.wins else "" for name in names]
        ranks = _between(standing.mean_rank, standing.rank_interval)
        lines.append([_escape(standing.name), ranks, _between(standing.mean_gap, standing.gap_interval), *duels])
    table = _markdown(["method", "mean rank", "mean gap (points)", *map(_escape, names)], lines)
    sets = f"{len({section.setting.dataset for section in alike})} data sets"
    named = ", ".join(filter(None, (sets, precision, "" if division == "closed" else f"{division} division")))
    return [f"### Over {named}\n\n{OVERALL}\n\n{table}\n"]


def _between(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.2f}" + ("" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})")


def _value(value: Value | None, line: Line) -> str:
    if value is None:
        return ""
    text = spread(value.summary)
    if line.is_floor:
        return f"*{text}*"
    return {"best": f"**{text}**", "tied": f"<u>{text}</u>", "": text}[value.standing]


def rank(line: Line) -> str:
    """Return the rank that a line holds, or the range of ranks that it may hold."""
    if line.rank is None:
        return ""
    first, last = line.rank
    return str(first) if first == last else f"{first}-{last}"


def rate(line: Line) -> str:
    """Return how many times its recipe's rate the trials of a method chose, nothing where none was chosen."""
    return "" if line.rate_factor is None else f"{line.rate_factor:g}"


def notes(line: Line) -> str:
    """Return what became of the runs of a line that did not end well or were made by other code, in a few words."""
    endings = [f"{count} {status}" for status, count in line.endings.items()]
    return ", ".join([*endings, *([f"stale ({', '.join(line.stale)})"] if line.stale else [])])


def costs(line: Line, divisor: float) -> list[str]:
    """Return images, FLOPs in units of the divisor, device minutes and peak GiB."""
    cost = line.cost
    return [
        f"{cost.images:,.0f}",
        f"{cost.flops / divisor:.2f}",
        f"{cost.device_seconds / 60:,.1f}",
        "n/a" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**30:.2f}",
    ]


def title(setting: Setting) -> str:
    """Return what the lines of a table share, in a few words."""
    division = "" if setting.division == "closed" else f"{setting.division} division"
    parts = (setting.dataset, setting.encoder, amount(setting), setting.precision, division)
    return ", ".join(part for part in parts if part)


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
        f"Hardware: {'; '.join(sorted({hardware(run) for run in runs}))}.",
    ]
    if columns:
        sentences.insert(0, f"Ranked by {columns[0].heading}.")
    return " ".join(sentences)


def _remarks(section: Section) -> str:
    """Return what a reader must know of the comparison: seeds, uneven spreads, runs left out, floors not found."""
    sentences = []
    ranking = section.ranking
    if ranking and len(ranking.ranks) > 1:
        ranked = [line.cell for line in section.lines if line.rank is not None]
        if not ranking.seeds:
            sentences.append("No method is told from another: they share fewer than two seeds.")
        elif any(len(cell.runs) != len(ranking.seeds) for cell in ranked):
            sentences.append(f"Ranks compare the seeds that all share: {', '.join(map(str, ranking.seeds))}.")
    for place, column in enumerate(section.columns):
        uneven = [line.name for line in section.lines if (value := line.values[place]) and value.is_uneven]
        if uneven:
            sentences.append(
                f"{_escape(column.heading)}: the spread of {_escape(', '.join(uneven))} is over twice the median one, "
                f"so ties are less certain than 5 %."
            )
    superseded = sorted(run["id"] for line in section.lines for run in line.cell.superseded)
    if superseded:
        names = ", ".join(superseded)
        sentences.append(f"Replaced by other runs of the same seed, newer trials or newer code: {names}.")
    if section.missing_floors:
        names = ", ".join(_escape(identity) for identity in section.missing_floors)
        sentences.append(f"Floors named but not found: {names}.")
    return " ".join(sentences)


def _marks(texts: Iterable[str], footnotes: dict[str, int]) -> str:
    """Return superscript numbers of the texts, adding those that are new to the footnotes."""
    unique = dict.fromkeys(_escape(text) for text in texts)
    numbers = sorted(footnotes.setdefault(text, len(footnotes) + 1) for text in unique)
    return f" <sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return markdown(headings, "".join("l" if heading in ("method", "notes") else "r" for heading in headings), lines)


def printable(text: str) -> str:
    """Replace control characters, line ends and marks of writing direction by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escape(text: str) -> str:
    """Make any text inert in a cell, heading or paragraph of Markdown."""
    return printable(text).translate(ESCAPED)
