"""The ways in which a command ends, and the exception for each.

The main function of a command (`run.py`, `tables.py`, ...) is `reported`. Messages say what was wrong, what was
expected, what came and what to do.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps


class BenchmarkError(Exception):
    """The command failed for a reason that its message explains."""

    exit_code = 1


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


def reported(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Have the main function of a command print the message of a BenchmarkError and return its exit code."""

    @wraps(main)
    def command(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except BenchmarkError as problem:
            print(f"error: {unwrapped(problem)}", file=sys.stderr)
            return problem.exit_code

    return command


def unwrapped(error: BenchmarkError) -> BaseException:
    """Return the error that was raised: gin hands on proxies that append its chain of calls to the message."""
    original: BaseException = error
    while not original.args and original.__context__:
        original = original.__context__
    return original
