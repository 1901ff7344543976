"""The ways in which a command ends, and the exception for each.

A door (`run.py`, `tables.py`, ...) catches `BenchmarkError`, prints its message without a traceback and returns its
exit code. Messages say what was wrong, what was expected, what came and what to do.
"""


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
