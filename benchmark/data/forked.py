"""Small images decoded by several processes: threads would wait for each other, as Pillow decodes them under a lock."""

import math
import mmap
import os
import signal
import sys
from contextlib import suppress
from multiprocessing import current_process, get_context

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.data.streaming import BATCH, Read
from benchmark.runtime import progress

LEAST = 5000  # images that a process is begun for, our choice: a second's work or less; it takes 0.03 s to begin one


def processes_for(n: int) -> int:
    """Return how many processes decode n images: at most as many as torch has threads, and one outside of Linux.

    Other systems begin no process in the middle of a program, or not safely.
    """
    can_fork = sys.platform == "linux" and not current_process().daemon
    return max(1, min(torch.get_num_threads(), n // LEAST)) if can_fork else 1


def read_all(read: Read, shape: torch.Size, processes: int) -> Tensor:
    """Return the images, uint8 `shape`, that `read` decodes; each process takes a share of them.

    A share that fails elsewhere is decoded again by this process, which raises the error of the first.
    """
    pixels = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)  # memory that all of them write
    own, *rest = np.array_split(np.arange(len(pixels)), processes)
    context = get_context("fork")
    others = [context.Process(target=_work, args=(read, share, pixels), daemon=True) for share in rest]
    try:
        with suppress(OSError):  # where no process can be begun, this one does the work of all
            for other in others:
                other.start()
        _fill(read, own, pixels)
        for other, share in zip(others, rest, strict=True):
            if other.pid is not None:
                other.join()
            if other.exitcode != 0:
                _fill(read, share, pixels)
    finally:
        for other in others:
            if other.pid is not None:
                other.kill()
                other.join()
    return torch.from_numpy(pixels).clone()


def _work(read: Read, ids: npt.NDArray[np.int64], pixels: npt.NDArray[np.uint8]) -> None:
    """Take a share in a process of its own, which says nothing and leaves out what the program does at its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        _fill(read, ids, pixels)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _fill(read: Read, ids: npt.NDArray[np.int64], pixels: npt.NDArray[np.uint8]) -> None:
    starts = range(int(ids[0]), int(ids[-1]) + 1, BATCH)
    for start in progress.each(starts, "decoding, part"):
        part = range(start, min(start + BATCH, starts.stop))
        read(list(part), pixels[part.start : part.stop])
