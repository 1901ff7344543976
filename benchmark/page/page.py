"""The page of results: one file that needs no server and makes no request, as a pure function of the records.

The same records give the same bytes. Every text that comes from records is escaped by Jinja, and loses control
characters and marks of writing direction; the script and the style run by their hashes alone.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.page.panel import CURVE, Confused, Panel, key_of, linked, panel, shared_bindings
from benchmark.page.plot import COSTS, FRAMES, SHAPES, Frame, Plot, shape, shortened
from benchmark.report.bases import Correct, Difference, differences, introduction, unpublished
from benchmark.report.cells import hardware
from benchmark.report.contents import caption, contents, leading, remarks, table, title, verdict
from benchmark.report.leaderboard import Changed, sections, unchanged
from benchmark.report.palette import COLOURS, MARKERS, ON_DARK, styles
from benchmark.report.published import Result
from benchmark.report.record import Record, file_name
from benchmark.report.scaling import of_other_budgets
from benchmark.report.section import Column, Line, Section, Value
from benchmark.report.text import WORDS, Block, amount, data_of, printable, spread, terms

HERE = Path(__file__).parent
SINGLE_RUNS = "Single runs"
START = 'document.documentElement.classList.add("js")'
FILTERS = ("division", "data", "encoder", "budget", "hardware")


@dataclass(frozen=True)
class Table:
    """A section as the page shows it."""

    section: Section
    headings: tuple[str, ...]
    rows: tuple[tuple[Line, tuple[str, ...]], ...]
    shared: Mapping[str, str]
    differences: tuple[Difference, ...]
    caption: str
    remarks: str
    verdict: str

    @property
    def stale(self) -> list[str]:
        """Why lines are stale, each reason once."""
        return sorted({reason for line, _ in self.rows for reason in line.stale})

    @property
    def introduction(self) -> str:
        return introduction(self.section, self.differences)

    @property
    def has_intervals(self) -> bool:
        values = [value for line in self.section.lines for value in line.values if value]
        return any(value.summary.half_width is not None for value in values)

    @property
    def facets(self) -> dict[str, str]:
        """What the filters compare, by filter."""
        setting = self.section.setting
        return {
            "division": setting.division,
            "data": data_of(setting),
            "encoder": setting.encoder,
            "budget": amount(setting),
        }


@dataclass(frozen=True)
class View:
    """Tables that differ only in their budget, and the plot of their lines."""

    tables: tuple[Table, ...]
    plot: Plot

    @property
    def title(self) -> str:
        section = self.tables[-1].section
        if len(self.tables) == 1:
            return title(section)
        return ", ".join([data_of(section.setting), section.setting.encoder, *terms(section.setting)])


@dataclass(frozen=True)
class Board:
    """All tables of one board, and what stands beside them. `slug` names it in links and as a file."""

    name: str
    slug: str
    views: tuple[View, ...]
    blocks: tuple[Block, ...]
    missing: tuple[str, str] | None

    @property
    def summary(self) -> str:
        """Its methods, data and budgets in a few words."""
        shown = [table.section for view in self.views for table in view.tables]
        methods = {run["method"]["name"] for section in shown for run in section.runs}
        tested = dict.fromkeys(data_of(section.setting) for section in shown)
        amounts = dict.fromkeys(amount(section.setting) for section in shown)
        budgets = f"{len(amounts)} budgets" if len(amounts) > 2 else " and ".join(amounts)
        return f"{len(methods)} method{'s' * (len(methods) > 1)} on {', '.join(tested)}, {budgets}"


class Page:
    """What the templates show: all boards, the leading one first.

    `places` has the path of each record's file below the folder of records, by its name. `correct` finds which test
    images a run classified correctly, `confused` counts them by class and predicted class. `missing` says of a board
    that lacks runs how many there are, and gives the command that makes the rest. `figures` has the paths of the
    figures of a run below the folder of records, by the name of its record's file.
    """

    def __init__(
        self,
        records: Sequence[Record],
        published: Sequence[Result] = (),
        changed: Changed = unchanged,
        places: Mapping[str, str] | None = None,
        folder: str = "results",
        correct: Correct = unpublished,
        missing: Mapping[str, tuple[str, str]] = MappingProxyType({}),
        confused: Confused = unpublished,
        figures: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.records, self.folder, self.correct, self.confused = records, folder, correct, confused
        self.places, self._figures = places or {}, figures
        self.sections = sections(records, changed)
        lines = [line for section in self.sections for line in (*section.lines, *section.earlier)]
        self.styles = styles(
            [*(line.cell.method for line in lines if not line.is_floor), *(line.cell.method for line in lines)]
        )
        by_id = {record["id"]: record for record in records}
        self.panels: dict[str, Panel] = {}
        self.boards: list[Board] = []
        first = leading(self.sections)
        for name, of_board in groupby(self.sections, key=lambda section: section.setting.board):
            tables = list(of_board)
            groups = sorted(of_other_budgets(tables), key=lambda alike: first not in alike)
            views = [self._view(alike, by_id) for alike in groups]
            blocks = [shown for shown in contents(tables, published) if isinstance(shown, Block)]
            name = name or SINGLE_RUNS
            board = Board(name, self._slug(name), tuple(views), tuple(blocks), missing.get(name))
            self.boards.insert(0 if first in tables else len(self.boards), board)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(run["method"]["name"] for section in self.sections for run in section.runs))

    @property
    def newest(self) -> str:
        return max(record["created_utc"] for record in self.records)[:10]

    @cached_property
    def others(self) -> list[Record]:
        """The records to which no panel links."""
        ids = linked(self.panels.values())
        return [record for record in self.records if record["id"] not in ids]

    @cached_property
    def deviations(self) -> dict[str, dict[str, None]]:
        """How methods differ from their papers, each sentence once."""
        sentences: dict[str, dict[str, None]] = {}
        for line in (line for section in self.sections for line in (*section.lines, *section.earlier)):
            if line.deviations:
                sentences.setdefault(line.cell.method, {}).update(dict.fromkeys(line.deviations))
        return dict(sorted(sentences.items()))

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """The choices of each filter."""
        tables = [table for board in self.boards for view in board.views for table in view.tables]
        by_filter = {name: [table.facets[name] for table in tables] for name in FILTERS[:-1]}
        by_filter["hardware"] = [each for table in tables for line, _ in table.rows for each in self.hardware(line)]
        return {name: sorted(set(texts)) for name, texts in by_filter.items()}

    def link(self, record: Record) -> str:
        """Return the relative address of a record's file."""
        return f"./{quote(self.place(record))}"

    def place(self, record: Record) -> str:
        name = file_name(record)
        return self.places.get(name, name)

    def figures(self, line: Line) -> list[tuple[str, str]]:
        """Return the figures of the runs of a line: their names, with the seed where there are several, and links."""
        runs = line.cell.runs
        seeds = {run["id"]: f"seed {run['seed']}: " if len(runs) > 1 else "" for run in runs}
        paths = [(seeds[run["id"]], path) for run in runs for path in self._figures.get(file_name(run), ())]
        return [(f"{seed}{PurePosixPath(path).stem}", f"./{quote(path)}") for seed, path in paths]

    @staticmethod
    def hardware(line: Line) -> list[str]:
        return sorted({hardware(run) for run in line.cell.runs})

    def _slug(self, name: str) -> str:
        """Return a name that no other board has, as part of a file name and of a link."""
        slug = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "board"
        number = sum(board.slug.partition("--")[0] == slug for board in self.boards)
        return f"{slug}--{number + 1}" if number else slug

    def _view(self, alike: Sequence[Section], by_id: Mapping[str, Record]) -> View:
        targets = {}
        tables = []
        for section in alike:
            shared = shared_bindings(section)
            shown = (*section.lines, *section.earlier)
            for line in shown:
                targets[id(line)] = key = key_of(line)
                if key not in self.panels:
                    self.panels[key] = panel(section, line, shared, by_id, self.confused)
            headings, rows = table(section, lambda line: line.name, _score, shown)
            with_notes = len(headings) if any(row[-1] for row in rows) else -1
            lines = tuple((line, tuple(row[:with_notes])) for line, row in zip(shown, rows, strict=True))
            beside = tuple(differences(section, self.correct))
            texts = caption(section), remarks(section), verdict(section)
            tables.append(Table(section, tuple(headings[:with_notes]), lines, shared, beside, *texts))
        return View(tuple(tables), Plot(alike, self.styles, targets))


