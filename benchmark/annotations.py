"""Ranges and other notes with which a parameter says what a configuration may bind it to."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

AUTO = "auto"

Location = Annotated[str, "location"]
"""Annotates a parameter that says where something lies, such as a path: it never changes what a run computes."""

Residence = Annotated[bool, "location"]
"""Annotates a parameter that says whether something lies in memory: it never changes what a run computes either."""


@dataclass(frozen=True)
class Range:
    """Annotates the finite numbers from `least` to `most`, without these themselves if `above` and `below`."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        low = number > self.least if self.above else number >= self.least
        return low and (number < self.most if self.below or self.most == math.inf else number <= self.most)

    def __str__(self) -> str:
        low = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
        high = f"below {self.most:g}" if self.below else f"at most {self.most:g}"
        return low if self.most == math.inf else f"{low} and {high}"


Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, above=True)]
Count = Annotated[int, Range(1)]


@dataclass(frozen=True)
class Decided:
    """Annotates a parameter that may also be bound to 'auto', which `by` replaces before anything is built or keyed."""

    by: Callable[[], str]

    def __str__(self) -> str:
        return f"or {AUTO!r}"


def decided(value: Any, hint: Any) -> Any:
    """Return what 'auto' stands for, for a parameter that is `Decided`; any other value as it is."""
    notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Decided)]
    return notes[0].by() if notes and value == AUTO else value


def is_location(hint: Any) -> bool:
    """Return whether the annotation, or a part of it such as `Location | None`, is a `Location` or a `Residence`."""
    return "location" in getattr(hint, "__metadata__", ()) or any(map(is_location, get_args(hint)))
