"""The ways in which a command ends, and the exception for each.

The main function of a command (`run.py`, `tables.py`, ...) is `reported`. Messages say what was wrong, what was
expected, what came and what to do.

What a user's code raises is told with its file and line; what ours raises keeps its traceback. Code is the user's
where it is neither this package nor installed beside it; the baselines count as a user's.
"""

import difflib
import inspect
import os
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


HERE = Path(__file__).parent
BASELINES = HERE.parent / "baselines"
STANDARD = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


@contextmanager
def blamed(doing: str, owner: Any = None, batch_size: int | None = None) -> Iterator[None]:
    """Raise MethodError for what user's code raises within, such as a method's `forward`; all else passes.

    `doing` begins the message. `owner` is the class that is called, so that a call which does not fit its functions
    is told by their lines. With a `batch_size`, memory that runs out is answered with what to lower.
    """
    try:
        yield
    except BenchmarkError:  # says itself what is wrong
        raise
    except Exception as error:
        if batch_size is not None and _is_out_of_memory(error):
            raise MethodError(
                f"{doing}: the memory does not hold a step of {batch_size:,} images ({first_line(error)}). Lower "
                f"Pretraining.batch_size, or take a smaller encoder or image."
            ) from error
        found = located(error, owner)
        if found is None:
            raise
        raise MethodError(f"{doing}: {found}\n{TRACEBACK}=1 in the environment shows the whole traceback.") from error


def located(error: BaseException, owner: Any = None) -> str | None:
    """Return an error as "mine.py, line 31, in forward: RuntimeError: ..."; None where no line of a user is in it."""
    where, original = place(error, owner), unwrapped(error)
    return where and f"{where}: {type(original).__name__}: {original}"


def place(error: BaseException, owner: Any = None) -> str | None:
    """Return the innermost line of a user that an error passed through, as "mine.py, line 31, in forward"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [(frame.filename, frame.lineno, frame.name) for frame in frames if is_users(frame.filename)]
    found = own[-1] if own else _definition(error, owner)
    return found and f"{shown(found[0])}, line {found[1]}, in {found[2]}"


def is_users(file: str) -> bool:
    """Return whether a file of source is a user's."""
    path = Path(file)
    if not path.is_absolute():  # "<frozen importlib>", "<string>"
        return False
    if path.is_relative_to(BASELINES):
        return True
    installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return not (installed or any(map(path.is_relative_to, (HERE, *STANDARD))))


def shown(file: str) -> str:
    """Return a path as messages show it: from the working directory where it lies below."""
    path, working = Path(file), Path.cwd()
    return str(path.relative_to(working) if path.is_relative_to(working) else path)


def first_line(error: BaseException) -> str:
    """Return what an error says, without the lines that follow: those of torch hold its own stack."""
    return (str(unwrapped(error)).splitlines() or [""])[0]


def _definition(error: BaseException, owner: Any) -> tuple[str, int | None, str] | None:
    """Return the function that was called with other arguments, the class that cannot be made, or the wrong syntax.

    Python raises these outside, so that no line of the user's is in the traceback.
    """
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        return error.filename, error.lineno, "<module>"
    if not isinstance(error, TypeError):
        return None
    message = str(unwrapped(error))
    for kind in inspect.getmro(owner) if isinstance(owner, type) else (owner,):
        members = vars(kind).values() if isinstance(kind, type) else (kind,)
        for function in map(inspect.unwrap, filter(inspect.isfunction, members)):
            file = function.__code__.co_filename
            if f"{function.__qualname__}()" in message and is_users(file):
                return file, function.__code__.co_firstlineno, function.__name__
        if isinstance(kind, type) and f"abstract class {kind.__name__} " in message:
            file = inspect.getsourcefile(kind) or ""
            if is_users(file):
                return file, inspect.getsourcelines(kind)[1], kind.__name__
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of a device or of the host, for which torch has no class of its own."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)
