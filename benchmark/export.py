"""Write the encoder of a finished run as a folder for timm, the hub and mteb: weights, configuration, model card."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import command_parser, reported
from benchmark.runtime import sharing
from benchmark.runtime.collector import uncollected
from benchmark.runtime.ending import leave


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    sharing.require_one_process("benchmark.export")
    parser = command_parser("export", __doc__, "0 done, 1 the copy differs, 2 refused, 3 data missing.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--allow-imports", action="store_true", help="let the run import modules of your own")
    parser.add_argument("--license", default="other", help="of the weights, as the model card names it (other)")
    options = parser.parse_args(arguments)
    with uncollected():
        from benchmark.experiment import export

    folder = export.export(options.run, options.to, options.license, allow_imports=options.allow_imports)
    print(f"{folder}: the same outputs as the run's encoder to the last bit. README.md there says how to load it.")
    if not (folder / "config.json").exists():
        print("timm has no such network: the lines of README.md load it, and neither local-dir: nor hf-hub: does.")
    return 0


if __name__ == "__main__":
    leave(main())
