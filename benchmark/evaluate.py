"""Evaluate an encoder that exists, one of your runs or anyone's checkpoint, by the protocols of the benchmark."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import Stopped, by, reported
from benchmark.runtime import progress


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmark.evaluate",
        description=__doc__,
        allow_abbrev=False,
        epilog="exit codes: 0 done, 1 failed, 2 configuration or weights refused, 3 data or package missing, 130 "
        "stopped by a signal. The record is of the division 'open'.",
    )
    trained = made.add_mutually_exclusive_group()
    trained.add_argument("--run", type=Path, metavar="DIR", help="the folder of a finished run: its data and encoder")
    trained.add_argument("--weights", type=Path, metavar="FILE", help="weights for the encoder that gin files build")
    made.add_argument("--layout", help="how the weights are laid out; a wrong name lists all (timm)")
    made.add_argument("--name", help="what tables call it (the run's method, the file, or the encoder)")
    made.add_argument(
        "--gin", action="append", default=[], metavar="FILE", help="data, encoder and evaluations; the last wins"
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="'NAME.PARAM = VALUE'", help="one binding over all files"
    )
    made.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where results are kept (runs)")
    made.add_argument("--publish", type=Path, metavar="DIR", help="also write the record here, e.g. results/<board>")
    made.add_argument("--allow-imports", action="store_true", help="let gin files import modules of your own")
    return made


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parser()
    given = command.parse_args(arguments)
    if not given.run and not given.gin:
        command.error("say what to evaluate: --run DIR, or --gin FILE with data and encoder")
    if given.layout and not given.weights:
        command.error(f"--layout {given.layout}: say which weights are laid out so, by --weights FILE")
    try:
        with progress.shown():
            return _evaluate(given)
    except KeyboardInterrupt as stop:
        raise Stopped(
            f"Stopped{by(stop)} before there was a record. Give the same command again; it goes on from the features, "
            f"floors and fine-tuning that are kept in {given.out}."
        ) from None


def _evaluate(given: argparse.Namespace) -> int:
    """Do what the arguments ask for; torch is imported after the files are read, so that refusals are quick."""
    from benchmark.experiment.trained import TrainedEncoder, configure

    if given.run:
        trained = TrainedEncoder.of_run(given.run, given.name)
    else:
        trained = TrainedEncoder(given.name, given.weights, given.layout or "timm")
    with progress.doing("reading the configuration"):
        config = configure(trained, given.gin, given.set, allow_imports=given.allow_imports)
        from benchmark.experiment import evaluate
    for note in config.notes:
        print(f"note: {note}")
    evaluate.evaluate(config, trained, out=given.out, publish=given.publish)
    return 0


if __name__ == "__main__":
    sys.exit(main())
