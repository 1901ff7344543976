"""Examine this machine: versions, devices, disk, locks, data, and ten seconds of training. Paste it into bug reports.

A line is `ok`, a `note`, or a `FAULT` with what to do. No line names a user, a host or a folder of yours.
"""

import contextlib
import io
import os
import platform
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmark.errors import BenchmarkError, command_parser, first_line, reported
from benchmark.experiment import machine
from benchmark.experiment.machine import Finding
from benchmark.runtime.ending import leave


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("doctor", __doc__, "0 sound, 1 a fault, 2 wrong arguments.", keeps_lines=True)
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    parser.add_argument("--no-training", action="store_true", help="leave out the ten seconds of training")
    options = parser.parse_args(arguments)
    faults = []
    for name, check in _checks(options.out, trains=not options.no_training):
        level, figure = _examine(check)
        print(f"{level:5}  {name:9}  {_public(figure, options.out)}", flush=True)
        faults += [name] * (level == "FAULT")
    print(f"Faults: {', '.join(faults)}." if faults else "No fault.")
    return 1 if faults else 0


def _checks(out: Path, *, trains: bool) -> Iterator[tuple[str, Callable[[], Finding]]]:
    yield "versions", machine.versions
    yield "imports", machine.imports
    yield "code", machine.checkout
    yield "processor", machine.processor
    yield "gpu", machine.gpu
    yield "compiler", machine.compiler
    yield "disk", partial(machine.disk, out, "give another --out")
    yield "lock", partial(machine.lock, out)
    yield "cache", machine.cache
    yield "digits", machine.digits
    yield "data", _data
    if trains:
        yield "training", _training


def _data() -> Finding:
    from benchmark.boards.inventory import data_sets, shipped

    return machine.data_sets({data.name: data.source for data in data_sets(shipped("protocol/*.gin"))})


def _training() -> Finding:
    import tomllib

    from benchmark.config.parse import shipped_folder

    return machine.training(tomllib.loads((shipped_folder() / "doctor.toml").read_text(encoding="utf-8"))["files"])


def _examine(check: Callable[[], Finding]) -> Finding:
    """Return what a check found; any error is a fault. What the check prints is left out."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return check()
    except BenchmarkError as error:
        return "FAULT", first_line(error)
    except ModuleNotFoundError as error:
        return "FAULT", f"{error}. {machine.REINSTALL}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return "FAULT", f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {first_line(error)}"


def _public(text: str, out: Path) -> str:
    """Return a text with the names of variables in place of private folders, and of other folders the last part."""
    places = {str(out.absolute()): "--out", str(Path.cwd()): "."}
    variables = {name: f"${name}" for name in ("SSL_BENCHMARK_DATA", "XDG_CACHE_HOME")} | {"HOME": "~"}
    places |= {
        str(Path(os.environ[name]).absolute()): shown for name, shown in variables.items() if os.environ.get(name)
    }
    places |= dict.fromkeys((platform.node(), platform.node().partition(".")[0]), "HOST")
    places[Path(os.environ.get("HOME", "")).name] = "USER"
    for place in sorted(places, key=len, reverse=True):
        if place not in ("", "/"):
            text = re.sub(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", places[place], text)
    return re.sub(r"(?<![\w$~./-])/(?:[^/\s'\":,;]+/)+", ".../", text)


if __name__ == "__main__":
    leave(main())
