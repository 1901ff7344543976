"""Leaderboards in Markdown, and the plain-text table that a finished run prints, as pure functions of records.

The same records give the same bytes, so that a stale page can be found by comparison.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from tabulate import tabulate

from benchmark.report.bases import Correct, differences, introduction, unpublished
from benchmark.report.contents import caption, contents, leading, remarks, table, title
from benchmark.report.leaderboard import SMOKE, Changed, sections, unchanged
from benchmark.report.published import Result
from benchmark.report.record import Record
from benchmark.report.section import Column, Line, Section, Value, columns_of, ranking_score, result
from benchmark.report.text import TERA, Block, alignment, markdown, percent, printable, spread

ESCAPED = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)
INTRODUCTION = """\
<!-- Written by `python -m benchmark.tables` from the records in this folder: do not edit. -->
# Results

"""
EMPTY = """\
There are no records yet. A run that is published writes its record, and those of its floors, into the folder of a
board. The tables are made from the records:

```
python -m benchmark.run --gin gin/<method>.gin --publish results/<board>
python -m benchmark.tables
```
"""
READING = """\
Scores are top-1 accuracy on the test set in %, as mean ± half width of the 95 % t interval over seeds; a single seed
has no interval. Where an evaluation has several versions on this page, headings name them. The best of the methods that
are compared over seeds is **bold**. Means that are <u>underlined</u> cannot be distinguished from it (Tukey's range
test at 5 %, seeds as blocks); for the same reason ranks are ranges. Where methods have different seeds, means are
adjusted for that by least squares, and the test is in Kramer's form. It takes spreads over seeds to be equal. A method
that has fewer than two seeds in common with those compared may have any rank. Runs that diverged or collapsed count
like all others. A method is not ranked if one of its runs lacks the ranking evaluation or missed the budget. In italics
stand floors, which are encoders without pretraining, and references, which learnt from the labels of all training
images.

In the closed division the learning rates are those of the recipes. In the tuned division the learning rate of each
method was chosen by short trials at multiples of its recipe's learning rate ("LR x" is the multiple), scored on a
hold-out of the training images. The rule stands above the table of trials. The open division holds encoders that were
evaluated again after their run, encoders from elsewhere, and runs whose teacher is from elsewhere.

