"""What an evaluation that trains keeps of its work, so that the same command goes on after a stop."""

import hashlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.storage import checkpoint

SAVE_SECONDS = 300.0


class Saved:
    """The results of finished trainings, and the state of the present one, in a subfolder of `folder` until `discard`.

    The name of the subfolder has a hash of all that numbers depend on, which are `terms` and the version of torch.
    Without a folder nothing is saved.
    """

    def __init__(self, name: str, folder: Path | None, terms: tuple[object, ...]) -> None:
        self.key = hashlib.sha256(repr((*terms, torch.__version__)).encode()).hexdigest()
        self.folder = folder and folder / f"{name}-{self.key[:16]}"
        self.results: dict[str, dict[str, Tensor]] = {}
        self._current: dict[str, Any] | None = None
        self._saves, self._time = 0, time.monotonic()
        if self.folder:
            for warning in checkpoint.restore(self.folder, self.key, self._load) or ():
                print(f"warning: {warning}", file=sys.stderr)

    def _load(self, state: dict[str, Any]) -> None:
        self.results, self._current, self._saves = state["results"], state["present"], state["saves"]

    def begun(self, part: str) -> dict[str, Any] | None:
        """Return the state in which the training `part` was stopped, None if it was not begun."""
        self._time = time.monotonic()
        return self._current if self._current and self._current["part"] == part else None

    @property
    def is_due(self) -> bool:
        """Whether the state of the present training should be kept again."""
        return self.folder is not None and time.monotonic() - self._time > SAVE_SECONDS

    def keep(self, part: str, state: dict[str, Any]) -> None:
        """Save the state of the training `part`."""
        self._current = {"part": part} | state
        self._write()

    def finish(self, part: str, result: dict[str, Tensor]) -> None:
        """Save the result of the training `part`, whose state is needed no more."""
        self.results[part] = result
        self._current = None
        self._write()

    def discard(self) -> None:
        """Remove what was saved."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self) -> None:
        if self.folder:
            self._saves += 1
            state = {"key": self.key, "results": self.results, "present": self._current, "saves": self._saves}
            checkpoint.save(state, self._saves, self.folder)
        self._time = time.monotonic()
