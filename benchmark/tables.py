"""Regenerate the leaderboards from the records: `python -m benchmark.tables [--results results] [--check]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError, CheckError
from benchmark.report.store import load
from benchmark.report.tables import render


def main(argv: Sequence[str] | None = None) -> int:
    """Write `README.md` into the folder of records, or check that it is what they give; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.tables", description=__doc__, allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 4 if the page is stale")
    arguments = parser.parse_args(argv)
    try:
        _update(arguments.results, check=arguments.check)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _update(folder: Path, check: bool) -> None:
    records = load(folder)
    page = folder / "README.md"
    content = render(records).encode()
    if not check:
        page.write_bytes(content)
        print(f"Wrote {page} from {len(records)} records.")
    elif not page.is_file() or page.read_bytes() != content:
        raise CheckError(f"{page} is stale. Run `python -m benchmark.tables --results {folder}` and commit the page.")
    else:
        print(f"{page} is up to date with {len(records)} records.")


if __name__ == "__main__":
    sys.exit(main())
