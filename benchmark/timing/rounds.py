"""Timing on a machine that is never quiet: all candidates take turns, and ratios are taken within a round."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

Spread = tuple[float, float, float]
"""The median over the rounds, the least and the most."""


@dataclass(frozen=True)
class Rounds:
    """The seconds of each candidate, one for each round; the rounds of all are aligned."""

    seconds: dict[str, list[float]]

    def typical(self, name: str) -> Spread:
        """Return the seconds of a candidate."""
        return _spread(self.seconds[name])

    def rate(self, name: str, work: float) -> Spread:
        """Return the work of a turn over its seconds."""
        return _spread([work / seconds for seconds in self.seconds[name]])

    def ratio(self, name: str, other: str, scale: float = 1.0) -> Spread:
        """Return the seconds of a candidate over those of another, times `scale`."""
        return _spread([scale * a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)])

    def faster(self, name: str, than: str) -> Spread:
        """Return how many times as fast as another a candidate is."""
        return self.ratio(than, name)

    def percent_of_peak(self, name: str, peak: str, work: Mapping[str, float]) -> Spread:
        """Return the percentage of a peak's speed that a candidate reaches; `work` has what each does in a turn."""
        return self.ratio(peak, name, 100 * work[name] / work[peak])


def interleave(
    candidates: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Rounds:
    """Time the candidates in turn, `rounds` times after one turn to warm up, each round beginning with another."""
    return take_turns({name: timed(act, clock) for name, act in candidates.items()}, rounds)


def take_turns(candidates: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Do as `interleave` with candidates that time themselves and return their seconds."""
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            taken = candidates[name]()
            if turn:
                seconds[name].append(taken)
    return Rounds(seconds)


def timed(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """Return a candidate that does `act` and returns the seconds."""

    def turn() -> float:
        begin = clock()
        act()
        return clock() - begin

    return turn


def _spread(values: list[float]) -> Spread:
    return median(values), min(values), max(values)
