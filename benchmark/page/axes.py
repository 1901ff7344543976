"""Axes of a plot: which numbers they reach, where a number lies in pixels, and their ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.report.text import flops_unit

ALIKE = 1.01  # costs within this ratio are drawn as one
LEAST_RATIO = 2.0  # of the ends of a logarithmic axis
STEPS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    tuple(i / 10 for i in range(10, 100)),
)
LINEAR_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
MOST_TICKS = 6
Tick = tuple[float, str]


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` on pixels from `start` to `end`, with ticks at some numbers."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of a number; numbers beyond an end lie at the end."""
        low, high, value = map(math.log, (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def value(self, pixel: float) -> float:
        """Return the number at a pixel."""
        share = (pixel - self.start) / (self.end - self.start)
        return self.low * (self.high / self.low) ** share if self.is_log else self.low + share * (self.high - self.low)


def logarithmic(values: Sequence[float], start: float, end: float) -> Axis:
    """Return a logarithmic axis that reaches all values; if these are alike, its only tick is their middle."""
    low, high = min(values), max(values)
    middle = math.sqrt(low * high)
    factor = max(math.sqrt(high / low) * 1.12, math.sqrt(LEAST_RATIO))
    ends = middle / factor, middle * factor
    ticks = [(middle, f"{middle:,.3g}")] if high <= low * ALIKE else _log_ticks(*ends)
    return Axis(*ends, start, end, tuple(ticks), is_log=True)


def linear(low: float, high: float, start: float, end: float) -> Axis:
    """Return an axis of accuracies in %, a little longer than asked for and within 0 to 100."""
    margin = max(0.05 * (high - low), 0.25)
    low, high = max(low - margin, 0.0), min(high + margin, 100.0)
    step = next(step for step in LINEAR_STEPS if (high - low) / step <= MOST_TICKS or step == LINEAR_STEPS[-1])
    numbers = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(low, high, start, end, tuple((number, f"{number:g}") for number in numbers))


def unit(kind: str, costs: Sequence[float]) -> tuple[str, float]:
    """Return the unit in which costs of a kind are shown, and its size."""
    largest = max(costs)
    if kind == "flops":
        return flops_unit(costs)
    sizes = {
        "seconds": (("device hours", 3600.0, 7200.0), ("device minutes", 60.0, 120.0), ("device seconds", 1.0, 0.0)),
        "joules": (("MJ", 1e6, 1e6), ("kJ", 1e3, 1e3), ("J", 1.0, 0.0)),
    }[kind]
    return next((name, size) for name, size, least in sizes if largest >= least)


def _log_ticks(low: float, high: float) -> list[Tick]:
    """Return at least three round numbers between the ends, the roundest that there are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers: list[float] = []
    for steps in STEPS:
        numbers = [value for each in decades for step in steps if low <= (value := step * 10.0**each) <= high]
        if len(numbers) >= 3:
            break
    skip = math.ceil(len(numbers) / (MOST_TICKS + 2))
    return [(number, f"{number:,.4g}") for number in numbers[::skip]]
