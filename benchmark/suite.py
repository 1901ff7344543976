"""Make the runs of a board that are missing: `python -m benchmark.suite --gin gin/suites/digits.gin`."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError, Interrupted, reported


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmark.suite",
        description=__doc__,
        allow_abbrev=False,
        epilog="exit codes: 0 the board is complete, 1 runs failed, 2 configuration refused, 75 stopped and resumable "
        "by the same command.",
    )
    made.add_argument("--gin", required=True, metavar="FILE", help="a suite, for instance gin/suites/digits.gin")
    made.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    made.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of boards (results)")
    made.add_argument("--only", metavar="PATTERN", help="only runs whose label matches, for instance 'resnet18'")
    made.add_argument("--seeds", type=int, nargs="+", default=[], metavar="SEED", help="only runs of these seeds")
    made.add_argument("--time-limit", type=float, metavar="S", help="stop after S seconds, with the state saved")
    made.add_argument(
        "--tune",
        action="store_true",
        help="division tuned: choose each method's rate on a hold-out of train by short trials, then make the runs",
    )
    made.add_argument("--dry-run", action="store_true", help="show the runs, which are done, and what is left")
    return made


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = parser().parse_args(arguments)
    from benchmark import board, config
    from benchmark.report.tables import render

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a stop by hand
    suite: board.Suite = config.build(config.load([given.gin], root="suite", defaults={}))
    whole = board.Board(Path(given.gin).stem, [], given.out, given.results)

    def planned() -> board.Board:
        return whole.planned(suite, tuned=given.tune).selected(given.only, given.seeds)

    chosen = planned()
    missing = chosen.missing()
    estimate = chosen.estimate()
    if given.dry_run:
        for run in chosen.runs:
            print(f"{'missing' if run in missing else 'done   '}  {run.label}")
    cost = f", about {estimate / 60:,.0f} minutes of training" if estimate else ""
    print(f"{whole.name}: {len(chosen.runs)} runs, {len(missing)} missing{cost}")
    if given.tune and any(run.division == "trial" for run in missing):
        print("More runs follow when their rates are chosen from the trials.")
    if given.dry_run:
        return 0
    deadline = None if given.time_limit is None else time.monotonic() + given.time_limit
    try:
        failed = chosen.carry_out(deadline)
        if given.tune:
            tuned = planned()
            tuned.runs = [run for run in tuned.runs if run not in chosen.runs]
            failed += tuned.carry_out(deadline)
    except KeyboardInterrupt:
        left = len(planned().missing())
        raise Interrupted(f"Stopped with {left} runs missing. The same command goes on where it was.") from None
    print(f"\n{render(whole.records())}")
    if failed:
        labels = "\n  ".join(failed)
        raise BenchmarkError(f"{len(failed)} runs failed; the same command tries them again:\n  {labels}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
