"""The boards for papers, spreadsheets and programs: LaTeX, CSV and JSON of the same sections as the page."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmark.report.contents import contents, table, title
from benchmark.report.leaderboard import Changed, sections, unchanged
from benchmark.report.published import Result, select
from benchmark.report.record import Record
from benchmark.report.section import Column, Line, Section, Value
from benchmark.report.text import Block, alignment, printable, spread

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\u00b1": r"$\pm$",
    }
)
SHORT = {"rank": "", "device minutes": "min.", "peak GiB": "GiB"}  # headings in LaTeX

SCORE = ("evaluation", "version", "mean", "std", "half_width", "macro_f1", "seeds", "standing", "is_uneven", "flags")
NO_SCORE = dict.fromkeys(SCORE) | {"seeds": 0, "is_uneven": False, "flags": ""}  # of a method whose runs all failed


def latex(records: Sequence[Record], published: Sequence[Result] = (), changed: Changed = unchanged) -> str:
    """Return a table for each setting, for the package booktabs: the best is bold, what is tied with it underlined."""
    return "\n".join(
        _latex_block(shown) if isinstance(shown, Block) else _latex_table(shown)
        for _, board in groupby(sections(records, changed), key=lambda section: section.setting.board)
        for shown in contents(list(board), published)
    )


def comma_separated(records: Sequence[Record], published: Sequence[Result] = (), changed: Changed = unchanged) -> str:
    """Return a line for each method or floor and evaluation, as CSV; numbers are fractions, FLOPs, seconds and bytes.

    `mean`, `std` and `half_width` are those of top-1 over seeds, `macro_f1` is a mean over seeds, and `flags` are the
    warnings of the evaluation. A method without any score has one line; its `endings` say how its runs ended.
    Published results have the division "published"; only they have epochs and a source, and they have no rank.
    """
    entries = _all_entries(records, published, changed)
    text = io.StringIO()
    names = [name for name in entries[0] if name != "deviations"] if entries else ["board"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in entry.items()} for entry in entries)
    return text.getvalue()


def as_json(records: Sequence[Record], published: Sequence[Result] = (), changed: Changed = unchanged) -> str:
    """Return the lines of `comma_separated` as a list of objects, with the method's deviations from its paper."""
    return json.dumps(_all_entries(records, published, changed), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[Record], Sequence[Result], Changed], str]] = {
    "latex": latex,
    "csv": comma_separated,
    "json": as_json,
}


def _all_entries(records: Sequence[Record], published: Sequence[Result], changed: Changed) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    by_dataset = groupby(sections(records, changed), lambda table: (table.setting.board, table.setting.dataset))
    for (board, dataset), of_dataset in by_dataset:
        tables = list(of_dataset)
        entries += [entry | {"epochs": None, "source": None} for table in tables for entry in _entries(table)]
        entries += [
            dict.fromkeys(entries[0])
            | {
                "board": board or None,
                "dataset": dataset,
                "encoder": result.backbone or None,
                "division": "published",
                "method": result.method,
                "is_floor": False,
                "is_reference": False,
                "evaluation": result.protocol,
                "mean": result.value / 100,
                "epochs": result.epochs or None,
                "source": result.source,
            }
            for result in select(tables, published)
        ]
    return entries


def _entries(section: Section) -> Iterator[dict[str, Any]]:
    """Yield an entry for each score of a section, and one without a score for a line that has none."""
    setting = {name: value or None for name, value in section.setting._asdict().items()}
    for line in (*section.lines, *(line for line in section.earlier if line.stale)):
        first, last = line.rank or (None, None)
        scores = [_score(column, value) for column, value in zip(section.columns, line.values, strict=True) if value]
        for score in scores or [NO_SCORE]:
            yield {
                **setting,
                "method": line.cell.method,
                "varied": line.cell.varied,
                "key": line.cell.key,
                "rate_factor": line.rate_factor,
                "is_floor": line.is_floor,
                "is_reference": line.is_reference,
                "rank_first": first,
                "rank_last": last,
                **score,
                "images": line.cost.images,
                "flops": line.cost.flops,
                "device_seconds": line.cost.device_seconds,
                "peak_bytes": line.cost.peak_bytes,
                "endings": ", ".join(f"{count} {status}" for status, count in line.endings.items()),
                "stale": ", ".join(line.stale),
                "deviations": line.deviations,
            }


def _score(column: Column, value: Value) -> dict[str, Any]:
    summary = value.summary
    of_seeds = (summary.mean, summary.std, summary.half_width, value.macro_f1, summary.n)
    marks = (value.standing or None, value.is_uneven, "; ".join(value.flags))
    return dict(zip(SCORE, (column.evaluation, column.version, *of_seeds, *marks), strict=True))


def _harmless(value: Any) -> Any:
    """Return the value so that no spreadsheet takes it for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _latex_table(section: Section) -> str:
    headings, lines = table(section, lambda line: tex(line.name), _tex_value)
    columns = len(headings) if any(line[-1] for line in lines) else -1  # no column of notes where there are none
    rows = [[*cells, tex(notes)][:columns] for *cells, notes in lines]
    floors = next((place for place, line in enumerate(section.lines) if line.is_beside), len(rows))
    rules = [r"\midrule"] * (floors < len(rows))
    short = [tex(SHORT.get(heading, heading)) for heading in headings[:columns]]
    written = [_tex_line(row) for row in rows]
    body = [_tex_line(short), r"\midrule", *written[:floors], *rules, *written[floors:]]
    return _tabular([title(section)], alignment(headings[:columns]), body)


def _latex_block(block: Block) -> str:
    heading, *lines = (_tex_line(map(tex, line)) for line in [block.headings, *block.lines])
    return _tabular([block.title, block.caption], alignment(block.headings), [heading, r"\midrule", *lines])


def _tabular(comments: Sequence[str], sides: str, body: Sequence[str]) -> str:
    above = [f"% {printable(text)}" for text in comments]
    rules = [r"\toprule", *body, r"\bottomrule"]
    return "\n".join([*above, rf"\begin{{tabular}}{{{sides}}}", *rules, r"\end{tabular}", ""])


def _tex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex_value(line: Line, column: Column, value: Value | None) -> str:
    if value is None:
        return ""
    text = tex(spread(value.summary))
    return {"best": rf"\textbf{{{text}}}", "tied": rf"\underline{{{text}}}", "": text}[value.standing]


def tex(text: str) -> str:
    """Return a text so that LaTeX prints it."""
    return printable(text).translate(LATEX)
