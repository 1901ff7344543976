"""Regenerate the leaderboards from the records: `python -m benchmark.tables [--results results] [--check]`.

The folder of records gets `README.md`, `index.html` with the same boards for a browser, and a plot of each board as
`<board>.svg`; a board of trials on several shares of a budget gets a page of its own. Published results, from
`published.csv` in that folder, are shown beside the boards of their data sets.

With `--format latex`, `csv` or `json` the boards are printed instead, for a paper, a spreadsheet or a program. For
LaTeX the plots follow the tables, as source text for the package pgfplots.

If they are beside the folder of records, as in a checkout, two more pages are regenerated: the plot and the tables of
the leading board in `README.md`, and `docs/provenance.md`, which names the source of each number in the gin files.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmark.errors import CheckError, command_parser, reported
from benchmark.page.page import Page, pictures
from benchmark.page.page import render as html
from benchmark.page.pgfplots import pgfplots
from benchmark.report import predictions, published
from benchmark.report.cells import FIGURES, load
from benchmark.report.code import changed
from benchmark.report.formats import FORMATS
from benchmark.report.markdown import render, summary
from benchmark.report.rates import studies
from benchmark.report.text import inserted, marks
from benchmark.runtime.ending import leave
from benchmark.storage.files import write_text

PLACE = ("board", "python -m benchmark.tables")
LEAD = ("lead", "python -m benchmark.tables")
LEADERS = 3  # methods of the leading board at the top of the page


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Write `README.md` into the folder of records, or check that it is what they give; return the exit code."""
    parser = command_parser(
        "tables",
        __doc__,
        "0 done, 1 a record is damaged, 2 wrong arguments, 3 no records there, 4 a page or table is stale.",
        keeps_lines=True,
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 4 if a page is stale")
    parser.add_argument("--html", action="store_true", help="write or check index.html and the plots alone")
    parser.add_argument("--format", choices=tuple(FORMATS), help="print the boards in this form, and write nothing")
    options = parser.parse_args(arguments)
    from benchmark.boards.inventory import boards  # needs gin, for which --help need not wait

    folder = options.results
    command = f"python -m benchmark.tables --results {folder}"
    records = load(folder)
    results_of_others = published.load(folder / published.FILE)
    if options.format:
        text = FORMATS[options.format](records, results_of_others, changed)
        plots_of_paper = pgfplots(Page(records, results_of_others, changed)) if options.format == "latex" else ""
        print(text + plots_of_paper, end="")
        return 0
    correct = partial(predictions.correct, folder)
    places = {path.name: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.json"), reverse=True)}
    missing = {board.name: missing for board in boards(records) if (missing := board.missing)}
    confused = partial(predictions.confusion, folder)
    page = Page(
        records,
        results_of_others,
        changed,
        places,
        folder.resolve().name,
        correct,
        missing,
        confused,
        _figures(folder, places),
    )
    stale: list[str] = []
    problems: list[str] = []

    def update(path: Path, text: str, source: str = f"{len(records)} records") -> None:
        if not options.check:
            write_text(path, text)
            print(f"Wrote {path} from {source}.")
        elif path.is_file() and path.read_bytes() == text.encode():
            print(f"{path} is up to date with {source}.")
        else:
            stale.append(str(path))

    if not options.html:
        update(folder / "README.md", render(records, results_of_others, changed, correct, missing))
        for board, text in studies(records).items():
            update(folder / board / "README.md", text)
    plots = pictures(page)
    for name, text in {"index.html": html(page), **plots}.items():
        update(folder / name, text)
    front, sources = (folder.resolve().parent / name for name in ("README.md", "docs/provenance.md"))
    if not options.html and front.is_file() and marks(*PLACE)[0] in (text := front.read_text(encoding="utf-8")):
        text = inserted(text, *PLACE, summary(records, changed, correct, missing))
        if marks(*LEAD)[0] in text:
            leaders = summary(records, changed, most=LEADERS)
            text = inserted(text, *LEAD, _lead(page.folder, list(plots)[:1], leaders))
        update(front, text)
    if not options.html and sources.is_file():
        from benchmark.config import provenance  # needs gin

        try:
            update(sources, provenance.render(sources.parents[1]), "the comments of the gin files")
        except CheckError as problem:
            problems.append(str(problem))
    if stale:
        are = "are" if len(stale) > 1 else "is"
        problems.append(f"{', '.join(stale)} {are} stale. Run `{command}` and commit what it writes.")
    if problems:
        raise CheckError("\n".join(problems))
    return 0


def _figures(folder: Path, places: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the figures that `benchmark.figures` drew into the folders of runs, by the names of their records."""
    runs = {name: (folder / place).parent for name, place in places.items()}
    return {
        name: [path.relative_to(folder).as_posix() for path in sorted((run / FIGURES).glob("*.png"))]
        for name, run in runs.items()
        if (run / "config.gin").is_file()
    }


def _lead(folder: str, plots: Sequence[str], table: str) -> str:
    """Return plots by the names of their files, and a short table."""
    links = [f"[![Accuracy against compute]({folder}/{plot})]({folder}/index.html)" for plot in plots]
    return "\n\n".join([*links, table])


if __name__ == "__main__":
    leave(main())
