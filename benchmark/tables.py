"""Regenerate the leaderboards from the records: `python -m benchmark.tables [--results results] [--check]`.

Results of others, from `published.csv` in the folder of records, stand beside the boards of their data sets.

With `--format latex`, `csv` or `json` the boards are printed instead, for a paper, a spreadsheet or a program.

Where they lie beside the folder of records, as in a checkout, two more pages are regenerated: the leading table within
`README.md`, and from `gin/provenance.toml` the provenance of the numbers, `docs/provenance.md`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import groupby, takewhile
from pathlib import Path

from benchmark.checkout import changed
from benchmark.errors import CheckError, reported
from benchmark.report import provenance, published
from benchmark.report.formats import FORMATS
from benchmark.report.insertion import inserted, marks
from benchmark.report.provenance import Bound, GinFile
from benchmark.report.store import load
from benchmark.report.tables import render, summary

PLACE = ("board", "python -m benchmark.tables")


@reported
def main(argv: Sequence[str] | None = None) -> int:
    """Write `README.md` into the folder of records, or check that it is what they give; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="exit codes: 0 done, 1 a record is damaged, 2 wrong arguments, 3 no records there, 4 a page or table is "
        "stale.",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 4 if a page is stale")
    parser.add_argument("--format", choices=tuple(FORMATS), help="print the boards in this form, and write nothing")
    arguments = parser.parse_args(argv)
    folder, check = arguments.results, arguments.check
    command = f"python -m benchmark.tables --results {folder}"
    records = load(folder)
    elsewhere = published.load(folder / published.FILE)
    if arguments.format:
        print(FORMATS[arguments.format](records, elsewhere, changed), end="")
        return 0
    _update(folder / "README.md", render(records, elsewhere, changed), f"{len(records)} records", command, check=check)
    front = folder.resolve().parent / "README.md"
    if front.is_file() and marks(*PLACE)[0] in (text := front.read_text(encoding="utf-8")):
        text = inserted(text, *PLACE, summary(records, changed))
        _update(front, text, f"{len(records)} records", command, check=check)
    table = folder.resolve().parent / "gin" / "provenance.toml"
    if table.is_file():
        file = table.parents[1] / "docs" / "provenance.md"
        _update(file, provenance_page(table), str(table), command, check=check)
    return 0


def provenance_page(table: Path) -> str:
    """Return the page of a `provenance.toml`, checked against the gin files in its folder. Raises CheckError."""
    paths = {path.relative_to(table.parent).as_posix(): path for path in sorted(table.parent.rglob("*.gin"))}
    # a suite says which runs make a board, and nothing of how a run is made
    files = {name: _gin_file(path) for name, path in paths.items() if not name.startswith("suites/")}
    deviations = provenance.read_deviations(table.parents[1] / "baselines")
    return provenance.render(files, provenance.load(table, files), deviations)


def _gin_file(path: Path) -> GinFile:
    from benchmark.statements import Binding, Include, Source, parse  # needs gin, which the leaderboards do without

    text = path.read_text(encoding="utf-8")
    statements = list(parse(text, Source(str(path), path)))
    return GinFile(
        head=_prose(text),
        includes=[statement.file for statement in statements if isinstance(statement, Include)],
        bindings=[
            Bound(str(statement), statement.value, statement.line.text.partition("#")[2].strip())
            for statement in statements
            if isinstance(statement, Binding)
        ],
    )


def _prose(text: str) -> str:
    """Return the paragraphs of a head comment, without the indented commands between them and their announcements."""
    head = [line[2:] for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    parts = [" ".join(lines) for command, lines in groupby(head, lambda line: line.startswith(" ")) if not command]
    return "\n\n".join(re.sub(r" [^.]*:$", "", part) for part in parts)


def _update(page: Path, text: str, source: str, command: str, *, check: bool) -> None:
    content = text.encode()
    if not check:
        page.parent.mkdir(exist_ok=True)
        page.write_bytes(content)
        print(f"Wrote {page} from {source}.")
    elif not page.is_file() or page.read_bytes() != content:
        raise CheckError(f"{page} is stale. Run `{command}` and commit the page.")
    else:
        print(f"{page} is up to date with {source}.")


if __name__ == "__main__":
    sys.exit(main())
