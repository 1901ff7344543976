"""How commands end: an exception and an exit code for each way.

The main function of a command (`run.py`, `tables.py`, ...) is decorated by `reported`. Messages say what was wrong,
what was expected, what the value was and what to do.

An error in a user's code is reported by its file and line. An error in our code keeps its traceback. User code is all
code that is neither in this package nor installed; the baselines count as user code.
"""

import argparse
import difflib
import errno
import os
import shutil
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

STOPS = tuple(  # Ctrl-C, what schedulers send, and a terminal that closes; Windows does not have all of them
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
Handler = Callable[[int, FrameType | None], None]

TRACEBACK = "SSL_BENCHMARK_TRACEBACK"  # where this variable is set, commands print the traceback of a BenchmarkError


class BenchmarkError(Exception):
    """The command failed for a reason that its message explains."""

    exit_code = 1


class MethodError(BenchmarkError):
    """User code, such as a method, raised an error, which is the cause of this one."""


class ConfigError(BenchmarkError):
    """The command line or a gin file asks for something impossible; nothing was built."""

    exit_code = 2


class MissingError(BenchmarkError):
    """Data or an optional package is missing or unreadable."""

    exit_code = 3


class CheckError(BenchmarkError):
    """A check found published files stale or inconsistent."""

    exit_code = 4


class Interrupted(BenchmarkError):  # noqa: N818, stopping on request is no error
    """The command was stopped by a signal, and the same command goes on with what is finished (EX_TEMPFAIL)."""

    exit_code = 75


class Stopped(Interrupted):
    """The command was stopped by a signal, and the same command begins anew."""

    exit_code = 130


def reported(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Decorate the main function of a command: errors and signals end it with one sentence and an exit code."""

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
        except OSError as problem:
            if (message := no_room(problem)) is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            return BenchmarkError.exit_code
        except KeyboardInterrupt as stop:
            print(f"Stopped{by(stop)} before the end. Give the same command again.", file=sys.stderr)
            return Stopped.exit_code

    return command


def command_parser(name: str, about: str | None, codes: str, *, keeps_lines: bool = False) -> argparse.ArgumentParser:
    """Return the parser of `python -m benchmark.NAME`: options are written in full, and its help ends with exit codes.

    The help has the text `about` as a paragraph, or with `keeps_lines` as it is written.
    """
    kind = argparse.RawDescriptionHelpFormatter if keeps_lines else argparse.HelpFormatter
    prog, epilog = f"python -m benchmark.{name}", f"exit codes: {codes}"
    return argparse.ArgumentParser(prog, description=about, epilog=epilog, formatter_class=kind, allow_abbrev=False)


def no_room(problem: BaseException) -> str | None:
    """Return a sentence where a disk is full, a quota is spent or a file system may not be written to; else None."""
    if not isinstance(problem, OSError) or problem.errno not in NO_ROOM:
        return None
    place = Path(str(problem.filename)) if problem.filename else Path()
    above = next(path for path in (place.absolute(), *place.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(above).free / 2**20
    what = f"{place} cannot be written" if problem.filename else "A file cannot be written"
    return (
        f"{what}: {problem.strerror} ({free:,.0f} MiB are free there). What was finished is kept: make room, and give "
        f"the same command again."
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt with the name of the first stop signal; the same signal again ends the process."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if number in received:
            os._exit(128 + number)
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt(signal.Signals(number).name)

    with stops_by(stop):
        yield


@contextmanager
def stops_by(handler: Handler) -> Iterator[dict[int, Any]]:
    """Handle the stop signals, and yield the handlers that they had, which they get back at the end.

    Signals that nohup or a shell set to be ignored, for a command in the background, stay ignored. Does nothing in any
    thread but the main one.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handled = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
        before |= {number: signal.signal(number, handler) for number in handled}
    try:
        yield before
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def by(stop: KeyboardInterrupt) -> str:
    """Return " by SIGTERM" for a stop by this signal; "" where the signal is unknown."""
    return f" by {stop}" if stop.args else ""


def unwrapped(error: BaseException) -> BaseException:
    """Return the original error: gin raises a proxy of it, with gin's chain of calls appended to the message."""
    original = error
    while not original.args and original.__context__:
        original = original.__context__
    return original


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate whose spelling is closest to `name`, in any case of letters; None if none is close."""
    by_lower_case = {candidate.lower(): candidate for candidate in sorted(candidates)}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return by_lower_case[close[0]] if close else None


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return " Did you mean X?" to append to a message; "" if no candidate is close."""
    close = nearest(name, candidates)
    return f" Did you mean {close}?" if close else ""


HERE = Path(__file__).parent
BASELINES = HERE.parent / "baselines"
STANDARD = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


@contextmanager
def method_errors(doing: str, owner: Any = None, batch_size: int | None = None) -> Iterator[None]:
    """Turn errors of user code inside, such as a method's `forward`, into MethodError; other errors pass.

    `doing` begins the message. `owner` is the class that is called: a call with wrong arguments is then reported by
    the line of its function. With a `batch_size`, the message for a lack of memory says what to lower.
    """
    try:
        yield
    except BenchmarkError:
        raise
    except Exception as error:
        if batch_size is not None and _is_out_of_memory(error):
            raise MethodError(
                f"{doing}: the memory does not hold a step of {batch_size:,} images ({first_line(error)}). Lower "
                f"Pretraining.batch_size, or take a smaller encoder or image."
            ) from error
        message = located(error, owner)
        if message is None:
            raise
        raise MethodError(f"{doing}: {message}\n{TRACEBACK}=1 in the environment shows the whole traceback.") from error


def located(error: BaseException, owner: Any = None) -> str | None:
    """Return an error as "mine.py, line 31, in forward: RuntimeError: ..."; None if no user code is involved."""
    where, original = place(error, owner), unwrapped(error)
    return where and f"{where}: {type(original).__name__}: {original}"


def place(error: BaseException, owner: Any = None) -> str | None:
    """Return the innermost line of user code in the traceback, as "mine.py, line 31, in forward"; None without any."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [(frame.filename, frame.lineno, frame.name) for frame in frames if is_user_code(frame.filename)]
    line = lines[-1] if lines else _definition(error, owner)
    return line and f"{shown_path(line[0])}, line {line[1]}, in {line[2]}"


def is_user_code(file: str) -> bool:
    """Return whether a source file is user code."""
    path = Path(file)
    if not path.is_absolute():  # "<frozen importlib>", "<string>"
        return False
    if path.is_relative_to(BASELINES):
        return True
    installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return not (installed or any(map(path.is_relative_to, (HERE, *STANDARD))))


def shown_path(file: str) -> str:
    """Return a path as messages show it: relative to the working directory if it is inside."""
    path, working = Path(file), Path.cwd()
    return str(path.relative_to(working) if path.is_relative_to(working) else path)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: torch appends its own stack to it."""
    return (str(unwrapped(error)).splitlines() or [""])[0]


def _definition(error: BaseException, owner: Any) -> tuple[str, int | None, str] | None:
    """Return file, line and name of user code that Python rejects from outside, so that no traceback shows it.

    These are wrong syntax, a function that is called with wrong arguments, and an abstract class.
    """
    import inspect  # costs more than all else that a refusal or --help needs

    if isinstance(error, SyntaxError) and error.filename and is_user_code(error.filename):
        return error.filename, error.lineno, "<module>"
    if not isinstance(error, TypeError):
        return None
    message = str(unwrapped(error))
    for kind in inspect.getmro(owner) if isinstance(owner, type) else (owner,):
        members = vars(kind).values() if isinstance(kind, type) else (kind,)
        for function in map(inspect.unwrap, filter(inspect.isfunction, members)):
            file = function.__code__.co_filename
            if f"{function.__qualname__}()" in message and is_user_code(file):
                return file, function.__code__.co_firstlineno, function.__name__
        if isinstance(kind, type) and f"abstract class {kind.__name__} " in message:
            file = inspect.getsourcefile(kind) or ""
            if is_user_code(file):
                return file, inspect.getsourcelines(kind)[1], kind.__name__
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the host ran out of memory; for the host, torch raises a plain RuntimeError."""
    of_device = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return of_device or isinstance(error, MemoryError) or "can't allocate memory" in str(error)