def render(page: Page) -> str:
    """Return the page."""
    style = "\n".join([_colours(), _shapes(), _text("chart.css"), _text("page.css")])
    script = "\n".join([_text("page.js"), _text("chart.js")])
    scripts = f"'{_hash(START)}' '{_hash(script)}'"
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src {scripts}"
    texts = {"style": Markup(style), "start": Markup(START), "script": Markup(script), "policy": Markup(policy)}
    return _environment().get_template("page.html.jinja").render(page=page, **texts) + "\n"


def picture(page: Page, board: Board) -> str:
    """Return the first plot of a board as a file of its own, for light and dark pages."""
    view = board.views[0]
    style = Markup("\n".join([_colours(), _text("chart.css")]))
    template = _environment().get_template("board.svg.jinja")
    return template.render(page=page, view=view, frame=FRAMES[0], style=style) + "\n"


def pictures(page: Page) -> dict[str, str]:
    """Return the plots of all boards that have one, by the names of their files."""
    return {f"{board.slug}.svg": picture(page, board) for board in page.boards if board.views[0].plot.kinds}


def layouts(plot: Plot) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the places of all choices of a plot: by frame, then by cost, then by column."""

    def of_frame(frame: Frame) -> dict[str, list[dict[str, Any]]]:
        return {kind: [plot.layout(frame, kind, i) for i in range(len(plot.columns))] for kind in plot.kinds}

    return {frame.name: of_frame(frame) for frame in FRAMES}


def _score(line: Line, column: Column, value: Value | None) -> str:
    return spread(value.summary) if value else ""


def _colours() -> str:
    """Return the rules that give each class `c0`, `c1` ... its colour on light and on dark pages."""
    light, dark = ("".join(f".c{i}{{color:{colour}}}" for i, colour in enumerate(each)) for each in (COLOURS, ON_DARK))
    return f"{light}\n@media (prefers-color-scheme:dark){{{dark}}}"


def _shapes() -> str:
    """Return the rules that give each class `k0`, `k1` ... its shape."""
    image = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='-6 -6 12 12'><path d='{}'/></svg>"
    return "".join(f'.k{i}{{mask:url("{image.format(SHAPES[marker])}")}}' for i, marker in enumerate(MARKERS))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tools: dict[str, Callable[..., object] | object] = {
        "shape": shape,
        "shortened": shortened,
        "layouts": layouts,
        "key_of": key_of,
        "frames": FRAMES,
        "costs": COSTS,
        "curve_size": CURVE,
        "words": WORDS,
    }
    environment.globals.update(tools)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    return environment


def _plain(value: object) -> object:
    """Replace what a text must not contain by spaces, as in all formats."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    """Return the hash of an inline script or style for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
