"""Shows how far a training run is, and announces once, near its beginning, how long the rest takes."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from benchmark.runtime import progress

SKIPPED = 3  # first steps that are not timed, since they are slower than the others
MEASURED = 3.0  # seconds and
FEWEST = 10  # steps that are timed before the time of the rest is announced
LATEST = 15.0  # seconds after which it is announced even with fewer steps


class Pace:
    """Counts the steps of a run; `evaluation_seconds` is the time of the evaluation after it, if known."""

    def __init__(self, bar: "tqdm[Any]", step: int, steps: int, evaluation_seconds: float | None) -> None:
        self.bar, self.step, self.steps = bar, step, steps
        self.first = step + SKIPPED
        self.evaluation_seconds = evaluation_seconds
        self.begin = 0.0
        self.left: float | None = None
        self.is_announced = False
        self.last_window = ""
        self.accuracy = ""

    def stepped(self) -> None:
        """Count a step."""
        self.step += 1
        self.bar.update()
        now = time.monotonic()
        if self.step == self.first:
            self.begin = now
        if self.step > self.first:
            seconds, timed = now - self.begin, self.step - self.first
            self.left = seconds / timed * (self.steps - self.step)
            if not self.is_announced and (seconds >= LATEST or (seconds >= MEASURED and timed >= FEWEST)):
                self._announce(self.left)
        self._say()

    def looked(self, loss: float, images_per_second: float) -> None:
        """Show the last loss of a window of steps and its speed."""
        self.last_window = f"loss {loss:.4g}, {images_per_second:,.0f} images/s"
        self._show()

    def measured(self, accuracy: float, error: float) -> None:
        """Show the last accuracy on images of train, with its standard error."""
        self.accuracy = f"kNN on train {100 * accuracy:.1f} ± {100 * error:.1f} %"
        self._show()

    def paused(self, seconds: float) -> None:
        """Leave seconds that are no part of training out of the time of the rest."""
        self.begin += seconds

    def _show(self) -> None:
        self.bar.set_postfix_str(", ".join(filter(None, (self.last_window, self.accuracy))), refresh=False)
        self._say()

    def _say(self) -> None:
        position = f"{self.step / self.steps:.0%} of the budget, step {self.step:,} of {self.steps:,}"
        left = "" if self.left is None else f"about {progress.duration(self.left)} left"
        progress.say(", ".join(filter(None, (position, self.last_window, self.accuracy, left))))

    def _announce(self, left: float) -> None:
        evaluation = self.evaluation_seconds
        then = "" if evaluation is None else f", then about {progress.duration(evaluation)} of evaluation"
        progress.announce(f"about {progress.duration(left)} of training{then}")
        self.is_announced = True


@contextmanager
def paced(step: int, steps: int, evaluation_seconds: float | None) -> Iterator[Pace]:
    """Show a run that begins at `step`: as a bar on a terminal, elsewhere in the lines of `progress`."""
    terminal = sys.stderr.isatty()
    bar: tqdm[Any] = tqdm(
        desc="pretraining",
        total=steps,
        initial=step,
        unit="step",
        mininterval=0.2,
        dynamic_ncols=True,
        disable=not terminal,
        bar_format="{desc} {percentage:3.0f}% of the budget |{bar:20}| "
        "step {n}/{total} [{elapsed}<{remaining}]{postfix}",
    )
    with progress.doing("pretraining", has_bar=terminal), bar:
        yield Pace(bar, step, steps, evaluation_seconds)
