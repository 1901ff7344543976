"""The training loop: it owns the clock, the randomness and the state; a method only computes a loss."""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark.data.resident import Resident
from benchmark.errors import BenchmarkError, Interrupted, method_errors, stops_by
from benchmark.method import Labelled, Method, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws, derive
from benchmark.runtime import progress
from benchmark.storage import checkpoint
from benchmark.storage.digest import digest, flatten
from benchmark.training import energy
from benchmark.training.budget import Ledger
from benchmark.training.compiler import require_compiler
from benchmark.training.memory import peak_bytes, reset_peak
from benchmark.training.monitor import Health, Probe, health, points_of, standard_error
from benchmark.training.optim import Optimiser
from benchmark.training.pace import Pace, paced
from benchmark.views.colour import normalise
from benchmark.views.recipes import View

MONITORED = 512  # images of the fixed batch on which health is measured
MONITORS = 20  # measurements of health per run, at least `WINDOW` steps apart
WRITING = 0.02  # share of the time that writing checkpoints takes at most
WINDOW = 50  # most steps between two readings of the loss


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


@dataclass
class Training:
    """One run of pretraining and its whole state: method, optimiser, step, losses, ledger.

    `evaluation_seconds` is the time of the evaluation after it, if known, to be announced with that of training. At
    `points` equal shares of the budget, the last of which is the end, `probe` measures the encoder and `keep` stores it
    with the step; neither is charged. Rates and momenta follow the progress in `schedule_steps`. `labels` are the
    classes of all images, on the device, for a method that learns from them.
    """

    method: Method
    optimiser: Optimiser
    views: Sequence[View]
    data: Resident
    mean: Sequence[float]
    std: Sequence[float]
    steps: int
    schedule_steps: int
    flops_per_step: int
    seed: int
    precision: Literal["float32", "bfloat16"]
    device: torch.device
    folder: Path
    key: str
    checkpoint_seconds: float
    most_seconds: float = math.inf
    compiled: bool = False
    evaluation_seconds: float | None = None
    labels: Tensor | None = None
    points: int = 0
    probe: Probe | None = None
    keep: Callable[[Encoder, int], object] | None = None
    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        self.losses = torch.zeros(self.steps, device=self.device)
        self.logs: dict[str, Tensor] = {}
        self.curve: dict[int, float] = {}
        self._statistics = [torch.tensor(values, device=self.device) for values in (self.mean, self.std)]
        self._stop: int | None = None
        self._forward: Callable[[Views, Draws], Step] = self.method
        if self.compiled:
            require_compiler(self.device)
            self._forward = torch.compile(self.method)  # the module that is saved stays as it is
        self._is_warm = not self.compiled

    def run(self, resume: bool) -> Outcome:
        """Train to the last step, from the newest checkpoint if `resume`."""
        if resume:
            self._restore()
        metrics = self.folder / "metrics.jsonl"
        if damaged := checkpoint.keep_lines(metrics, self.step):
            print(f"warning: {damaged} damaged lines of {metrics} were dropped.", file=sys.stderr)
        window = window_of(self.steps)
        every = max(WINDOW, self.steps // MONITORS)
        points = points_of(self.steps, self.points)
        saved, pause = time.monotonic(), self.checkpoint_seconds
        measured: Health | None = None
        reset_peak(self.device)
        with self._signals(), metrics.open("a") as log, paced(self.step, self.steps, self.evaluation_seconds) as pace:
            while self.step < self.steps and self._is_finite() and self.ledger.train_seconds <= self.most_seconds:
                begin, measured = self.step, None
                start = begin - begin % window  # a resumed run completes the window that a signal cut short
                end = min(start + window, self.steps, *(point for point in points if point > begin))
                speed = (end - begin) * self.data.batch_size / self.advance(end - begin, pace.stepped)
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
                if self._stop is not None:
                    self.save()
                    raise Interrupted(
                        f"Stopped by {signal.Signals(self._stop).name} after step {self.step} of {self.steps}; the "
                        f"state is saved. The same command goes on from there."
                    )
                if time.monotonic() - saved > pause:
                    begun = time.monotonic()
                    self.save()
                    saved = time.monotonic()
                    pause = max(self.checkpoint_seconds, (saved - begun) / WRITING)
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

    def advance(self, count: int, stepped: Callable[[], None] | None = None) -> float:
        """Take `count` steps, fewer if a signal asks to stop; charge and return their wall-clock seconds."""
        self.method.train()
        if not self._is_warm:
            with self._method_errors():
                self._warm_up()
        start, joules = self.step, energy.meter(self.device)
        begin = time.perf_counter()  # reading the meter is not timed
        while self.step < start + count and (self._stop is None or self.step == start):
            with self._method_errors():
                self._take()
            if stepped is not None:
                stepped()
        self._synchronize()
        seconds = time.perf_counter() - begin
        self.ledger.charge(
            steps=self.step - start,
            batch_size=self.data.batch_size,
            n_views=self.method.n_views,
            flops_per_step=self.flops_per_step,
            seconds=seconds,
            joules=energy.between(joules, energy.meter(self.device)),
        )
        self.ledger.peak_memory_bytes = max(self.ledger.peak_memory_bytes, peak_bytes(self.device))
        return seconds

    def _method_errors(self) -> AbstractContextManager[None]:
        """Turn errors of the method's own code, and lack of memory, into one sentence."""
        name = type(self.method).__name__
        return method_errors(f"Step {self.step + 1} of {name} failed", type(self.method), self.data.batch_size)

    def _take(self) -> None:
        step = self.differentiate()
        self.method.after_backward(step)
        progress = self.step / self.schedule_steps
        self.optimiser.step(progress)
        self.method.after_step(progress)
        self.losses[self.step] = step.loss.detach()
        self.logs = step.logs
        self.step += 1

    def batch(self, step: int) -> list[Tensor]:
        """Return the views of a step, normalised, each `(batch, 3, height, width)`."""
        begin = time.perf_counter()
        ids, images = self.data.batch(step)
        if isinstance(self.method, Labelled) and self.labels is not None:
            self.method.labels = self.labels[ids]
        self.ledger.data_wait_seconds += time.perf_counter() - begin
        draws, views = Draws(self.seed, step, len(images)), []
        for v, view in enumerate(self.views):
            pixels = view(images, images.shape[-1], lambda name, *shape, v=v: draws.rows(("view", v, name), *shape))
            views.append(normalise(pixels, *self._statistics))
        return views

    def differentiate(self) -> Step:
        """Pass the batch of this step forward and backward; the gradients are added to the existing ones."""
        torch.manual_seed(derive(self.seed, self.step, "torch"))  # for a method that uses torch's own generator
        views = self.batch(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            step = self._forward(views, Draws(self.seed, self.step, self.data.batch_size, self.device))
        step.loss.backward()
        return step

    @progress.doing("compiling")
    def _warm_up(self) -> None:
        """Compile on the batch of this step, without a change of the state, and charge the seconds.

        They are those of a first pass forward and backward minus those of a second one, which compiles nothing.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.method.buffers()]
        seconds, waited = [], self.ledger.data_wait_seconds
        for _ in range(2):
            begin = time.perf_counter()
            self.differentiate()
            self._synchronize()
            seconds.append(time.perf_counter() - begin)
        for buffer, before in buffers:
            buffer.copy_(before)
        self.method.zero_grad()
        self.ledger.data_wait_seconds = waited
        self.ledger.compile_seconds += max(0.0, seconds[0] - seconds[1])
        self._is_warm = True

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

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

    def save(self) -> Path:
        """Write a checkpoint of the whole state."""
        logs = {name: float(value) for name, value in self.logs.items()}
        state = self._identity() | {"key": self.key, "ledger": asdict(self.ledger), "logs": logs, "curve": self.curve}
        return checkpoint.save(state, self.step, self.folder / "checkpoints")

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
        """Take over the state of a checkpoint."""
        self.method.load_state_dict(state["method"])
        self.optimiser.inner.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.losses.copy_(state["losses"])
        self.logs = {name: torch.tensor(value) for name, value in state["logs"].items()}
        self.ledger = Ledger(**state["ledger"])
        self.curve = state.get("curve", {})  # checkpoints of earlier code have none
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
