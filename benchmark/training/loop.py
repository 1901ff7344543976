"""The training loop: the steps of a run with their log, checkpoints, measurements and signals."""

import io
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from benchmark.errors import BenchmarkError, Interrupted, stops_by
from benchmark.nets.encoders import Encoder
from benchmark.runtime import progress, ranks
from benchmark.storage import checkpoint, claim
from benchmark.storage.digest import digest, flatten, kinds
from benchmark.trackers.tracking import Tracking, sheet
from benchmark.training.budget import Ledger
from benchmark.training.memory import reset_peak
from benchmark.training.monitor import Health, Probe, health, points_of, standard_error
from benchmark.training.pace import Pace, paced
from benchmark.training.steps import Steps
from benchmark.views.colour import normalise

MONITORED = 512  # images of the fixed batch on which health is measured
MONITORS = 20  # measurements of health per run, at least `WINDOW` steps apart
WRITING = 0.02  # share of the time that writing checkpoints takes at most
TRACKED = 200  # lines of the log that a tracker is shown, beside those with measurements
WINDOW = 50  # most steps between two readings of the loss
STOP = -1  # what rank 0 tells the others in place of a number of steps


@dataclass(frozen=True)
class Outcome:
    """How a run of pretraining ended; `curve` has what the probe returned, by step."""

    status: Literal["ok", "diverged", "overtime"]
    loss: float | None
    logs: dict[str, float]
    digest: str
    health: Health
    checkpoint: Path
    curve: Mapping[int, float]


