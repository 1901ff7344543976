"""How a process ends once its command has: at once, where nobody would miss what Python does besides."""

import atexit
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

from benchmark.errors import STOPS, Interrupted

STARTED = (["<module>"], ["<module>", "_run_code", "_run_module_as_main"])  # what called `leave`: a script, a module
OTHERS: set[str] = set()
"""The modules of others that gin files imported in this process."""


def leave(code: int) -> NoReturn:
    """End the process with a code that no later signal changes.

    Python would take everything apart that was imported, which takes a second after torch. That is left out, and
    threads and what was registered for the end are waited for as by Python. Python itself ends a process that has
    modules of others, which may leave a file open to it, or that something surrounds, such as a debugger or a notebook.

    An interrupted command waits for nothing. Python would end it by SIGINT where the stop interrupted code that was
    executed from text, as in many imports.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if code == Interrupted.exit_code:
        with suppress(OSError, ValueError):
            _flush()
        os._exit(code)
    if not _is_alone():
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # what Python does at its end, as the next line
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # of a pipe that is closed, which Python reports
        _flush()
        if ctypes := sys.modules.get("ctypes"):  # with torch: lines of C, such as those of ONEDNN_VERBOSE
            with suppress(OSError, TypeError, AttributeError):  # Windows has no such library
                ctypes.CDLL(None).fflush(None)
        os._exit(code)
    sys.exit(code)


def _flush() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()


def _is_alone() -> bool:
    """Return whether Python itself started the code that leaves, nothing follows, and all modules are known."""
    callers = [frame.f_code.co_name for frame, _ in traceback.walk_stack(sys._getframe(2))]
    return callers in STARTED and not sys.flags.inspect and not OTHERS
