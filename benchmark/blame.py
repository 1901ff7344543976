"""Whose error it is: what a user's code raises is told with its file and line, what ours raises keeps its traceback.

Code is the user's where it is neither this package nor installed beside it; the baselines count as a user's.
"""

import inspect
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.errors import TRACEBACK, BenchmarkError, MethodError, unwrapped

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
