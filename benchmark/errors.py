"""The ways in which a command ends, and the exception for each.

The main function of a command (`run.py`, `tables.py`, ...) is `reported`. Messages say what was wrong, what was
expected, what came and what to do.
"""

import difflib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # Ctrl-C, and what schedulers send

TRACEBACK = "SSL_BENCHMARK_TRACEBACK"  # set to anything, it has commands print the traceback of a refusal


class BenchmarkError(Exception):
    """The command failed for a reason that its message explains."""

    exit_code = 1


class MethodError(BenchmarkError):
    """Code of a method, or of what else a user brings, raised an error, which is its cause."""


class ConfigError(BenchmarkError):
    """The command line or a gin file asks for something impossible; nothing was built."""

    exit_code = 2


class MissingError(BenchmarkError):
    """Data or an optional package is missing or unreadable."""

    exit_code = 3


class CheckError(BenchmarkError):
    """A check found published files stale or inconsistent."""

    exit_code = 4


class Interrupted(BenchmarkError):  # noqa: N818, a stop on request is no error
    """The run was stopped by a signal, saved its state and can be resumed (EX_TEMPFAIL)."""

    exit_code = 75


class Stopped(Interrupted):
    """The command was stopped by a signal, and there is no state to resume."""

    exit_code = 130


def reported(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Have the main function of a command end with one sentence and its exit code: on a BenchmarkError or a signal."""

    @wraps(main)
    def command(arguments: Sequence[str] | None = None) -> int:
        try:
            with _stoppable():
                return main(arguments)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return stop.exit_code
        except BenchmarkError as problem:
            if os.environ.get(TRACEBACK):
                traceback.print_exception(problem)
            else:
                print(f"error: {unwrapped(problem)}", file=sys.stderr)
            return problem.exit_code
        except KeyboardInterrupt as stop:
            print(f"Stopped{by(stop)} before the end. Give the same command again.", file=sys.stderr)
            return Stopped.exit_code

    return command


@contextmanager
def _stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt with the name of the first signal that asks to stop; the same one again acts at once."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if number in received:
            os._exit(128 + number)
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt(signal.Signals(number).name)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # nohup and shells have a command in the background ignore some signals, which then stay ignored
        heeded = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def by(stop: KeyboardInterrupt) -> str:
    """Return " by SIGTERM" for a stop by this signal; nothing where it is not known."""
    return f" by {stop}" if stop.args else ""


def unwrapped(error: BaseException) -> BaseException:
    """Return the error that was raised: gin hands on proxies that append its chain of calls to the message."""
    original = error
    while not original.args and original.__context__:
        original = original.__context__
    return original


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is written most like `name`, whatever the case; None when none is near."""
    by_lower_case = {candidate.lower(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return by_lower_case[close[0]] if close else None


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a question to append to a message, " Did you mean X?", or nothing when no known name is near."""
    close = nearest(name, known)
    return f" Did you mean {close}?" if close else ""
