"""Small images decoded by several processes: threads would wait for each other, as Pillow decodes them under a lock."""

import math
import mmap
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import current_process, get_context
from multiprocessing.process import BaseProcess

import numpy as np
import numpy.typing as npt
import torch

from benchmark.data.streaming import BATCH, Read
from benchmark.errors import STOPS, stops_by
from benchmark.runtime import progress

LEAST = 5000  # images that a process is begun for, our choice: a second's work or less; it takes 0.03 s to begin one
SLOWER = 10  # times the seconds of this process's share, and as many seconds: then it no longer waits for another one


def processes_for(n: int) -> int:
    """Return how many processes decode n images: at most as many as torch has threads, and one outside of Linux.

    Other systems begin no process in the middle of a program, or not safely.
    """
    can_fork = sys.platform == "linux" and not current_process().daemon
    return max(1, min(torch.get_num_threads(), n // LEAST)) if can_fork else 1


def read_all(read: Read, pixels: npt.NDArray[np.uint8], processes: int) -> None:
    """Have `read` decode images into `pixels`, which is `shared`; each process takes a share of them.

    A share that fails elsewhere, or takes far longer than this process's own, is decoded again by this process, which
    raises the error of the first.
    """
    own, *rest = np.array_split(np.arange(len(pixels)), processes)
    context, begun = get_context("fork"), time.monotonic()
    arguments = [(read, share, pixels, os.getpid()) for share in rest]
    others = [context.Process(target=_work, args=each, daemon=True) for each in arguments]
    try:
        _start(others)
        _fill(read, own, pixels)
        patience = SLOWER * (time.monotonic() - begun) + SLOWER
        with progress.doing("waiting for other processes that decode"):
            for other in others:
                if other.pid is not None:
                    other.join(max(0.0, begun + patience - time.monotonic()))
        for other, share in zip(others, rest, strict=True):
            if other.exitcode != 0:
                _end(other)
                _fill(read, share, pixels)
    finally:
        for other in others:
            _end(other)


def shared(shape: torch.Size) -> npt.NDArray[np.uint8]:
    """Return memory that this process has in common with those it begins. Raises OSError where there is none."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)


def _start(others: Sequence[BaseProcess]) -> None:
    """Begin processes, as far as the system allows.

    A stop takes effect afterwards: Python would lose what is raised while it forks.
    """
    stops: list[int] = []
    with stops_by(lambda number, _: stops.append(number)), suppress(OSError):
        for other in others:
            if not stops:
                other.start()
    for number in stops:
        signal.raise_signal(number)


def _end(other: BaseProcess) -> None:
    if other.pid is not None:
        other.kill()
        other.join()


def _work(read: Read, ids: npt.NDArray[np.int64], pixels: npt.NDArray[np.uint8], parent: int) -> None:
    """Take a share in a process of its own, which says nothing and leaves out what the program does at its end.

    It ends with the process that began it. Where a library warns, the share is left to that one too.
    """
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    warnings.simplefilter("error")

    def read_for_parent(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        if os.getppid() != parent:
            os._exit(1)
        read(ids, places)

    try:
        _fill(read_for_parent, ids, pixels)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _fill(read: Read, ids: npt.NDArray[np.int64], pixels: npt.NDArray[np.uint8]) -> None:
    starts = range(int(ids[0]), int(ids[-1]) + 1, BATCH)
    for start in progress.each(starts, "decoding, part"):
        part = range(start, min(start + BATCH, starts.stop))
        read(list(part), pixels[part.start : part.stop])
