"""The steps of a run: they own the clock, the randomness and the state; a method only computes a loss."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmark.data.resident import Resident
from benchmark.data.streaming import Prefetched, is_cropped_stored
from benchmark.errors import ConfigError, method_errors
from benchmark.method import Labelled, Method, Step, Views
from benchmark.randomness import Draws, seed_torch
from benchmark.runtime import progress, ranks
from benchmark.training import energy
from benchmark.training.budget import Ledger
from benchmark.training.compiler import require_compiler
from benchmark.training.memory import peak_bytes
from benchmark.training.optim import Optimiser
from benchmark.training.parallel import Division, require_alike
from benchmark.views.colour import normalise
from benchmark.views.geometry import Cut
from benchmark.views.recipes import Draw, View


@dataclass(kw_only=True)
class Steps:
    """The steps of a method on its data, from `step` to `steps`: optimiser, losses, ledger.

    Rates and momenta follow the progress in `schedule_steps`. `labels` are the classes of all images, on the device,
    for a method that learns from them.
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
    compiled: bool = False
    labels: Tensor | None = None
    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        self.losses = torch.zeros(self.steps, device=self.device)
        self.logs: dict[str, Tensor] = {}
        self._statistics = [torch.tensor(values, device=self.device) for values in (self.mean, self.std)]
        self._stop: int | None = None  # the signal that asks to stop
        self._forward: Callable[[Views, Draws], Step] = self.method
        if self.compiled:
            require_compiler(self.device)
            self._forward = torch.compile(self.method)  # the module that is saved stays as it is
        self._is_warm = not self.compiled
        self._division = Division(self.method, self.data.batch_size)
        self._is_cropped_stored = isinstance(self.data, Prefetched) and is_cropped_stored(self.data.images)
        if self._is_cropped_stored and any(view.resolution != 1 for view in self.views):
            raise ConfigError(
                "Images.cropped_from = 'original': crops are made at one size, and the recipe has views of several. "
                "Give 'centre', or views with a resolution of 1."
            )

    def advance(self, count: int, stepped: Callable[[], None] | None = None) -> float:
        """Take `count` steps, fewer if a signal asks to stop; charge and return their wall-clock seconds.

        Of several ranks rank 0 tells the others how many, and when to stop.
        """
        return self._advance(ranks.told(count), stepped)

    def _advance(self, count: int, stepped: Callable[[], None] | None = None) -> float:
        self.method.train()
        if not self._is_warm:
            with self._method_errors():
                self._warm_up()
        start, joules = self.step, energy.meter(self.device)
        begin = time.perf_counter()  # reading the meter is not timed
        while self.step < start + count:
            self._stop = ranks.told(self._stop)
            if self._stop is not None and self.step > start:
                break
            with self._method_errors():
                self._take()
            if stepped is not None:
                stepped()
        self._synchronize()
        seconds = time.perf_counter() - begin
        require_alike(self.method, self.step)
        self.ledger.charge(
            steps=self.step - start,
            batch_size=self.data.batch_size,
            n_views=len(self.views),
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
        return [ranks.whole(normalise(pixels, *self._statistics)) for pixels in self._pixels(step)]

    def next_views(self) -> list[Tensor]:
        """Return the views of the next step in [0, 1], of the rows of this rank; nothing is charged."""
        waited = self.ledger.data_wait_seconds
        with self._method_errors():
            views = list(self._pixels(self.step))
        self.ledger.data_wait_seconds = waited
        return views

    def _pixels(self, step: int) -> Iterator[Tensor]:
        """Yield the views of a step in [0, 1], for the rows of this rank."""
        begin = time.perf_counter()
        if isinstance(self.data, Prefetched) and self._is_cropped_stored:
            ids, crops = self.data.batch(step, self._cuts)
            makers = [partial(view.finish, crops[:, v]) for v, view in enumerate(self.views)]
        else:
            ids, images = self.data.batch(step)
            makers = [partial(view, images, images.shape[-1]) for view in self.views]
        if isinstance(self.method, Labelled) and self.labels is not None:
            self.method.labels = self.labels[ids]
        self.ledger.data_wait_seconds += time.perf_counter() - begin
        for make, draw in zip(makers, self._draws(step), strict=True):
            yield make(draw)

    def _draws(self, step: int) -> list[Draw]:
        """Return for each view what draws its numbers in a step, for the rows of this rank."""
        draws = Draws(self.seed, step, self.data.batch_size)

        def draw(v: int, name: str, *shape: int) -> Tensor:
            return ranks.rows(draws.rows(("view", v, name), *shape))

        return [partial(draw, v) for v in range(len(self.views))]

    def _cuts(self, step: int) -> list[Cut]:
        """Return the boxes of a step's views, by which images are cropped where they are decoded."""
        return [view.cut(draw) for view, draw in zip(self.views, self._draws(step), strict=True)]

    def differentiate(self) -> Step:
        """Pass the batch of this step forward and backward; the gradients are added to the existing ones."""
        seed_torch(self.seed, self.step, "torch")  # for a method that uses torch's own generator
        self.method.set_progress(self.step / self.schedule_steps)
        views = self.batch(self.step)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with autocast, self._division.of_a_pass():
            step = self._forward(views, Draws(self.seed, self.step, self.data.batch_size, self.device))
        step.loss.backward()
        self._division.sum_gradients()
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
