"""TensorBoard: `tensorboard --logdir runs` shows the runs by the names of their folders."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter


class Tracker:
    def __init__(self, folder: Path, facts: Mapping[str, str | float], resumed: bool) -> None:
        self._folder = folder / "tensorboard"
        self._text = "".join(f"    {name} = {value}\n" for name, value in facts.items())  # Markdown of a block of code
        self._writer: SummaryWriter | None = None

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._at(step).add_scalar(name, value, step)

    def picture(self, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        self._at(0).add_image(name, pixels, 0, dataformats="HWC")

    def close(self, *, is_done: bool) -> None:
        if self._writer is not None:
            self._writer.close()

    def _at(self, step: int) -> SummaryWriter:
        if self._writer is None:  # what an earlier start showed from its first step on is hidden
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
            self._writer.add_text("facts", self._text, step)
        return self._writer
