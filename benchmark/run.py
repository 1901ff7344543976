"""Pretrain one method under a budget, evaluate it and write its record."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmark.errors import Interrupted, Stopped, by, command_parser, reported
from benchmark.runtime import progress, sharing
from benchmark.runtime.ending import leave
from benchmark.trackers import TRACKERS, require


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "run",
        __doc__,
        "0 done, 1 failed, 2 configuration refused, 3 data or package missing, 75 stopped by a "
        "signal; the same command goes on. A gin file executes the modules it imports: run only files that you trust.",
    )
    parser.add_argument(
        "--gin",
        "--gin_file",  # this and the next are what other users of gin call the option
        "--gin_files",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file, as given or among the shipped ones; repeat it, the last binding wins",
    )
    binding: dict[str, Any] = {"action": "append", "default": [], "metavar": "'NAME.PARAM = VALUE'"}
    text = "one binding over all files, for instance Images.source=folder:/my/images"
    parser.add_argument("--set", "--gin_param", "--gin_bindings", **binding, help=text)
    text = "as --set, and tables name it beside the method, as for a point of a sweep"
    parser.add_argument("--vary", **binding, help=text)
    parser.add_argument(
        "--trials", type=Path, metavar="DIR", help="records of the trials that the rate was chosen from: division tuned"
    )
    parser.add_argument("--seed", type=int, help="short for --set experiment.seed=SEED (default 0)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    parser.add_argument("--publish", type=Path, metavar="DIR", help="also write the record here, e.g. results/<board>")
    parser.add_argument("--dry-run", action="store_true", help="show configuration, data and what the budget buys")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted run, as without this option")
    again.add_argument(
        "--fresh", action="store_true", help="start over: discard an unfinished run, repeat a finished one"
    )
    parser.add_argument("--reproduce", type=Path, metavar="RECORD", help="make a recorded run again, and compare")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=600, metavar="S", help="between two checkpoints (600)"
    )
    parser.add_argument("--track", choices=TRACKERS, help="also show the run's numbers there; the run stays the same")
    parser.add_argument("--allow-imports", action="store_true", help="let gin files import modules of your own")
    return parser


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.gin and not options.reproduce:
        parser.error("the following arguments are required: --gin (or --reproduce)")
    if not options.checkpoint_seconds >= 0:
        parser.error(f"--checkpoint-seconds {options.checkpoint_seconds:g}: give 0, for every step, or more")
    if options.reproduce:
        allowed = ("reproduce", "set", "out", "allow_imports")
        changed = [name for name, value in vars(options).items() if value != parser.get_default(name)]
        if others := [name for name in changed if name not in allowed]:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            parser.error(f"--reproduce makes the run that its record describes; leave out {names}")
    if options.reproduce or options.dry_run:
        sharing.require_one_process("--reproduce" if options.reproduce else "--dry-run")
    require(options.track)
    with progress.shown() if sharing.rank() == 0 else nullcontext():
        try:
            return _run(options)
        except KeyboardInterrupt as stop:  # before the run itself says more
            if options.reproduce or options.dry_run:
                raise
            raise Interrupted(f"Stopped{by(stop)} at the start. Give the same command again.") from None


def _run(options: argparse.Namespace) -> int:
    from benchmark.config import load as configuration

    if options.reproduce:
        from benchmark.experiment.reproduce import reproduce

        try:
            print(
                reproduce(options.reproduce, out=options.out, settings=options.set, allow_imports=options.allow_imports)
            )
        except Interrupted:
            raise Stopped("Stopped by a signal. --reproduce begins anew: give the same command again.") from None
        return 0
    settings = [*options.set, *options.vary, *([] if options.seed is None else [f"experiment.seed = {options.seed}"])]
    with progress.doing("reading the configuration"):
        config = configuration.load(options.gin, settings, allow_imports=options.allow_imports)
        from benchmark.experiment import run  # imports torch, which a refusal of the files need not wait for
    for note in config.notes if sharing.rank() == 0 else ():
        print(f"note: {note}")
    if options.dry_run:
        from benchmark.experiment.dry_run import dry_run

        print(dry_run(config, options.out))
    elif sharing.rank() > 0:
        run.follow(config, options.out)
    else:
        run.run(
            config,
            out=options.out,
            fresh=options.fresh,
            checkpoint_seconds=options.checkpoint_seconds,
            publish=options.publish,
            varied=options.vary,
            trials=options.trials,
            tracker=options.track,
        )
        run.dismiss()
    return 0


if __name__ == "__main__":
    leave(main())
