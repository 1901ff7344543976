"""How long a step takes on this device: measured before a run whose budget is in seconds, on one that is discarded."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch

from benchmark.runtime import progress
from benchmark.storage.files import alone, written_whole
from benchmark.training.budget import TOLERANCE
from benchmark.training.loop import Training, window_of

WARMUP = 10  # steps: allocations and the choice of kernels in the first half, the length of windows by the second
WINDOWS = 5
FEWEST = 4  # steps a window
SHARE = 0.2  # of the budget in seconds that the windows take: speed drifts, and so it does within the run
WHOLE = 10**6  # steps, more than are ever taken


@dataclass(frozen=True)
class Calibration:
    """Seconds of a step: the mean of the windows, as a run is their sum, the least and the most."""

    seconds: float
    least: float
    most: float

    @classmethod
    def measure(cls, training: Training, budget: float) -> "Calibration":
        """Take steps of a run of `WHOLE` steps, for a share of the budget's seconds: real steps, on real inputs."""
        half = WARMUP // 2
        training.advance(half)
        about = training.advance(half) / half
        count = min(max(round(SHARE * budget / WINDOWS / about), FEWEST), (WHOLE - WARMUP) // WINDOWS)
        piece = window_of(round(budget / about))  # a device that runs dry between two loses some time each time
        pieces = max(1, count // piece)
        windows = [sum(training.advance(piece) for _ in range(pieces)) / (pieces * piece) for _ in range(WINDOWS)]
        return cls(fmean(windows), min(windows), max(windows))

    @property
    def is_steady(self) -> bool:
        """Whether its windows lie no further apart than runs may that keep their budget."""
        return self.most - self.least <= 2 * TOLERANCE * self.seconds


def stored(path: Path, build: Callable[[], Training], budget: float) -> Calibration:
    """Read a calibration, or measure and write it: all seeds of a configuration take the same steps."""
    with alone(path):
        if path.is_file():
            return Calibration(**json.loads(path.read_text()))
        found = _measured(build, budget)
        with written_whole(path) as partial:
            partial.write_text(json.dumps(asdict(found), indent=2) + "\n")
        return found


@progress.doing("calibrating a step")
def _measured(build: Callable[[], Training], budget: float) -> Calibration:
    """Measure, warn of a device that drifts, and leave its memory as it was."""
    training = build()
    found = Calibration.measure(training, budget)
    if not found.is_steady:
        print(
            f"warning: while a step was calibrated, it took from {1000 * found.least:.1f} to {1000 * found.most:.1f} "
            f"ms. The speed of this device drifts, and runs may miss their budget by over {TOLERANCE:.0%}. Let nothing "
            f"else run on it; where it shares its cores with other machines, give the budget in FLOPs.",
            file=sys.stderr,
        )
    del training
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found
