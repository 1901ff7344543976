"""The compute budget: planned as a frozen number of steps, then charged to a ledger."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import gin

from benchmark.errors import BenchmarkError, ConfigError

MOST_STEPS = 10**9  # years on any device; the losses of all steps are kept in memory
TOLERANCE = 0.03  # of a budget in seconds that a run may take more or less
OVERTIME = 1.5  # times a budget in seconds at which a run is stopped


Kind = Literal["samples", "flops", "device_seconds"]


@dataclass(frozen=True)
class Price:
    """What one step costs: images, counted FLOPs and, where it was calibrated, seconds on this device."""

    images: int
    flops: int
    seconds: float | None = None

    def of(self, kind: Kind) -> float:
        """Return the cost in units of a budget."""
        if kind == "device_seconds":
            if self.seconds is None:
                raise BenchmarkError("A budget in device seconds needs a calibrated step.")
            return self.seconds
        return self.images if kind == "samples" else self.flops


@gin.register
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every method gets: `amount` of images (`samples`), of training `flops`, or of `device_seconds`.

    Whatever the kind, planning ends in a whole number of steps before the first one, so that a run is a function of
    its configuration and seed. Seconds are planned by calibration and held against the clock afterwards.
    """

    kind: Kind
    amount: float

    def plan(self, price: Price) -> int:
        """Return the number of steps that the budget pays for; part of a step is not bought."""
        cost = price.of(self.kind)
        steps = math.floor(self.amount / cost)
        if steps < 1:
            raise ConfigError(
                f"Budget.amount = {self.amount:g} {self.kind} buys no step: one step of {price.images} images costs "
                f"{cost:g} {self.kind}. Give a larger amount or a smaller batch."
            )
        if steps > MOST_STEPS:
            raise ConfigError(
                f"Budget.amount = {self.amount:g} {self.kind} buys {steps:,} steps; {MOST_STEPS:,} is the most that a "
                f"run can have. Is the amount in {self.kind}?"
            )
        return steps

    def part(self, share: float) -> "Budget":
        """Return the budget of a stage that may spend `share` of this one."""
        return replace(self, amount=self.amount * share)

    def without(self, steps: int, price: Price) -> "Budget":
        """Return what is left after `steps` of another stage."""
        return replace(self, amount=self.amount - steps * price.of(self.kind))

    @property
    def most_seconds(self) -> float:
        """The seconds after which a run is stopped; endless unless the budget is in seconds."""
        return OVERTIME * self.amount if self.kind == "device_seconds" else math.inf

    def verdict(self, seconds: float) -> Literal["ok", "budget_miss", "overtime"]:
        """Hold the seconds that a run took against a budget in seconds."""
        if self.kind != "device_seconds" or abs(seconds - self.amount) <= TOLERANCE * self.amount:
            return "ok"
        return "overtime" if seconds > self.most_seconds else "budget_miss"


@dataclass
class Ledger:
    """What a pretraining run has spent so far.

    Seconds are wall-clock. Those of training are measured around whole windows of steps; in them the host waited
    `data_wait_seconds` for batches. Those of compilation, once each time that the run starts or is resumed, are not
    among them. `joules` are those of the GPU during training, None where it has no meter.
    """

    images: int = 0
    views: int = 0
    flops: int = 0
    train_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    compile_seconds: float = 0.0
    joules: float | None = None
    peak_memory_bytes: int = 0
    resumes: int = 0

    def charge(
        self, *, steps: int, batch_size: int, n_views: int, flops_per_step: int, seconds: float, joules: float | None
    ) -> None:
        """Add a window of steps."""
        if joules is not None:
            self.joules = joules + (self.joules or 0.0)
        self.images += steps * batch_size
        self.views += steps * batch_size * n_views
        self.flops += steps * flops_per_step
        self.train_seconds += seconds

    def state(self) -> dict[str, int | float | None]:
        """Return the ledger as plain numbers, for the checkpoint."""
        return asdict(self)
