"""Check the records of all boards: python -m benchmark.results --base origin/main

Finds files that are damaged, renamed or misplaced, numbers that do not fit together, runs that should be equal and are
not, and, against a commit, records that were changed or removed, which must never be.

    python -m benchmark.results --record FILE

checks one record, of anybody, beside those of the boards: what holds, and what it alone says of itself.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError, CheckError, ConfigError, command_parser, reported
from benchmark.report.audit import audit
from benchmark.report.audit_one import examine
from benchmark.runtime.ending import leave


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("results", __doc__, "0 sound, 2 wrong arguments, 4 problems found.", keeps_lines=True)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="boards (results)")
    parser.add_argument("--base", metavar="REF", help="a commit since which no record may have changed")
    parser.add_argument("--record", type=Path, metavar="FILE", help="check this record alone, wherever it lies")
    options = parser.parse_args(arguments)
    if options.record and options.base:
        raise ConfigError("--record checks one file, and --base those of all boards; give one of them.")
    if options.record:
        return _check(options.record, options.results)
    if not options.results.is_dir():
        raise ConfigError(f"There is no folder {options.results}. Give the folder of boards by --results.")
    problems = [*audit(options.results), *(_rewritten(options.results, options.base) if options.base else [])]
    if problems:
        raise CheckError("\n".join([*problems, f"{len(problems)} problems."]))
    print(f"{sum(1 for _ in options.results.rglob('*.json'))} records are sound.")
    return 0


def _check(path: Path, boards: Path) -> int:
    """Print what holds of one record and what is left open; raises CheckError where something is wrong."""
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Give a record by --record.")
    try:
        findings = examine(path, boards)
    except BenchmarkError as problem:
        raise CheckError(str(problem)) from problem
    for by, fields in findings.held.items():
        print(f"holds, by {by}: {', '.join(fields)}")
    for until, fields in findings.self_reported.items():
        print(f"self-reported, {until}: {', '.join(fields)}")
    if findings.problems:
        raise CheckError("\n".join([*findings.problems, f"{len(findings.problems)} problems."]))
    print("Nothing contradicts the record.")
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
    leave(main())
