"""Draw what the encoder of a finished run has learned, and what its method makes of images: PNG files to look at."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import command_parser, reported
from benchmark.report.cells import FIGURES
from benchmark.runtime import sharing
from benchmark.runtime.collector import uncollected
from benchmark.runtime.ending import leave


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    sharing.require_one_process("benchmark.figures")
    parser = command_parser(
        "figures",
        __doc__,
        "0 done, 2 refused, 3 data or matplotlib missing. Figures illustrate and score nothing; in "
        "them, test labels choose the images, colour points and mark hits.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="a folder that does not exist yet (default: figures in that of the run)"
    )
    parser.add_argument("--allow-imports", action="store_true", help="let the run import modules of your own")
    options = parser.parse_args(arguments)
    with uncollected():
        from benchmark.plots import figures

    for line in figures.draw(options.run, options.to or options.run / FIGURES, allow_imports=options.allow_imports):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    leave(main())
