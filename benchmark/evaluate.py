"""Evaluate an encoder that exists, one of your runs or anyone's checkpoint, by the protocols of the benchmark."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import Interrupted, by, command_parser, reported
from benchmark.runtime import progress, sharing
from benchmark.runtime.ending import leave


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    sharing.require_one_process("benchmark.evaluate")
    parser = command_parser(
        "evaluate",
        __doc__,
        "0 done, 1 failed, 2 configuration or weights refused, 3 data or package missing, 75 "
        "stopped by a signal; the same command goes on. The record is of the division 'open'.",
    )
    encoder = parser.add_mutually_exclusive_group()
    encoder.add_argument("--run", type=Path, metavar="DIR", help="the folder of a finished run: its data and encoder")
    encoder.add_argument("--weights", type=Path, metavar="FILE", help="weights for the encoder that gin files build")
    parser.add_argument("--layout", help="how the weights are laid out; a wrong name lists all (timm)")
    parser.add_argument("--name", help="what tables call it (the run's method, the file, or the encoder)")
    parser.add_argument(
        "--gin", action="append", default=[], metavar="FILE", help="data, encoder and evaluations; the last wins"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="'NAME.PARAM = VALUE'", help="one binding over all files"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where results are kept (runs)")
    parser.add_argument("--publish", type=Path, metavar="DIR", help="also write the record here, e.g. results/<board>")
    parser.add_argument("--fresh", action="store_true", help="repeat an evaluation that is finished")
    parser.add_argument("--allow-imports", action="store_true", help="let gin files import modules of your own")
    options = parser.parse_args(arguments)
    if not options.run and not options.gin:
        parser.error("say what to evaluate: --run DIR, or --gin FILE with data and encoder")
    if options.layout and not options.weights:
        parser.error(f"--layout {options.layout}: say which weights are laid out so, by --weights FILE")
    try:
        with progress.shown():
            return _evaluate(options)
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"Stopped{by(stop)} before there was a record. Give the same command again; it goes on from the features, "
            f"floors and fine-tuning that are kept in {options.out}."
        ) from None


def _evaluate(options: argparse.Namespace) -> int:
    from benchmark.experiment.trained import TrainedEncoder, configure

    if options.run:
        trained = TrainedEncoder.of_run(options.run, options.name)
    else:
        trained = TrainedEncoder(options.name, options.weights, options.layout or "timm")
    with progress.doing("reading the configuration"):
        config = configure(trained, options.gin, options.set, allow_imports=options.allow_imports)
        from benchmark.experiment import evaluate  # imports torch, which a refusal of the files need not wait for
    for note in config.notes:
        print(f"note: {note}")
    evaluate.evaluate(config, trained, out=options.out, publish=options.publish, fresh=options.fresh)
    return 0


if __name__ == "__main__":
    leave(main())
