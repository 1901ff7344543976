"""Show what can be run and what has been: methods, data, protocols, evaluations, boards and runs."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark.errors import command_parser, reported
from benchmark.report.text import percent
from benchmark.runtime.ending import leave

COMMANDS = {  # what to do with an entry of each kind
    "methods": "python -m benchmark.run --gin gin/<method>.gin",
    "data": "python -m benchmark.run --gin gin/<method>.gin --gin <data> --gin gin/protocol/<encoder>.gin",
    "protocols": "python -m benchmark.run --gin gin/<method>.gin --gin <protocol>",
    "evaluations": "python -m benchmark.evaluate --run runs/<run> --gin <preset>",
    "boards": "python -m benchmark.suite --gin <suite>",
    "runs": "python -m benchmark.run --gin gin/<method>.gin; the same command goes on where it was interrupted",
}


EVERY = 5.0  # seconds between two looks of --watch
CLEAR = "\033[H\033[2J"  # what empties a terminal


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "list", __doc__, "0 done, 1 a record is damaged, 2 a gin file is refused, 3 a package is missing."
    )
    parser.add_argument(
        "--watch", action="store_true", help=f"show boards and runs anew every {EVERY:g} seconds, until Ctrl-C"
    )
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="FILE",
        help="also show a method outside the tree, by its gin file; repeat it for several. Nothing is imported",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="boards (results)")
    options = parser.parse_args(arguments)
    from benchmark.boards import inventory

    while options.watch:
        found = asdict(inventory.take(options.out, options.results))
        text = "\n\n".join(_table(kind, found[kind]) for kind in ("boards", "runs"))
        print(f"{CLEAR * sys.stdout.isatty()}{text}\n", flush=True)
        try:
            time.sleep(EVERY)
        except KeyboardInterrupt:
            return 0
    kinds = asdict(inventory.take(options.out, options.results, options.gin))
    tables = "\n\n".join(map(_table, kinds, kinds.values()))
    print(json.dumps(kinds, indent=2, ensure_ascii=False) if options.json else tables)
    return 0


def _table(kind: str, entries: Sequence[dict[str, Any]]) -> str:
    if not entries:
        return f"No {kind} found. Start with: {COMMANDS[kind]}"
    lines = [[_cell(name, value) for name, value in entry.items()] for entry in entries]
    return f"{kind}: {COMMANDS[kind]}\n{tabulate(lines, list(entries[0]), tablefmt='simple', disable_numparse=True)}"


def _cell(name: str, value: Any) -> str:
    if name == "top1":
        return percent(value)
    if isinstance(value, tuple):
        return ", ".join(value)
    return "" if value is None else str(value)


if __name__ == "__main__":
    leave(main())