@dataclass(kw_only=True)
class Training(Steps):
    """One run of pretraining and its whole state: its steps with their log, checkpoints, measurements and signals.

    `evaluation_seconds` is the time of the evaluation after it, if known, to be announced with that of training. At
    `points` equal shares of the budget, the last of which is the end, `probe` measures the encoder and `keep` stores it
    with the step; neither is charged. `tracking` shows the lines of the log elsewhere.
    """

    folder: Path
    key: str
    checkpoint_seconds: float
    most_seconds: float = math.inf
    evaluation_seconds: float | None = None
    points: int = 0
    probe: Probe | None = None
    keep: Callable[[Encoder, int], object] | None = None
    tracking: Tracking | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.curve: dict[int, float] = {}

    def run(self, resume: bool) -> Outcome:
        """Train to the last step, from the newest checkpoint if `resume`."""
        if resume:
            self._restore()
        self._share()
        metrics = self.folder / "metrics.jsonl"
        if damaged := checkpoint.keep_lines(metrics, self.step):
            print(f"warning: {damaged} damaged lines of {metrics} were dropped.", file=sys.stderr)
        window = window_of(self.steps)
        every = max(WINDOW, self.steps // MONITORS)
        points = points_of(self.steps, self.points)
        shown = self.step
        saved, pause = time.monotonic(), self.checkpoint_seconds
        measured: Health | None = None
        if self.tracking and self.step == 0:
            self.tracking.picture("views", sheet(self.next_views()))
        reset_peak(self.device)
        with self._signals(), metrics.open("a") as log, paced(self.step, self.steps, self.evaluation_seconds) as pace:
            while self.step < self.steps and self._is_finite() and self.ledger.train_seconds <= self.most_seconds:
                begin, measured = self.step, None
                start = begin - begin % window  # a resumed run completes the window that a signal cut short
                end = min(start + window, self.steps, *(point for point in points if point > begin))
                speed = (end - begin) * self.data.batch_size / self.advance(end - begin, pace.stepped)
                claim.check()
                if self.step == end:
                    loss = self._loss(window)
                    line: dict[str, Any] = {
                        "step": end,
                        "loss": loss,
                        **self._finite_logs(),
                        "rate": self.optimiser.inner.param_groups[0]["lr"],
                        "images_per_second": speed,
                        "train_seconds": self.ledger.train_seconds,
                    }
                    if loss is not None and (start // every != end // every or end == self.steps):
                        measured = self.health()
                        line |= asdict(measured)
                    if loss is not None and end in points:
                        line |= self._measure(pace)
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    pace.looked(float(self.losses[end - 1]), speed)
                    if measured or end in points or end - shown >= self.steps // TRACKED:
                        self._track(line, pace)
                        shown = end
                if self._stop is not None:
                    self.save()
                    ranks.told(STOP)
                    raise Interrupted(
                        f"Stopped by {signal.Signals(self._stop).name} after step {self.step} of {self.steps}; the "
                        f"state is saved. The same command goes on from there."
                    )
                if time.monotonic() - saved > pause:
                    begun = time.monotonic()
                    self.save()
                    saved = time.monotonic()
                    pause = max(self.checkpoint_seconds, (saved - begun) / WRITING)
        ranks.told(0)
        is_over = self.step == self.steps
        return Outcome(
            status="diverged" if not self._is_finite() else "ok" if is_over else "overtime",
            loss=self._loss(window),
            logs=self._finite_logs(),
            digest=digest(flatten(self._identity())),
            health=measured or self.health(),
            checkpoint=self.save(),
            curve=self.curve,
        )

    def follow(self) -> None:
        """Train as rank 0 says, in a process of another rank, which logs, measures and stores nothing."""
        self._share()
        with self._signals():
            while (count := ranks.told(None)) > 0:
                self._advance(count)
        if count == STOP:
            raise Interrupted(f"Stopped with rank 0 after step {self.step}.")

    def _share(self) -> None:
        """Take over, in a process of another rank, the state from which rank 0 goes on."""
        if ranks.size() == 1:
            return
        stored = io.BytesIO()
        if ranks.rank() == 0 and self.step:
            torch.save(self._state(), stored)
        told = ranks.told(stored.getvalue())
        if ranks.rank() > 0 and told:
            self._load(torch.load(io.BytesIO(told), map_location=self.device, weights_only=True))

    def _is_finite(self) -> bool:
        return bool(self.losses[: self.step].isfinite().all())

    def _loss(self, window: int) -> float | None:
        """Return the mean loss of the window of the last step, None if it is not finite."""
        loss = float(self.losses[(self.step - 1) // window * window : self.step].mean())
        return loss if math.isfinite(loss) else None

    def _finite_logs(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.logs.items() if math.isfinite(value)}

    def health(self) -> Health:
        """Measure the encoder on a fixed batch in eval mode; the time is not charged."""
        images = self.data.images[:MONITORED].float() / 255
        return health(self.method.encoder, normalise(images, *self._statistics))

    def _measure(self, pace: Pace) -> dict[str, float]:
        """Store the encoder and measure it by the probe, if asked, and return what is to be logged; nothing is charged.

        The memory that it takes is not counted either.
        """
        begin, logged = time.monotonic(), {}
        if self.keep:
            self.keep(self.method.encoder, self.step)
        if self.probe:
            accuracy = self.curve[self.step] = self.probe(self.method.encoder)
            error = standard_error(accuracy, self.probe.queries)
            logged = {"knn": accuracy, "knn_standard_error": error}
            pace.measured(accuracy, error)
        reset_peak(self.device)
        pace.paused(time.monotonic() - begin)
        return logged

    def _track(self, line: dict[str, Any], pace: Pace) -> None:
        """Show a line of the log, with what of the budget is spent, in the tracker; the time is not charged."""
        if self.tracking:
            begin = time.monotonic()
            spent = {"images": self.ledger.images, "flops": self.ledger.flops, "share": self.step / self.steps}
            self.tracking.log(self.step, line | {f"budget/{name}": value for name, value in spent.items()})
            pace.paused(time.monotonic() - begin)

    def save(self) -> Path:
        """Write a checkpoint of the whole state."""
        return checkpoint.save(self._state(), self.step, self.folder / "checkpoints")

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        logs = {name: float(value) for name, value in self.logs.items()}
        return self._identity() | {"key": self.key, "ledger": asdict(self.ledger), "logs": logs, "curve": self.curve}

    def _identity(self) -> dict[str, Any]:
        """Return the state that two equal runs share, so without timings."""
        return {
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.inner.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }

    def _restore(self) -> None:
        folder = self.folder / "checkpoints"  # is there once a first checkpoint was written
        warnings = checkpoint.restore(folder, self.key, self._load)
        logged = checkpoint.last_step(self.folder / "metrics.jsonl")
        if warnings is None and logged and folder.is_dir():
            raise BenchmarkError(
                f"{self.folder} has logged {logged} steps but has no checkpoint. Put it back, or start over: --fresh"
            )
        for warning in warnings or ():
            print(f"warning: {warning}", file=sys.stderr)
        if 0 < self.step < self.steps:
            progress.announce(f"goes on from step {self.step:,} of {self.steps:,}; --fresh starts over")

    def _load(self, state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint.

        Raises ValueError, or what its parts raise, where this run could not have written it.
        """
        state = {"curve": {}} | state  # checkpoints of earlier code have no curve
        if not 0 < state["step"] <= self.steps:
            raise ValueError(f"it is of step {state['step']}, the run has {self.steps}")
        self.method.load_state_dict(state["method"])
        self.optimiser.load(state["optimiser"])
        self.step = state["step"]
        self.losses.copy_(state["losses"])
        self.logs = {name: torch.tensor(value) for name, value in state["logs"].items()}
        self.ledger = Ledger(**state["ledger"])
        if not all(value is None or isinstance(value, int | float) for value in state["ledger"].values()):
            raise ValueError("its ledger holds what is no number")
        self.curve = dict(state["curve"])
        if kinds(flatten(self._state())) != kinds(flatten(state)):
            raise ValueError("its values have other names, types or shapes than those of this run")
        self.ledger.resumes += self.step < self.steps

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let a signal stop the run at the next step; the same signal again acts at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = number
            signal.signal(number, before[number])

        with stops_by(stop) as before:
            yield


def window_of(steps: int) -> int:
    """Return the steps between two readings of the loss, for which the host waits for the device."""
    return max(1, min(WINDOW, steps // 100))
