"""Progress: a line on stderr that says what a command is doing, whenever it printed nothing for a while.

Code names its activity by `doing`, and loops report how far they are by `each` and `say`. A thread of `shown` prints
these, so a line also appears during one slow step. Without `shown` nothing is printed.
"""

import io
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TextIO, TypeVar

INTERVAL = 15.0  # seconds between two lines
LINE = re.compile(rb" \((\d+ s|\d+ min \d\d s|\d+ h \d\d min)\)$")  # the end of a line of progress

Item = TypeVar("Item")


@dataclass(eq=False)
class _Activity:
    """What is being done, how far it is, when it began, and when it last moved; times in seconds."""

    text: str
    has_bar: bool
    detail: str = ""
    begun: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".strip()


_activities: list[_Activity] = []  # each is part of the one before
_thread = threading.local()  # has `silent` in a thread that is


def be_silent() -> None:
    """Leave out what this thread does: another one says how far the work of both is."""
    _thread.silent = True


@contextmanager
def doing(text: str, *, has_bar: bool = False) -> Iterator[None]:
    """Name what is done inside. With a bar on the terminal, lines are printed only while the bar stands still."""
    if hasattr(_thread, "silent"):
        yield
        return
    activity = _Activity(text, has_bar)
    _activities.append(activity)
    try:
        yield
    finally:
        if activity in _activities:
            del _activities[_activities.index(activity) :]


def say(detail: str) -> None:
    """Report how far the innermost activity is."""
    if _activities and not hasattr(_thread, "silent"):
        _activities[-1].detail, _activities[-1].moved = detail, time.monotonic()


def each(items: Collection[Item], what: str) -> Generator[Item, None, None]:
    """Yield the items and report which one is in use, for instance "strength 4 of 12"."""
    with doing(what):
        for number, item in enumerate(items, 1):
            say(f"{number:,} of {len(items):,}")
            yield item


@contextmanager
def shown() -> Iterator[None]:
    """Print what is being done every `INTERVAL` seconds, and flush stdout after each line, also to a file."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    ended = threading.Event()
    with doing("working"):
        thread = threading.Thread(target=_watch, args=(ended, INTERVAL), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def announce(text: str) -> None:
    """Print a line on stdout at once, above the bars if there are any."""
    from tqdm import tqdm  # imported late: commands print --help at once

    tqdm.write(text)
    sys.stdout.flush()


class Relay:
    """Prints what a process says, each line after its name, so that several can print at once.

    On a terminal, each line of progress takes the place of the one before, below all that is printed.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        from tqdm import tqdm

        self._name = name
        self._bar = tqdm(bar_format="{desc}", desc=name, leave=False, disable=not sys.stderr.isatty())
        streams = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        self._threads = [threading.Thread(target=self._print, args=each, daemon=True) for each in streams]
        for thread in self._threads:
            thread.start()

    def _print(self, stream: IO[bytes] | None, out: TextIO) -> None:
        from tqdm import tqdm

        for whole in stream or ():
            line = whole.rstrip().rpartition(b"\r")[2]  # of a bar that writes to a log, its last state
            text = f"{self._name}: {line.decode(errors='replace')}"
            if LINE.search(line) and not self._bar.disable:
                self._bar.set_description_str(text[: shutil.get_terminal_size().columns - 1])
            elif line:
                tqdm.write(text, file=out)
                out.flush()

    def close(self) -> None:
        """Print the rest of what the process said, and take its line away."""
        for thread in self._threads:
            thread.join(timeout=5)  # a process that it started may keep the stream open
        self._bar.close()


def duration(seconds: float) -> str:
    """Return seconds in words: "12 s", "1 min 05 s" or "2 h 05 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _watch(ended: threading.Event, interval: float) -> None:
    """Print a line whenever neither a line appeared nor a bar moved for an interval, in seconds."""
    last = time.monotonic()
    while not ended.wait(max(0.0, last + interval - time.monotonic())):
        last = max([last, *(activity.moved for activity in tuple(_activities) if activity.has_bar)])
        if time.monotonic() >= last + interval:
            _print_activities()
            last = time.monotonic()


def _print_activities() -> None:
    from tqdm import tqdm

    whole, *parts = tuple(_activities)
    first, *rest = parts or [whole]
    text = f"{first}: {', '.join(map(str, rest))}" if rest else str(first)
    tqdm.write(f"{text} ({duration(time.monotonic() - first.begun)})", file=sys.stderr)
