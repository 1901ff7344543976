"""Pretrain one method under a budget, evaluate it and write its record."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import Interrupted, Stopped, reported
from benchmark.runtime import progress


def parser() -> argparse.ArgumentParser:
    """Return the command line, with the synonyms that users of gin know."""
    made = argparse.ArgumentParser(
        prog="python -m benchmark.run",
        description=__doc__,
        allow_abbrev=False,
        epilog="exit codes: 0 done, 1 failed, 2 configuration refused, 3 data or package missing, 75 stopped by a "
        "signal and resumable, 130 stopped by one with nothing to resume. A gin file executes the modules it imports: "
        "run only files that you trust.",
    )
    made.add_argument(
        "--gin",
        "--gin_file",
        "--gin_files",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file, as given or among the shipped ones; repeat it, the last binding wins",
    )
    made.add_argument(
        "--set",
        "--gin_param",
        "--gin_bindings",
        action="append",
        default=[],
        metavar="'NAME.PARAM = VALUE'",
        help="one binding over all files, for instance Images.source=folder:/my/images",
    )
    made.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="'NAME.PARAM = VALUE'",
        help="as --set, and tables name it beside the method, as for a point of a sweep",
    )
    made.add_argument(
        "--trials", type=Path, metavar="DIR", help="records of the trials that the rate was chosen from: division tuned"
    )
    made.add_argument("--seed", type=int, help="short for --set experiment.seed=SEED (default 0)")
    made.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    made.add_argument("--publish", type=Path, metavar="DIR", help="also write the record here, e.g. results/<board>")
    made.add_argument("--dry-run", action="store_true", help="show configuration, data and what the budget buys")
    made.add_argument("--resume", action="store_true", help="continue an interrupted run")
    made.add_argument(
        "--fresh", action="store_true", help="start over: discard an unfinished run, repeat a finished one"
    )
    made.add_argument("--reproduce", type=Path, metavar="RECORD", help="make a recorded run again, and compare")
    made.add_argument(
        "--checkpoint-seconds", type=float, default=600, metavar="S", help="between two checkpoints (600)"
    )
    made.add_argument("--allow-imports", action="store_true", help="let gin files import modules of your own")
    return made


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parser()
    given = command.parse_args(arguments)
    if not given.gin and not given.reproduce:
        command.error("the following arguments are required: --gin (or --reproduce)")
    if not given.checkpoint_seconds >= 0:
        command.error(f"--checkpoint-seconds {given.checkpoint_seconds:g}: give 0, for every step, or more")
    if given.reproduce:
        kept = ("reproduce", "set", "out", "allow_imports")
        others = [
            name for name, value in vars(given).items() if name not in kept and value != command.get_default(name)
        ]
        if others:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            command.error(f"--reproduce makes the run that its record describes; leave out {names}")
    with progress.shown():
        return _run(given)


def _run(given: argparse.Namespace) -> int:
    """Do what the arguments ask for; torch is imported after the files are read, so that refusals are quick."""
    from benchmark.config import load as configuration

    if given.reproduce:
        from benchmark.experiment.reproduce import reproduce

        try:
            print(reproduce(given.reproduce, out=given.out, settings=given.set, allow_imports=given.allow_imports))
        except Interrupted:
            raise Stopped("Stopped by a signal. --reproduce begins anew: give the same command again.") from None
        return 0
    settings = [*given.set, *given.vary, *([] if given.seed is None else [f"experiment.seed = {given.seed}"])]
    with progress.doing("reading the configuration"):
        loaded = configuration.load(given.gin, settings, allow_imports=given.allow_imports)
        from benchmark.experiment import run
    for note in loaded.notes:
        print(f"note: {note}")
    if given.dry_run:
        print(run.dry_run(loaded, given.out))
    else:
        run.run(
            loaded,
            out=given.out,
            resume=given.resume,
            fresh=given.fresh,
            checkpoint_seconds=given.checkpoint_seconds,
            publish=given.publish,
            varied=given.vary,
            trials=given.trials,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
