"""trackio: `trackio show` shows the runs of this machine; with TRACKIO_SPACE_ID they go to a Space of Hugging Face."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import trackio

from benchmark.trackers.tracking import PROJECT


class Tracker:
    def __init__(self, folder: Path, facts: Mapping[str, str | float], resumed: bool) -> None:
        samplers = {"auto_log_gpu": False, "auto_log_cpu": False}  # they take time of steps
        resume = "allow" if resumed else "never"
        self._run = trackio.init(PROJECT, folder.name, config=dict(facts), resume=resume, embed=False, **samplers)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        self._run.log({name: trackio.Image(pixels)}, step=0)

    def close(self, *, is_done: bool) -> None:
        self._run.finish()
