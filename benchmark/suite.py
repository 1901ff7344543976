"""Make the runs of a board that are missing: `python -m benchmark.suite --gin gin/suites/digits.gin`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import BenchmarkError, Interrupted, reported

if TYPE_CHECKING:
    from benchmark.boards.plan import Planned


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmark.suite",
        description=__doc__,
        allow_abbrev=False,
        epilog="exit codes: 0 the board is complete, 1 runs failed or missed their budget, 2 configuration refused, "
        "75 stopped and resumable by the same command.",
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
    made.add_argument("--dry-run", action="store_true", help="show the runs: done, missing, stale or missed")
    made.add_argument("--allow-imports", action="store_true", help="let gin files import modules of your own")
    return made


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parser()
    given = command.parse_args(arguments)
    if given.time_limit is not None and not given.time_limit >= 0:
        command.error(f"--time-limit {given.time_limit:g}: give the seconds after which to stop, 0 or more")
    from benchmark.config import load as configuration

    loaded = configuration.load([given.gin], root="suite", defaults={}, allow_imports=given.allow_imports)
    from benchmark.boards import launcher  # torch and all takes seconds, which a refusal of the file need not
    from benchmark.boards.plan import Suite
    from benchmark.config.parse import locate
    from benchmark.report.code import changed
    from benchmark.report.markdown import render

    planner: Suite = configuration.build(loaded)
    suite = planner.located(locate(given.gin, Path()).parent, allow_imports=given.allow_imports)
    if given.seeds:
        suite = suite.of_seeds(given.seeds)
    whole = launcher.Launcher(Path(given.gin).stem, [], given.out, given.results)
    whole.known = frozenset(record["id"] for record in whole.records())

    def planned() -> launcher.Launcher:
        return whole.planned(suite, tuned=given.tune).selected(given.only or "*")

    chosen = planned()
    missing = chosen.missing()
    estimate = chosen.estimate()
    if given.dry_run:
        for run, state in zip(chosen.runs, chosen.states(), strict=True):
            print(f"{state:<7}  {run.label}")
    cost = f", about {estimate / 60:,.0f} minutes of training" if estimate else ""
    print(f"{whole.name}: {len(chosen.runs)} runs, {len(missing)} missing{cost}")
    if given.tune and any(run.division == "trial" for run in missing):
        print("More runs follow when their rates are chosen from the trials.")
    if missing and suite.examined_by:
        seeds = ", ".join(map(str, suite.examined_seeds))
        print(f"Encoders of seed {seeds} are evaluated by {suite.preset} once they are trained.")
    if given.dry_run:
        return 0
    deadline = None if given.time_limit is None else time.monotonic() + given.time_limit
    try:
        failed: list[Planned] = []
        settled: list[Planned] = []
        while chosen.runs:
            broken, elsewhere = chosen.carry_out(deadline)
            failed += broken
            settled += [run for run in chosen.runs if run not in elsewhere]
            chosen = planned()
            chosen.runs = [run for run in chosen.runs if run not in settled]
            if chosen.runs and all(run in elsewhere for run in chosen.runs):
                chosen.wait_for(chosen.runs[0], deadline)
    except KeyboardInterrupt:
        left = len(planned().missing())
        raise Interrupted(f"Stopped with {left} runs missing. The same command goes on where it was.") from None
    print(f"\n{render(whole.records(), changed=changed)}")
    if failed:
        whole.runs = failed
        missed = [run for run, state in zip(failed, whole.states(), strict=True) if state == "missed"]
        raise BenchmarkError(_complaint([run for run in failed if run not in missed], missed, given.out))
    return 0


def _complaint(failed: "Sequence[Planned]", missed: "Sequence[Planned]", out: Path) -> str:
    """Say which runs failed or missed their budget, and what to do."""
    sentences = {
        f"{len(failed)} runs failed; the same command tries them again:": failed,
        f"{len(missed)} runs took more or less than their budget of seconds and are not ranked. Remove "
        f"{out / 'calibrations'} and give the same command while nothing else runs on this machine:": missed,
    }
    return "\n".join("\n  ".join([text, *(run.label for run in runs)]) for text, runs in sentences.items() if runs)


if __name__ == "__main__":
    sys.exit(main())
