"""Timing on a machine that is never quiet: all candidates take turns, and ratios are taken within a turn."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Rounds:
    """The seconds of each candidate, one for each round; the rounds of all are aligned."""

    seconds: dict[str, list[float]]

    def typical(self, name: str) -> tuple[float, float, float]:
        """Return the median of a candidate's seconds, the least and the most."""
        return spread(self.seconds[name])

    def faster(self, name: str, than: str) -> tuple[float, float, float]:
        """Return by how much a candidate is faster than another: the median over rounds, the least and the most."""
        return spread([b / a for a, b in zip(self.seconds[name], self.seconds[than], strict=True)])

    def rate(self, name: str, work: float) -> tuple[float, float, float]:
        """Return the work of a turn over its seconds: the median over rounds, the least and the most."""
        return spread([work / seconds for seconds in self.seconds[name]])


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


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median of the values, the least and the most."""
    return median(values), min(values), max(values)


def timed(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """Return a candidate that does `act` and returns the seconds."""

    def turn() -> float:
        begin = clock()
        act()
        return clock() - begin

    return turn
