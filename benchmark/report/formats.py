"""The boards for papers, spreadsheets and programs: LaTeX, CSV and JSON of the same sections as the page."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmark.report.contents import contents
from benchmark.report.leaderboard import Changed, Column, Section, Value, sections, unchanged
from benchmark.report.markdown import costs, notes, printable, rank, rate, title
from benchmark.report.published import Result, select
from benchmark.report.record import Record
from benchmark.report.text import Block, flops_unit, spread

LATEX = {  # what LaTeX would read as a command
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u00b1": r"$\pm$",
}

NO_SCORE = {  # of a method all of whose runs broke down
    "evaluation": None,
    "version": None,
    "mean": None,
    "std": None,
    "half_width": None,
    "macro_f1": None,
    "seeds": 0,
    "standing": None,
    "is_uneven": False,
    "flags": "",
}


def latex(records: Sequence[Record], published: Sequence[Result] = (), changed: Changed = unchanged) -> str:
    """Return a table for each setting, for the package booktabs: bold is the best, underlined what is tied with it."""
    return "\n".join(
        _latex_block(shown) if isinstance(shown, Block) else _latex_table(shown)
        for _, board in groupby(sections(records, changed), key=lambda section: section.setting.board)
        for shown in contents(list(board), published)
    )


def comma_separated(records: Sequence[Record], published: Sequence[Result] = (), changed: Changed = unchanged) -> str:
    """Return a line for each method, or floor, and evaluation; numbers are fractions, FLOPs, seconds and bytes.

    A method without any score has a line too, whose `endings` say what became of its runs.
    `mean`, `std` and `half_width` are those of top-1 over seeds, `macro_f1` is a mean over seeds, and `flags` are the
    warnings of the evaluation.

    Published results are of the division "published"; they alone have epochs and a source, and they have no rank.
    """
    found = _all_entries(records, published, changed)
    text = io.StringIO()
    names = [name for name in found[0] if name != "deviations"] if found else ["board"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(entry[name]) for name in names} for entry in found)
    return text.getvalue()


def as_json(records: Sequence[Record], published: Sequence[Result] = (), changed: Changed = unchanged) -> str:
    """Return the lines of `comma_separated` as a list of objects, with the method's deviations from its paper."""
    found = _all_entries(records, published, changed)
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[Record], Sequence[Result], Changed], str]] = {
    "latex": latex,
    "csv": comma_separated,
    "json": as_json,
}


def _all_entries(records: Sequence[Record], published: Sequence[Result], changed: Changed) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for (board, dataset), alike in groupby(
        sections(records, changed), lambda table: (table.setting.board, table.setting.dataset)
    ):
        tables = list(alike)
        entries += [entry | {"epochs": None, "source": None} for table in tables for entry in _entries(table)]
        blank = dict.fromkeys(entries[-1]) if entries else {}
        entries += [
            blank
            | {
                "board": board or None,
                "dataset": dataset,
                "encoder": result.backbone or None,
                "division": "published",
                "method": result.method,
                "is_floor": False,
                "evaluation": result.protocol,
                "mean": result.value / 100,
                "epochs": result.epochs or None,
                "source": result.source,
            }
            for result in select(tables, published)
        ]
    return entries


def _entries(section: Section) -> list[dict[str, Any]]:
    """Return an entry for each score of a section, and one without a score for a line that has none."""
    shared = {name: value or None for name, value in section.setting._asdict().items()}
    entries = []
    for line in section.lines:
        first, last = line.rank or (None, None)
        scores = [
            _score(column, value)
            for column, value in zip(section.columns, line.values, strict=True)
            if value is not None
        ]
        entries += [
            {
                **shared,
                "method": line.cell.method,
                "varied": line.cell.varied,
                "key": line.cell.key,
                "rate_factor": line.rate_factor,
                "is_floor": line.is_floor,
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
            for score in scores or [NO_SCORE]
        ]
    return entries


def _score(column: Column, value: Value) -> dict[str, Any]:
    summary = value.summary
    return {
        "evaluation": column.evaluation,
        "version": column.version,
        "mean": summary.mean,
        "std": summary.std,
        "half_width": summary.half_width,
        "macro_f1": value.macro_f1,
        "seeds": summary.n,
        "standing": value.standing or None,
        "is_uneven": value.is_uneven,
        "flags": "; ".join(value.flags),
    }


def _harmless(value: Any) -> Any:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _latex_table(section: Section) -> str:
    unit, divisor = flops_unit(run["cost"]["flops"] for run in section.runs)
    is_tuned = section.setting.division == "tuned"
    headings = ["", "method", *["rate x"] * is_tuned, *(column.heading for column in section.columns)]
    headings += ["images", unit, "min.", "GiB", "seeds"]
    has_notes = any(notes(line) for line in section.lines)
    alignment = f"rl{'r' * (len(headings) - 2)}{'l' * has_notes}"
    headings += ["notes"] * has_notes
    floors_begin = next((place for place, line in enumerate(section.lines) if line.is_floor), None)
    lines = []
    for place, line in enumerate(section.lines):
        if place == floors_begin:
            lines.append(r"\midrule")
        cells = [rank(line), _tex(line.name), *[rate(line)] * is_tuned, *(_tex_value(value) for value in line.values)]
        cells += [""] * 4 if line.is_floor else costs(line, divisor)
        cells += [str(len(line.cell.runs)), *([_tex(notes(line))] if has_notes else [])]
        lines.append(" & ".join(cells) + r" \\")
    heading = " & ".join(map(_tex, headings)) + r" \\"
    return _tabular([title(section.setting)], alignment, heading, *lines)


def _tabular(comments: Sequence[str], alignment: str, heading: str, *lines: str) -> str:
    above = [f"% {printable(text)}" for text in comments]
    rules = [r"\toprule", heading, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([*above, rf"\begin{{tabular}}{{{alignment}}}", *rules, r"\end{tabular}", ""])


def _latex_block(block: Block) -> str:
    lines = (" & ".join(map(_tex, line)) + r" \\" for line in [block.headings, *block.lines])
    return _tabular([block.title, block.caption], block.alignment, *lines)


def _tex_value(value: Value | None) -> str:
    if value is None:
        return ""
    text = _tex(spread(value.summary))
    return {"best": rf"\textbf{{{text}}}", "tied": rf"\underline{{{text}}}", "": text}[value.standing]


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in printable(text))
