"""Send a signal in each phase of a run, give the same command again, and compare with a run that nobody disturbed.

    python tests/signals.py    SIGTERM, SIGINT, SIGUSR1 and SIGHUP in 6 phases of 3 methods, one of which has a teacher

Prints how many runs ended in 75, how many went on to the same digests, scores, logs and files, and the most steps that
a signal lost. Each child sends the signal to itself when it comes to the phase, by way of `kills.py`.
"""

import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kills import EVALUATE, ROOT, RUN, STEPS, Attempts, State, case_of_run, compare, images, preload

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
METHODS = ("simclr", "mae", "mimco")
PHASES = {
    "start": ("benchmark.experiment.stage:Stage.check", 1),
    "data": ("benchmark.data.images:Images.decoded", 1),
    "floors": ("benchmark.evals.harness:evaluate_pixels", 1),
    "teacher": ("benchmark.training.steps:Steps._take", 3),
    "training": ("benchmark.training.steps:Steps._take", 4),
    "evaluation": ("benchmark.evals.knn:KNN.__call__", 3),
    "writing": ("benchmark.report.record:write", 3),
}
"""What a phase calls, and at which call the signal comes; of training, after the steps of the teacher."""
OF_TEACHER = {"mimco": STEPS // 2}
"""The steps of a method's teacher, which has half of the budget."""


def sends(phase: str, number: int, before: int) -> Callable[[], None]:
    """Return a hook that sends a signal to its own process in a phase, just before a call, `before` calls later."""
    place, call = PHASES[phase]
    module, name = place.split(":")

    def hook() -> None:
        *path, last = name.split(".")
        owner: Any = importlib.import_module(module)
        for part in path:
            owner = getattr(owner, part)
        called, calls = getattr(owner, last), []

        def counted(*arguments: Any, **named: Any) -> Any:
            calls.append(None)
            if len(calls) == call + before:
                os.kill(os.getpid(), number)
            return called(*arguments, **named)

        setattr(owner, last, counted)

    return hook


def disturbed(
    method: str, phase: str, name: str, whole: State, folder: Path, shared: Path
) -> tuple[int | None, int, bool]:
    """Return the code of the run that got the signal, the steps that it lost, and whether it went on to equal files."""
    attempts = Attempts(case_of_run(method), folder, shared)
    number = getattr(signal, name)
    before = OF_TEACHER.get(method, 0) if phase == "training" else 0
    code = attempts.start(sends(phase, number, before)).wait()
    log = folder / "log.txt"
    said = log.read_text()
    again = attempts.start().wait()
    resumed = [int(step) for step in re.findall(r"goes on from step (\d+)", log.read_text())]
    lost = PHASES[phase][1] - max(resumed, default=0) if phase in ("training", "teacher") else 0
    found = compare(whole, State.of(folder))
    is_equal = again == 0 and not any(found.values())
    if code != 75 or not is_equal or lost > 1:
        print(
            f"  {method}, {phase}, {name}: code {code}, then {again}, {lost} lost; {found}\n{said[-500:]}", flush=True
        )
    shutil.rmtree(folder)
    return code, lost, is_equal


def main() -> int:
    os.chdir(ROOT)
    begin, ended, equal, count, most = time.monotonic(), 0, 0, 0, 0
    for module in (RUN, "benchmark.experiment.run", EVALUATE):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as place:
        for method in METHODS:
            base = Path(place) / method
            images(base / "shared" / "images")
            preload(Path(place), Attempts(case_of_run(method), base / "first", base / "shared"))
            assert Attempts(case_of_run(method), base / "whole", base / "shared").start().wait() == 0
            whole = State.of(base / "whole")
            for phase in PHASES:
                for name in SIGNALS if phase != "teacher" or method == "mimco" else ():
                    code, lost, is_equal = disturbed(method, phase, name, whole, base / "signal", base / "shared")
                    count, ended, equal, most = count + 1, ended + (code == 75), equal + is_equal, max(most, lost)
            print(f"{method}: {count} signals so far, {ended} ended in 75, {equal} went on to equal files", flush=True)
    minutes = (time.monotonic() - begin) / 60
    print(
        f"{count} signals: {ended} ended in 75, {equal} went on to equal files, at most {most} steps lost, "
        f"{minutes:.0f} minutes"
    )
    return int(not ended == equal == count or most > 1)


if __name__ == "__main__":
    sys.exit(main())
