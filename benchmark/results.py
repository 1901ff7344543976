"""Check the records of all boards: python -m benchmark.results --base origin/main

Finds files that are damaged, renamed or misplaced, numbers that do not fit together, runs that should be equal and are
not, and, against a commit, records that were changed or removed, which must never be.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import CheckError, ConfigError, reported
from benchmark.report.audit import audit


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="exit codes: 0 sound, 2 wrong arguments, 4 problems found.",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="boards (results)")
    parser.add_argument("--base", metavar="REF", help="a commit since which no record may have changed")
    options = parser.parse_args(arguments)
    if not options.results.is_dir():
        raise ConfigError(f"There is no folder {options.results}. Give the folder of boards by --results.")
    problems = [*audit(options.results), *(_rewritten(options.results, options.base) if options.base else [])]
    if problems:
        raise CheckError("\n".join([*problems, f"{len(problems)} problems."]))
    print(f"{sum(1 for _ in options.results.rglob('*.json'))} records are sound.")
    return 0


def _rewritten(folder: Path, base: str) -> list[str]:
    """Return a sentence for each record that differs from the common ancestor with the commit `base`."""
    diff = ["git", "diff", "--merge-base", "--no-renames", "--name-status", "--relative", base, "--", "*.json"]
    completed = subprocess.run(diff, cwd=folder, capture_output=True, text=True)
    if completed.returncode:
        raise ConfigError(f"--base {base}: git says: {completed.stderr.strip()}")
    states = (line.split("\t") for line in completed.stdout.splitlines())
    words = {"M": "was changed", "D": "was removed"}
    return [
        f"{folder / path}: {words.get(state, 'differs')} since {base}. Records are never rewritten; restore it."
        for state, path in states
        if state != "A"
    ]


if __name__ == "__main__":
    sys.exit(main())
