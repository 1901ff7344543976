"""The compute budget: planned as a frozen number of steps, then charged to a ledger."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import gin

from benchmark.errors import ConfigError

MOST_STEPS = 10**9  # years on any device; the losses of all steps are kept in memory


@gin.register
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every method gets: `amount` of images drawn from the data set (`samples`) or of training `flops`.

    Whatever the kind, planning ends in a whole number of steps before the first one, so that a run is a function of
    its configuration and seed.
    """

    kind: Literal["samples", "flops"]
    amount: float

    def plan(self, *, batch_size: int, flops_per_step: int) -> int:
        """Return the number of steps that the budget pays for; part of a step is not bought."""
        price = batch_size if self.kind == "samples" else flops_per_step
        steps = math.floor(self.amount / price)
        if steps < 1:
            raise ConfigError(
                f"Budget.amount = {self.amount:g} {self.kind} buys no step: one step of {batch_size} images costs "
                f"{price:g} {self.kind}. Give a larger amount or a smaller batch."
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

    def without(self, steps: int, *, batch_size: int, flops_per_step: int) -> "Budget":
        """Return what is left after `steps` of another stage."""
        price = batch_size if self.kind == "samples" else flops_per_step
        return replace(self, amount=self.amount - steps * price)


@dataclass
class Ledger:
    """What a pretraining run has spent so far. Seconds are wall-clock, measured around whole windows of steps."""

    images: int = 0
    views: int = 0
    flops: int = 0
    train_seconds: float = 0.0
    peak_memory_bytes: int = 0
    resumes: int = 0

    def charge(self, *, steps: int, batch_size: int, n_views: int, flops_per_step: int, seconds: float) -> None:
        """Add a window of steps."""
        self.images += steps * batch_size
        self.views += steps * batch_size * n_views
        self.flops += steps * flops_per_step
        self.train_seconds += seconds

    def state(self) -> dict[str, int | float]:
        """Return the ledger as plain numbers, for the checkpoint."""
        return asdict(self)
