"""Measure how fast the benchmark is, beside the plain way of doing the same and beside other libraries."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import command_parser, reported
from benchmark.runtime import sharing
from benchmark.runtime.collector import uncollected
from benchmark.runtime.ending import leave

if TYPE_CHECKING:
    from benchmark.timing.measurement import Measurement


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "speed",
        __doc__,
        "0 done, 1 a race is unequal or a GPU fails, 2 refused, 3 a library or the GPU is missing, "
        "4 a page is stale. Candidates take turns, and ratios are taken within a turn, so a busy machine widens the "
        "range and moves the median little.",
    )
    parser.add_argument(
        "part",
        choices=("evaluation", "inputs", "training", "races", "masking", "costs", "gpu"),
        help="evaluation: frozen protocols beside the published formula; inputs: views, and their share of a step; "
        "training: a step of every method; races: steps or views beside other libraries; masking: an encoder with and "
        "without masked tokens; costs: FLOPs of all methods, into a page; gpu: whether a GPU keeps what runs rely on, "
        "and how fast it is, in minutes",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds after a warm-up (5)")
    parser.add_argument(
        "--race",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="races: a gin file that sets ours beside another library, executed; repeat it for several",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="inputs, training, races, masking, gpu: write page and seconds there"
    )
    parser.add_argument(
        "--page", type=Path, default=Path("README.md"), help="where the table of costs stands (README.md)"
    )
    parser.add_argument("--check", action="store_true", help="costs: write nothing; exit 4 if the page is stale")
    return parser


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    sharing.require_one_process("benchmark.speed")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: measure at least 1 round")
    if bool(options.race) != (options.part == "races"):
        parser.error("races and --race belong together: python -m benchmark.speed races --race FILE [--race FILE]")
    if options.check and options.part != "costs":
        parser.error(f"--check: {options.part} writes no table into a page; give it with costs")
    if options.out and options.part in ("evaluation", "costs"):
        parser.error(f"--out: {options.part} writes no page of its own; give it with another part")
    with uncollected():
        from benchmark.experiment.environment import use_device
        from benchmark.timing import costs, evaluation, gpu, inputs, masking, races, training
        from benchmark.timing.measurement import Measurement

    use_device()
    if options.part == "costs":
        costs.update(options.page, check=options.check)
    elif options.part == "evaluation":
        print(evaluation.report(options.rounds))
    elif options.part == "gpu":
        measurement = Measurement("gpu", options.rounds)
        try:
            gpu.measure(measurement)
        finally:
            if measurement.measured:  # also of a measurement that was stopped
                _show(measurement, options.out)
        gpu.require(measurement)
    elif options.part == "races":
        _show(races.measure(options.race, options.rounds), options.out)
    else:
        part = {"inputs": inputs, "training": training, "masking": masking}[options.part]
        _show(part.measure(options.rounds), options.out)
    return 0


def _show(measurement: "Measurement", out: Path | None) -> None:
    print(measurement.markdown())
    if out:
        measurement.save(out)


if __name__ == "__main__":
    leave(main())
