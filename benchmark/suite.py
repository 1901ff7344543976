"""Run the missing runs of a board: `python -m benchmark.suite --gin gin/suites/digits.gin`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import BenchmarkError, ConfigError, Interrupted, command_parser, reported
from benchmark.runtime import progress, sharing
from benchmark.runtime.ending import leave
from benchmark.storage.claim import LOG
from benchmark.trackers import TRACKERS, require

if TYPE_CHECKING:
    from benchmark.boards.cluster import Cluster
    from benchmark.boards.planned import Planned


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "suite",
        __doc__,
        "0 the board is complete, 1 runs failed or missed their budget, 2 configuration refused, "
        "75 stopped and resumable by the same command.",
    )
    parser.add_argument("--gin", required=True, metavar="FILE", help="a suite, for instance gin/suites/digits.gin")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of boards (results)"
    )
    parser.add_argument("--only", metavar="PATTERN", help="only runs whose label matches, for instance 'resnet18'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], metavar="SEED", help="only runs of these seeds")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="make N runs at once (one for each GPU; without a GPU, one for each core, as far as there are 2 GiB of "
        "memory for each, or 1 for a budget in seconds). On a processor each of several has one thread; 1 has all",
    )
    parser.add_argument("--time-limit", type=float, metavar="S", help="stop after S seconds, with the state saved")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="division tuned: choose each method's rate on a hold-out of train by short trials, then make the runs",
    )
    parser.add_argument(
        "--cluster", choices=("slurm", "local"), help="leave the runs to workers, jobs of Slurm or of this machine"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="how many workers share the runs (1)")
    parser.add_argument("--cluster-gin", metavar="FILE", help="what a worker asks for, as in gin/cluster/example.gin")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the runs: done, missing, stale, missed or failed; with --cluster also the job",
    )
    parser.add_argument("--track", choices=TRACKERS, help="also show the numbers of the runs there")
    parser.add_argument("--allow-imports", action="store_true", help="let gin files import modules of your own")
    return parser


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    sharing.require_one_process("benchmark.suite")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.time_limit is not None and not options.time_limit >= 0:
        parser.error(f"--time-limit {options.time_limit:g}: give the seconds after which to stop, 0 or more")
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: give the number of runs to make at once, 1 or more")
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: give the number of jobs, 1 or more")
    if not options.cluster and (options.cluster_gin or options.workers > 1):
        parser.error("--workers and --cluster-gin belong to --cluster")
    require(options.track)
    from benchmark.config import load as configuration

    with progress.shown(), progress.doing("planning the runs"):
        config = configuration.load([options.gin], root="suite", defaults={}, allow_imports=options.allow_imports)
        from benchmark.boards import launcher  # imports torch, which a refusal of the file need not wait for
        from benchmark.boards.jobs import described, slots
        from benchmark.boards.plan import Suite
        from benchmark.config.parse import locate
        from benchmark.report.code import changed
        from benchmark.report.markdown import render

        planner: Suite = configuration.build(config)
        suite = planner.located(locate(options.gin, Path()).parent, allow_imports=options.allow_imports)
        if options.seeds:
            suite = suite.of_seeds(options.seeds)
        board = launcher.Launcher(Path(options.gin).stem, [], options.out, options.results, tracker=options.track)
        board.known = frozenset(record["id"] for record in board.records())

        def planned() -> launcher.Launcher:
            return board.planned(suite, tuned=options.tune).selected(options.only or "*")

        selection = planned()
    board.slots = selection.slots = slots(options.jobs, is_timed=any(run.is_timed for run in selection.runs))
    missing = selection.missing()
    estimate = selection.estimate()
    if options.dry_run:
        for run, state in zip(selection.runs, selection.states(), strict=True):
            print(f"{state:<7}  {run.label}")
    cost = f", about {estimate / 60:,.0f} minutes of training" if estimate else ""
    print(f"{board.name}: {len(selection.runs)} runs, {len(missing)} missing{cost}")
    if options.tune and any(run.division == "trial" for run in missing):
        print("More runs follow when their rates are chosen from the trials.")
    if missing and suite.examined_by:
        seeds = ", ".join(map(str, suite.examined_seeds))
        print(f"Encoders of seed {seeds} are evaluated by {suite.preset} once they are trained.")
    if options.cluster:
        if missing:
            settings = _settings(options, is_timed=any(run.is_timed for run in missing))
            _leave_to_workers(options, board.name, settings, estimate)
        return 0
    if missing:
        at_once = min(len(board.slots), len(missing))
        share = f", about {estimate / 60 / at_once:,.0f} minutes" if estimate and at_once > 1 else ""
        print(f"{described(board.slots)}{share}")
    if options.dry_run:
        return 0
    deadline = None if options.time_limit is None else time.monotonic() + options.time_limit
    try:
        failed = selection.carry_out(planned, deadline)
    except KeyboardInterrupt:
        left = len(planned().missing())
        raise Interrupted(f"Stopped with {left} runs missing. The same command goes on where it was.") from None
    print(f"\n{render(board.records(), changed=changed)}")
    if failed:
        board.runs = failed
        missed = [run for run, state in zip(failed, board.states(), strict=True) if state == "missed"]
        raise BenchmarkError(_complaint([run for run in failed if run not in missed], missed, options.out))
    return 0


def _settings(options: argparse.Namespace, *, is_timed: bool) -> "Cluster":
    """Return what a worker asks for. Raises ConfigError for GPUs that may differ where the budget is in seconds."""
    import torch

    from benchmark.boards.cluster import Cluster
    from benchmark.config import load as configuration

    settings = Cluster()
    if options.cluster_gin:
        settings = configuration.build(configuration.load([options.cluster_gin], root="cluster", defaults={}))
    if options.cluster == "local":
        return settings.here(options.workers, torch.cuda.device_count())
    if is_timed and options.workers > 1 and not settings.constraint:
        raise ConfigError(
            "A board with a budget in seconds takes processors or GPUs of one kind: name it by cluster.constraint in "
            "--cluster-gin, or give --workers 1."
        )
    return settings


def _leave_to_workers(options: argparse.Namespace, name: str, settings: "Cluster", estimate: float | None) -> None:
    """Queue the workers of a board, or show the script of their jobs."""
    from benchmark.boards import cluster

    hours = "unknown, as the board has no record yet"
    if estimate is not None:
        share = estimate / options.workers
        hours = f"about {estimate / 3600:,.1f} hours of training in all, {share / 3600:,.1f} of each worker"
    print(f"{options.workers} workers: {hours}. Evaluations come on top.", flush=True)
    executor = cluster.prepare(options.cluster, settings, name, options.workers, options.out / "jobs")
    if options.dry_run:
        print(cluster.script(executor, options.workers))
        return
    for line in cluster.submit(executor, _command(options, settings.gpus), settings, options.workers):
        print(line)
    print(f"python -m benchmark.list --watch --out {options.out} --results {options.results} shows how they get on.")


def _command(options: argparse.Namespace, gpus: int) -> list[str]:
    """Return the command of a worker: this one without what concerns the cluster."""
    command = [sys.executable, "-m", "benchmark.suite", "--gin", options.gin]
    command += ["--out", str(options.out), "--results", str(options.results)]
    command += ["--jobs", str(options.jobs or max(1, gpus))]
    command += ["--only", options.only] if options.only else []
    command += ["--seeds", *map(str, options.seeds)] if options.seeds else []
    command += ["--time-limit", str(options.time_limit)] if options.time_limit is not None else []
    command += ["--track", options.track] if options.track else []
    return command + ["--tune"] * options.tune + ["--allow-imports"] * options.allow_imports


def _complaint(failed: "Sequence[Planned]", missed: "Sequence[Planned]", out: Path) -> str:
    sentences = {
        f"{len(failed)} runs failed; the same command tries them again:": failed,
        f"{len(missed)} runs took more or less than their budget of seconds and are not ranked. Remove "
        f"{out / 'calibrations'} and give the same command while nothing else runs on this machine:": missed,
    }
    log = [f"The log is {os.environ[LOG]}."] if LOG in os.environ else []
    parts = ["\n  ".join([text, *(run.label for run in runs)]) for text, runs in sentences.items() if runs]
    return "\n".join([*parts, *log])


if __name__ == "__main__":
    leave(main())
