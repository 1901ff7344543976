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
        return _spread(self.seconds[name])

    def faster(self, name: str, than: str) -> tuple[float, float, float]:
        """Return by how much a candidate is faster than another: the median over rounds, the least and the most."""
        return _spread([b / a for a, b in zip(self.seconds[name], self.seconds[than], strict=True)])


def interleave(candidates: Mapping[str, Callable[[], object]], rounds: int) -> Rounds:
    """Time the candidates in turn, `rounds` times after one turn to warm up, each round beginning with another."""
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            begin = time.perf_counter()
            candidates[name]()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return Rounds(seconds)


def _spread(values: list[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)
