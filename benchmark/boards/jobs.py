"""The processes of a suite, several at once: each in a slot, which is its share of the machine."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmark.boards.planned import Planned
from benchmark.errors import ConfigError, Interrupted, Stopped
from benchmark.experiment.environment import usable_cores
from benchmark.runtime import sharing
from benchmark.runtime.progress import Relay
from benchmark.storage.claim import Claim

STOPPED = (Interrupted.exit_code, Stopped.exit_code, -signal.SIGINT, -signal.SIGTERM)
LIBC = ctypes.CDLL(None)  # loaded here: a child that was forked beside threads should do as little as it can
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
MEMORY = 2 * 2**30  # bytes of a run on CIFAR-10, of which those of the published board took up to 1.9 GiB
POLL = 0.1  # seconds between two looks at the processes

Slot = Mapping[str, str]  # variables of the environment of its processes


def slots(jobs: int | None, *, is_timed: bool) -> tuple[Slot, ...]:
    """Return as many slots as runs are made at once: `jobs`, or by default what the machine has room for.

    That is a slot for each GPU or, where there is none, for each core, with 2 GiB of memory each. Several runs on one
    processor have one thread each. One slot alone is the whole machine; so it is by default for a budget in seconds
    (`is_timed`) on a processor, which is best not shared. More slots than GPUs share them in turn, which pays where a
    run does not keep its GPU busy.
    Raises ConfigError for more slots than GPUs where the budget is in seconds.
    """
    gpus, cores = torch.cuda.device_count(), usable_cores()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    count = jobs or gpus or (1 if is_timed else max(1, min(cores, memory // MEMORY)))
    if gpus and count > gpus and is_timed:
        raise ConfigError(
            f"--jobs {count}: with a budget in seconds each run takes a GPU of its own, and this machine has {gpus}. "
            f"Runs with a budget in FLOPs or images may share a GPU."
        )
    if count == 1:
        return ({},)
    shared = {sharing.ALL: str(count)}
    if not gpus:
        return (shared | {sharing.ON_DEVICE: str(count), "OMP_NUM_THREADS": "1"},) * count
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // count)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    names = list(islice(cycle(visible.split(",")[:gpus]), count))
    return tuple(
        shared | {sharing.ON_DEVICE: str(names.count(name)), "OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": name}
        for name in names
    )


def described(slots: Sequence[Slot]) -> str:
    """Return how many runs are made at once and what each has, in words."""
    threads = slots[0].get("OMP_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    count = "1 run at a time" if len(slots) == 1 else f"{len(slots)} runs at once"
    gpus = {slot["CUDA_VISIBLE_DEVICES"] for slot in slots if "CUDA_VISIBLE_DEVICES" in slot}
    where = ", each on a GPU of its own" if len(gpus) == len(slots) else f" on {len(gpus)} GPU{'s' * (len(gpus) > 1)}"
    return f"{count}{where if gpus else ''}, {threads} thread{'s' * (threads != '1')} a run"


@dataclass(eq=False)
class Job:
    """A run that is being made: its slot, its process, the claim of the run, and what shows its output."""

    run: Planned
    slot: Slot
    process: "subprocess.Popen[bytes]"
    claim: Claim
    relay: Relay | None

    @property
    def code(self) -> int | None:
        """The exit code; None while the process is at work."""
        return self.process.poll()


class Jobs:
    """The jobs at work, at most one in each slot; leaving the context stops those that are left.

    A process that is stopped saves its state first. The output of one slot alone is that of its process.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.free = list(slots)
        self.active: list[Job] = []
        self._is_shown = len(slots) > 1

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.active:
            if job.code is None:
                job.process.send_signal(signal.SIGTERM)
        for job in tuple(self.active):
            job.process.wait()
            self._close(job)

    def start(self, run: Planned, command: Sequence[str], claim: Claim) -> None:
        """Start the command that makes a run, in a slot that is free."""
        slot = self.free.pop(0)
        pipe = subprocess.PIPE if self._is_shown else None
        process = _start(command, slot, pipe)
        relay = Relay(process, run.label) if self._is_shown else None
        self.active.append(Job(run, slot, process, claim, relay))

    def wait(self, deadline: float | None) -> list[Job]:
        """Wait until jobs have ended, and return them.

        Raises KeyboardInterrupt at the `deadline`, a time of the monotonic clock, or where one was stopped by a signal.
        """
        with self._busy():
            while not (ended := [job for job in self.active if job.code is not None]):
                if deadline is not None and time.monotonic() >= deadline:
                    raise KeyboardInterrupt
                time.sleep(POLL)
        for job in ended:
            self._close(job)
        if any(job.code in STOPPED for job in ended):
            raise KeyboardInterrupt
        return ended

    def _close(self, job: Job) -> None:
        if job.relay:
            job.relay.close()
        job.claim.release()
        self.active.remove(job)
        self.free.append(job.slot)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Keep slots that are free busy while a run with a budget in seconds shares the processor with them.

        Their processes train what is discarded. So a step takes as long at the end of a board, when few runs are left,
        as when it was calibrated.
        """
        timed = next((job.run for job in self.active if job.run.is_timed), None)
        free = [slot for slot in self.free if "CUDA_VISIBLE_DEVICES" not in slot]
        if timed is None or not free:
            yield
            return
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            loads = [
                _start(timed.endless(Path(folder) / str(number)), slot, subprocess.DEVNULL)
                for number, slot in enumerate(free)
            ]
            try:
                yield
            finally:
                for load in loads:
                    load.kill()
                    load.wait()


def _start(command: Sequence[str], slot: Slot, output: int | None) -> "subprocess.Popen[bytes]":
    # an evaluation has no gin file beside the modules that its configuration imports
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **slot}
    return subprocess.Popen(command, env=variables, stdout=output, stderr=output, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    """Have Linux ask this process to stop when the suite is killed; it then saves its state."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