The name of a method links to how it differs from its paper. Device minutes are wall time, including the time that other
processes took; on a CPU the peak memory is that of the whole process. The time in a title is the median of its table.
Stale lines were made by code that has changed since. Where lines of today's code stand in a table, stale ones and runs
that were replaced are folded away below it, and not ranked.
"""


def render(
    records: Sequence[Record],
    published: Sequence[Result] = (),
    changed: Changed = unchanged,
    correct: Correct = unpublished,
    missing: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> str:
    """Return the page with all tables of all boards, or how to make the first record where there are none.

    `missing` says of a board that lacks runs how many there are, and gives the command that makes the rest.
    """
    tables = sections(records, changed)
    if not tables:
        return INTRODUCTION + EMPTY
    smoke = sorted({section.setting.dataset for section in tables} & SMOKE.keys())
    parts = [INTRODUCTION + READING, *(f"{SMOKE[name]}\n" for name in smoke)]
    for name, of_board in groupby(tables, key=lambda section: section.setting.board):
        parts.append(f"## {_escape(name or 'Single runs')}\n")
        if name in missing:
            sentence, command = missing[name]
            parts.append(f"{_escape(sentence)} The rest: `{command}`\n")
        parts += [
            _block(shown) if isinstance(shown, Block) else _section(shown, correct)
            for shown in contents(list(of_board), published)
        ]
    return "\n".join([*parts, *_deviations(tables)])


def summary(
    records: Sequence[Record],
    changed: Changed = unchanged,
    correct: Correct = unpublished,
    missing: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    *,
    most: int | None = None,
) -> str:
    """Return the table that leads all boards, without costs and notes; a sentence if there is none.

    It has its first `most` lines alone, or all, with what a reader must know of them and methods beside their bases.
    """
    section = leading(sections(records, changed))
    if section is None:
        return "There are no records yet."
    headings = ["rank", "method", *(_escape(section.heading(column)) for column in section.columns), "seeds"]
    lines = [
        [line.place, _name(line), *(_value(value, line) for value in line.values), str(len(line.cell.runs))]
        for line in section.lines[:most]
    ]
    blocks = [f"{_escape(title(section))}:", markdown(headings, alignment(headings), lines)]
    if most is None:
        state, _ = missing.get(section.setting.board, ("", ""))
        known = " ".join(filter(None, [state, remarks(section)]))
        blocks += [_escape(known), _differences(section, correct)]
    return "\n\n".join(block for block in blocks if block)


def row(record: Record, floors: Sequence[Record]) -> str:
    """Return a plain-text table with a line for the run and one for each floor: scores and macro-F1 in %, and cost."""
    columns = columns_of([record, *floors])
    headings = ["method", *(column.heading for column in columns)]
    headings += [f"{column.heading} macro-F1" for column in columns[:1]]
    lines = []
    for run in [record, *floors]:
        results = [result(run, column) for column in columns]
        lines.append(
            [
                printable(run["method"]["name"]),
                *(percent(metrics and ranking_score(metrics)) for metrics in results),
                *(percent(metrics and metrics["macro_f1"]) for metrics in results[:1]),
                f"{run['cost']['images']:,}",
                f"{run['cost']['flops'] / TERA:,.3f}",
                f"{run['cost']['train_seconds']:,.1f}",
            ]
        )
    headings = [printable(heading) for heading in [*headings, "images", "TFLOPs", "seconds"]]
    sides = ["left"] + ["right"] * (len(headings) - 1)
    return tabulate(lines, headings, tablefmt="simple", disable_numparse=True, colalign=sides)


def _section(section: Section, correct: Correct) -> str:
    """Return heading, caption, table, footnotes, remarks and differences of one setting."""
    footnotes: dict[str, int] = {}

    def name(line: Line) -> str:
        return _name(line, f"#{_anchor(line)}" if line.deviations else "")

    def score(line: Line, column: Column, value: Value | None) -> str:
        texts = [f"{section.heading(column)}: {flag}" for flag in (value.flags if value else ())]
        return _value(value, line) + _superscript(texts, footnotes)

    def written(shown: Sequence[Line]) -> str:
        headings, lines = table(section, name, score, shown)
        headings = [_escape(heading) for heading in headings]
        return markdown(headings, alignment(headings), lines)

    ranked, earlier = written(section.lines), written(section.earlier)
    blocks = [
        f"### {_escape(title(section))}",
        _escape(caption(section)),
        ranked,
        "\n".join(f"{number}. {text}" for text, number in footnotes.items()),
        _escape(remarks(section)),
        _differences(section, correct),
        _folded(section, earlier),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _folded(section: Section, table: str) -> str:
    """Return the earlier lines of a table, folded away; empty where there are none."""
    if not section.earlier:
        return ""
    count = len(section.earlier)
    replaced = sorted(run["id"] for line in section.lines for run in line.cell.superseded)
    remark = f"Replaced by other runs of the same seed, newer trials or newer code: {', '.join(replaced)}."
    blocks = [
        f"<summary>Earlier versions: {count} line{'s' * (count > 1)}</summary>",
        table,
        *[remark] * bool(replaced),
    ]
    return "\n\n".join(["<details>\n" + blocks[0], *blocks[1:], "</details>"])


def _deviations(tables: Sequence[Section]) -> list[str]:
    """Return a list for each method of how it differs from its paper, to which the tables link."""
    methods: dict[str, tuple[str, dict[str, None]]] = {}
    for line in (each for section in tables for each in (*section.lines, *section.earlier) if each.deviations):
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
    return (
        f"### {_escape(block.title)}\n\n{_escape(block.caption)}\n\n{markdown(headings, alignment(headings), lines)}\n"
    )


def _name(line: Line, target: str = "") -> str:
    name = f"[{_escape(line.name)}]({target})" if target else _escape(line.name)
    return f"*{name}*" if line.is_beside else name


def _value(value: Value | None, line: Line) -> str:
    if value is None:
        return ""
    text = spread(value.summary)
    if line.is_beside:
        return f"*{text}*"
    return {"best": f"**{text}**", "tied": f"<u>{text}</u>", "": text}[value.standing]


def _differences(section: Section, correct: Correct) -> str:
    """Return a sentence for each method and each one that it builds on."""
    lines = list(differences(section, correct))
    if not lines:
        return ""
    return "\n".join([_escape(introduction(section, lines)), "", *(f"- {_escape(str(each))}" for each in lines)])


def _superscript(texts: Iterable[str], footnotes: dict[str, int]) -> str:
    """Return the superscript numbers of the texts; new texts are added to the footnotes."""
    numbers = sorted({footnotes.setdefault(_escape(text), len(footnotes) + 1) for text in texts})
    return f" <sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""


def _escape(text: str) -> str:
    """Return the text with all Markdown in it escaped."""
    return printable(text).translate(ESCAPED)
