"""How far a run of training is, shown while it goes on, and how long the rest takes, said once at its beginning."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from benchmark.runtime import progress

SKIPPED = 3  # first steps, which are slower than the others
MEASURED = 3.0  # seconds of at least so many steps after which the time of the rest is said
FEWEST = 10
LATEST = 15.0  # seconds after which it is said, however few the steps


class Pace:
    """Counts the steps of a run; `evaluation_seconds` are those that follow it, where they are known."""

    def __init__(self, bar: "tqdm[Any]", step: int, steps: int, evaluation_seconds: float | None) -> None:
        self.bar, self.step, self.steps = bar, step, steps
        self.first = step + SKIPPED
        self.evaluation_seconds = evaluation_seconds
        self.begun: float | None = None
        self.left: float | None = None
        self.is_said = False
        self.last_window = ""

    def stepped(self) -> None:
        """Count a step."""
        self.step += 1
        self.bar.update()
        now = time.monotonic()
        if self.step == self.first:
            self.begun = now
        if self.begun is not None and self.step > self.first:
            seconds, taken = now - self.begun, self.step - self.first
            self.left = seconds / taken * (self.steps - self.step)
            if not self.is_said and (seconds >= LATEST or (seconds >= MEASURED and taken >= FEWEST)):
                self._foretell(self.left)
        self._say()

    def looked(self, loss: float, images_per_second: float) -> None:
        """Note the last loss of a window of steps and its speed."""
        self.last_window = f"loss {loss:.4g}, {images_per_second:,.0f} images/s"
        self.bar.set_postfix_str(self.last_window, refresh=False)
        self._say()

    def _say(self) -> None:
        place = f"{self.step / self.steps:.0%} of the budget, step {self.step:,} of {self.steps:,}"
        left = "" if self.left is None else f"about {progress.duration(self.left)} left"
        progress.say(", ".join(filter(None, (place, self.last_window, left))))

    def _foretell(self, left: float) -> None:
        evaluation = self.evaluation_seconds
        then = "" if evaluation is None else f", then about {progress.duration(evaluation)} of evaluation"
        progress.announce(f"about {progress.duration(left)} of training{then}")
        self.is_said = True


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
