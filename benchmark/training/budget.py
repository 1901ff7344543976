"""The compute budget: planned as a fixed number of steps; what is spent is added up in a ledger."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import gin

from benchmark.errors import BenchmarkError, ConfigError

MOST_STEPS = 10**9  # years on any device; the losses of all steps are kept in memory
TOLERANCE = 0.03  # share of a budget in seconds by which a run may miss it
OVERTIME = 1.5  # multiple of a budget in seconds after which a run is stopped


Kind = Literal["samples", "flops", "device_seconds"]


@dataclass(frozen=True)
class Price:
    """What one step costs: images, counted FLOPs and, if calibrated, seconds on this device."""

    images: int
    flops: int
    seconds: float | None = None

    def of(self, kind: Kind) -> float:
        """Return the cost in the units of a budget."""
        if kind == "device_seconds":
            if self.seconds is None:
                raise BenchmarkError("A budget in device seconds needs a calibrated step.")
            return self.seconds
        return self.images if kind == "samples" else self.flops


@gin.register
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every method gets: `amount` of images (`samples`), of training `flops`, or of `device_seconds`.

    Each kind is planned as a whole number of steps before the first one, so that a run is a function of its
    configuration and seed. Seconds are planned by calibration and checked afterwards.
    """

    kind: Kind
    amount: float

    def plan(self, price: Price) -> int:
        """Return the number of whole steps that the budget pays for; raises ConfigError for none or far too many."""
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
        """Return what is left after `steps` of an earlier stage."""
        return replace(self, amount=self.amount - steps * price.of(self.kind))

    @property
    def most_seconds(self) -> float:
        """The seconds after which a run is stopped; infinite unless the budget is in seconds."""
        return OVERTIME * self.amount if self.kind == "device_seconds" else math.inf

    def verdict(self, seconds: float) -> Literal["ok", "budget_miss", "overtime"]:
        """Compare the seconds that a run took with a budget in seconds; other budgets are always "ok"."""
        if self.kind != "device_seconds" or abs(seconds - self.amount) <= TOLERANCE * self.amount:
            return "ok"
        return "overtime" if seconds > self.most_seconds else "budget_miss"


@dataclass
class Ledger:
    """What a pretraining run has spent so far.

    Seconds are wall-clock. `train_seconds` are measured around whole windows of steps and include `data_wait_seconds`,
    in which the host waited for batches, but not `compile_seconds`, which are spent at each start and resumption.
    `joules` are those of the GPU during training, None where a part of it had no meter.
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
        if joules is None:
            self.joules = None
        elif self.joules is not None or not self.images:  # a part without a meter leaves no sum of the whole
            self.joules = joules + (self.joules or 0.0)
        self.images += steps * batch_size
        self.views += steps * batch_size * n_views
        self.flops += steps * flops_per_step
        self.train_seconds += seconds
