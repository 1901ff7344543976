"""Measure how fast the benchmark is, beside the plain way of doing the same and beside other libraries."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import reported


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmark.speed",
        description=__doc__,
        allow_abbrev=False,
        epilog="exit codes: 0 done, 1 a race is unequal or a GPU fails, 2 refused, 3 a library or the GPU is missing, "
        "4 a page is stale. Candidates take turns, and ratios are taken within a turn, so a busy machine widens the "
        "range and moves the median little.",
    )
    made.add_argument(
        "part",
        choices=("evaluation", "inputs", "training", "masking", "costs", "gpu"),
        help="evaluation: frozen protocols beside the published formula; inputs: views, and their share of a step; "
        "training: a step of every method; masking: an encoder with and without masked tokens; costs: FLOPs of all "
        "methods, into a page; gpu: whether a GPU keeps what runs rely on, and how fast it is, in four minutes",
    )
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds after a warm-up (5)")
    made.add_argument(
        "--race",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="inputs, training: a gin file that sets ours beside another library, executed; may be repeated",
    )
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="inputs, training, masking, gpu: write page and seconds there"
    )
    made.add_argument(
        "--page", type=Path, default=Path("README.md"), help="where the table of costs stands (README.md)"
    )
    made.add_argument("--check", action="store_true", help="costs: write nothing; exit 4 if the page is stale")
    return made


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parser()
    given = command.parse_args(arguments)
    if given.rounds < 1:
        command.error(f"--rounds {given.rounds}: measure at least 1 round")
    if given.race and given.part not in ("inputs", "training"):
        command.error(f"--race: {given.part} has no races; give it with inputs or training")
    if given.check and given.part != "costs":
        command.error(f"--check: {given.part} writes no table into a page; give it with costs")
    if given.out and given.part in ("evaluation", "costs"):
        command.error(f"--out: {given.part} writes no page of its own; give it with inputs, training, masking or gpu")
    from benchmark.experiment.environment import use_device
    from benchmark.timing import costs, evaluation, gpu, inputs, masking, training

    use_device()
    if given.part == "costs":
        costs.update(given.page, check=given.check)
    elif given.part == "evaluation":
        print(evaluation.report(given.rounds))
    else:
        if given.part == "gpu":
            found = gpu.measure(given.rounds)
        elif given.part == "masking":
            found = masking.measure(given.rounds)
        else:
            part = inputs if given.part == "inputs" else training
            found = part.measure(given.race, given.rounds)
        print(found.markdown())
        if given.out:
            found.save(given.out)
        if given.part == "gpu":
            gpu.require(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
