"""How long a step takes on this device: measured before a run whose budget is in seconds, on one that is discarded."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from benchmark.training.loop import Training

WARMUP = 10  # steps: allocations and the choice of kernels
WINDOWS = 5
STEPS = 20  # a window
WHOLE = WARMUP + WINDOWS * STEPS


@dataclass(frozen=True)
class Calibration:
    """Seconds of a step: the median of the windows, the least and the most."""

    seconds: float
    least: float
    most: float

    @classmethod
    def measure(cls, training: Training) -> "Calibration":
        """Take steps of a run of `WHOLE` steps: the real step, fed by the real input path."""
        training.advance(WARMUP)
        windows = [training.advance(STEPS) / STEPS for _ in range(WINDOWS)]
        return cls(median(windows), min(windows), max(windows))


def stored(path: Path, build: Callable[[], Training]) -> Calibration:
    """Read a calibration, or measure and write it: all seeds of a configuration take the same steps."""
    if path.is_file():
        return Calibration(**json.loads(path.read_text()))
    training = build()
    found = Calibration.measure(training)
    del training
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(found), indent=2) + "\n")
    partial.replace(path)
    return found
