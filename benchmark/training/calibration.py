"""Measures how long a step takes on this device, for a budget in seconds, on a run that is discarded."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch

from benchmark.runtime import progress, sharing
from benchmark.storage.claim import Held
from benchmark.storage.files import atomic_write, claim, exclusive
from benchmark.training.budget import TOLERANCE
from benchmark.training.loop import Training, window_of

WARMUP = 10  # steps: the first half for allocations and the choice of kernels, the second to choose the windows' length
WINDOWS = 5
FEWEST = 4  # least steps of a window
SHARE = 0.2  # of the budget in seconds that the windows take, long enough to see the speed drift as it does in a run
WHOLE = 10**6  # steps of the discarded run, more than are ever taken


@dataclass(frozen=True)
class Calibration:
    """Seconds of a step: the mean, the least and the most of the windows' means."""

    seconds: float
    least: float
    most: float

    @classmethod
    def measure(cls, training: Training, budget: float) -> "Calibration":
        """Time real steps on real inputs, for a share of the budget's seconds; `training` has `WHOLE` steps."""
        half = WARMUP // 2
        training.advance(half)
        about = training.advance(half) / half
        count = min(max(round(SHARE * budget / WINDOWS / about), FEWEST), (WHOLE - WARMUP) // WINDOWS)
        piece = window_of(round(budget / about))  # as in the run, which waits for the device after each window
        pieces = max(1, count // piece)
        windows = [sum(training.advance(piece) for _ in range(pieces)) / (pieces * piece) for _ in range(WINDOWS)]
        return cls(fmean(windows), min(windows), max(windows))

    @property
    def is_steady(self) -> bool:
        """Whether the windows differ by no more than runs may that keep their budget."""
        return self.most - self.least <= 2 * TOLERANCE * self.seconds


def stored(path: Path, build: Callable[[], Training], budget: float) -> Calibration:
    """Read a calibration, or measure and write it, so that all seeds of a configuration take the same steps."""
    with exclusive(path) if sharing.at_once() == 1 else _held_under_load(path, build):
        if path.is_file():
            return Calibration(**json.loads(path.read_text()))
        with progress.doing("calibrating a step"):
            calibration = Calibration.measure(build(), budget)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        least, most = 1000 * calibration.least, 1000 * calibration.most
        if not calibration.is_steady:
            print(
                f"warning: while a step was calibrated, it took from {least:.1f} to {most:.1f} ms. The speed of this "
                f"device drifts, and runs may miss their budget by over {TOLERANCE:.0%}. Let nothing else run on it; "
                f"if it shares its cores with other machines, give the budget in FLOPs.",
                file=sys.stderr,
            )
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(asdict(calibration), indent=2) + "\n")
        return calibration


@contextmanager
def _held_under_load(path: Path, build: Callable[[], Training]) -> Iterator[None]:
    """Hold the claim of a calibration; while another process has it, take steps that are discarded.

    A step is then calibrated under the load that runs at once are for each other, and not while they wait.
    """
    held, load = claim(path), None
    while True:
        try:
            held.acquire(0)
            break
        except Held:
            load = load or build()
            load.advance(FEWEST)
    with held:
        yield
