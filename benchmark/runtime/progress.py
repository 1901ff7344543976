"""What a command is doing: said in a line on stderr whenever the command was silent for a while.

Parts of the work name themselves (`doing`), and loops say how far they are (`each`, `say`). The thread of `shown` reads
that, so that it also speaks during a single slow step. Without `shown` nothing is printed.
"""

import io
import sys
import threading
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

INTERVAL = 15.0  # seconds between two lines

Item = TypeVar("Item")


@dataclass(eq=False)
class _Activity:
    """Something that is being done, how far it is, since when, and when it last went on."""

    text: str
    has_bar: bool
    detail: str = ""
    begun: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".strip()


_activities: list[_Activity] = []  # each is a part of the one before


@contextmanager
def doing(text: str, *, has_bar: bool = False) -> Iterator[None]:
    """Name what is done inside; with a bar on the terminal nothing more is printed as long as the bar moves."""
    activity = _Activity(text, has_bar)
    _activities.append(activity)
    try:
        yield
    finally:
        if activity in _activities:
            del _activities[_activities.index(activity) :]


def say(detail: str) -> None:
    """Say how far the present activity is."""
    if _activities:
        _activities[-1].detail, _activities[-1].moved = detail, time.monotonic()


def each(items: Collection[Item], what: str) -> Generator[Item, None, None]:
    """Yield the items and say which one is at work, for instance "strength 4 of 12"."""
    with doing(what):
        for number, item in enumerate(items, 1):
            say(f"{number:,} of {len(items):,}")
            yield item


@contextmanager
def shown() -> Iterator[None]:
    """Print what is being done every `INTERVAL` seconds; lines on stdout appear at once, also in a file."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    over = threading.Event()
    with doing("working"):
        thread = threading.Thread(target=_watch, args=(over, INTERVAL), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def announce(text: str) -> None:
    """Print a line on stdout, above the bar where there is one."""
    from tqdm import tqdm  # here, so that commands answer --help at once

    tqdm.write(text)


def duration(seconds: float) -> str:
    """Return seconds in words: "12 s", "1 min 05 s" or "2 h 05 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _watch(over: threading.Event, interval: float) -> None:
    """Speak whenever neither a line nor a moving bar was seen for an interval."""
    seen = time.monotonic()
    while not over.wait(max(0.0, seen + interval - time.monotonic())):
        seen = max(seen, *(activity.moved for activity in tuple(_activities) if activity.has_bar), 0.0)
        if time.monotonic() >= seen + interval:
            _speak()
            seen = time.monotonic()


def _speak() -> None:
    from tqdm import tqdm

    whole, *parts = tuple(_activities)
    first, *rest = parts or [whole]
    text = f"{first}: {', '.join(map(str, rest))}" if rest else str(first)
    tqdm.write(f"{text} ({duration(time.monotonic() - first.begun)})", file=sys.stderr)
