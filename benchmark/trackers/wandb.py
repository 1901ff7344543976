"""Weights & Biases; with WANDB_MODE=offline it writes into the folder of the run, for `wandb sync`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wandb

from benchmark.trackers.tracking import PROJECT


class Tracker:
    def __init__(self, folder: Path, facts: Mapping[str, str | float], resumed: bool) -> None:
        settings = wandb.Settings(console="off", x_disable_stats=True, finish_timeout=60)  # samplers take time of steps
        self._run = wandb.init(
            project=PROJECT, id=folder.name, name=folder.name, dir=folder, config=dict(facts), settings=settings,
            resume="allow" if resumed else None,
        )  # fmt: skip

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        self._run.log({name: wandb.Image(pixels)}, step=0)

    def close(self, *, is_done: bool) -> None:
        self._run.finish(exit_code=0 if is_done else 1)
