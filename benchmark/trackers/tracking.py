"""What a run hands to its tracker, and that a tracker that fails changes nothing.

A module of this folder is a tracker. Its class `Tracker` is made by the folder of a run, whose name the run has there,
facts that describe the run, and whether it goes on with an earlier start.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.errors import MissingError, first_line

ADVICE = {"wandb": " It needs `wandb login`, or WANDB_MODE=offline in the environment."}
ROWS = 8  # images of a batch whose views are shown
PROJECT = "ssl-benchmark"  # under which trackers keep runs together


class Tracker(Protocol):
    """A run in a tracker. Whatever a method raises, the run goes on without the tracker."""

    def log(self, step: int, values: dict[str, float]) -> object:
        """Show values at a step; steps do not decrease."""

    def picture(self, name: str, pixels: npt.NDArray[np.uint8]) -> object:
        """Show a picture, uint8 `(height, width, 3)`, at step 0."""

    def close(self, *, is_done: bool) -> object:
        """Write what is left, for at most a minute."""


@dataclass
class Tracking:
    """The tracker of a run until it fails, which is said once; None from then on."""

    name: str
    tracker: Tracker | None

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the numbers among values at a step."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float) and name != "step"}
        self._attempt(lambda tracker: tracker.log(step, numbers))

    def picture(self, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Show a picture, uint8 `(height, width, 3)`."""
        self._attempt(lambda tracker: tracker.picture(name, pixels))

    def close(self, *, is_done: bool) -> None:
        """Let the tracker end; a run that is not done goes on at another time."""
        self._attempt(lambda tracker: tracker.close(is_done=is_done))

    def _attempt(self, show: Callable[[Tracker], object]) -> None:
        if self.tracker is None:
            return
        try:
            show(self.tracker)
        except Exception as problem:  # whatever is wrong with a tracker, the run goes on
            self.tracker = None
            print(
                f"warning: --track {self.name} failed ({type(problem).__name__}: {first_line(problem)}). The run goes "
                f"on without it.",
                file=sys.stderr,
            )


@contextmanager
def tracked(
    name: str | None, folder: Path, facts: Mapping[str, str | float], *, resumed: bool
) -> Iterator[Tracking | None]:
    """Track a run, whose folder gives it its name; None without the name of a tracker.

    Raises MissingError where the tracker does not start, for instance without a login.
    """
    if name is None:
        yield None
        return
    try:
        tracking = Tracking(name, import_module(f"benchmark.trackers.{name}").Tracker(folder, facts, resumed))
    except Exception as problem:
        raise MissingError(
            f"--track {name} did not start ({type(problem).__name__}: {first_line(problem)}). Nothing was trained. Set "
            f"up {name}, or leave --track out.{ADVICE.get(name, '')}"
        ) from problem
    is_done = False
    try:
        yield tracking
        is_done = True
    finally:
        tracking.close(is_done=is_done)


def sheet(views: Sequence[Tensor]) -> npt.NDArray[np.uint8]:
    """Return the views of the first images as a picture, uint8 `(height, width, 3)`: a row for each image.

    `views` are in [0, 1], each `(batch, 3, side, side)`; small ones are shown as large as the largest.
    """
    side = max(view.shape[-1] for view in views)
    shown = torch.stack([F.interpolate(view[:ROWS].float(), size=(side, side)) for view in views], dim=1)
    picture = shown.permute(0, 3, 1, 4, 2).reshape(-1, len(views) * side, 3)  # (row, y, view, x, colour)
    return (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
