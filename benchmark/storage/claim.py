"""Claims: what one process works on, others leave alone, also on other machines and where file locks do not work.

File locks (flock) are not used: Lustre refuses them without a mount option, and NFS may grant one to each machine. A
claim is a file that appears by a hard link, which any file system makes for one process alone. It names its holder, who
touches it every `BEAT` seconds. A holder on this machine is gone when its process is; one elsewhere, when its file was
not touched for `LEASE` seconds by the clock of the file system.

Who takes over the claim of a holder that is gone links a successor, whose name is the claim's with that holder's own
`nonce`, so that one process alone can. Then it puts its file in place of the claim and removes the successor.

A holder that was silent for longer than the lease, as a machine that was suspended, may find its claim taken over. It
stops by `check`, which is called before anything is written and wherever a long work may end.
"""

import errno
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from benchmark.errors import BenchmarkError, Interrupted

BEAT = 20.0  # seconds between two signs of life
LEASE = 300.0  # several beats, and more than NFS keeps the attributes of a file
POLL = 0.2  # seconds between two attempts
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
LOG = "SSL_BENCHMARK_LOG"  # the variable in which a job of a cluster says where its log lies


class Held(Exception):  # noqa: N818, that another process is at work is no error
    """Another process holds the claim."""


class Lost(Interrupted):
    """A claim of this process was taken over by another one, or removed."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: its machine, its process with the time of its start, and the log of its job."""

    host: str
    place: str
    pid: int
    born: str | None
    log: str | None
    nonce: str
    seen: float = field(default=0.0, compare=False)  # the last sign of life, by the clock of the file system

    @classmethod
    def own(cls) -> Self:
        """Return this process as a holder."""
        pid = os.getpid()
        return cls(socket.gethostname(), _place(), pid, _born(pid), os.environ.get(LOG), os.urandom(8).hex())

    def lives(self, now: float) -> bool:
        """Return whether the holder is at work, as far as can be known at a time of the file system's clock."""
        if self.place and self.place == _place():
            return _born(self.pid) == self.born
        return now - self.seen < LEASE


class Claim:
    """The claim of a file or folder, which need not exist; leaving the context gives it up."""

    held: ClassVar[list["Claim"]] = []  # by this process

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f".{path.name}.claim")
        self._holder: Holder | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, timeout: float | None = None) -> Self:
        """Take the claim, waiting at most for `timeout` seconds. Raises Held."""
        deadline = None if timeout is None else time.monotonic() + timeout
        holder = Holder.own()
        candidate = self.path.with_name(f"{self.path.name}.{holder.nonce}.waiting")
        try:
            with candidate.open("x", encoding="utf-8") as file:
                json.dump({name: value for name, value in asdict(holder).items() if name != "seen"}, file)
                file.flush()
                os.fsync(file.fileno())
            while not self._try(candidate, holder):
                if deadline is not None and time.monotonic() >= deadline:
                    raise Held(str(self.path))
                time.sleep(POLL)
                os.utime(candidate)  # its time is that of the file system
        finally:
            candidate.unlink(missing_ok=True)
        self._holder, self._ended = holder, threading.Event()
        self.held.append(self)
        self._thread = threading.Thread(target=self._beat, args=(holder, self._ended), daemon=True)
        self._thread.start()
        return self

    def release(self) -> None:
        """Give the claim up."""
        if self._holder is None:
            return
        self._ended.set()
        self._thread.join()
        self.held.remove(self)
        if self.holder() == self._holder:
            self.path.unlink(missing_ok=True)
        self._holder = None

    def check(self) -> None:
        """Raise Lost if this process held the claim and no longer does."""
        if self._holder is not None and self.holder() != self._holder:
            raise Lost(
                f"Stopped: {self.path} was removed, or taken over by another process after this one was silent for "
                f"over {LEASE:.0f} s. Nothing was written since. The same command goes on, or waits for that process."
            )

    def holder(self) -> Holder | None:
        """Return who holds the claim or held it last; None where nobody does."""
        return next(iter(self._chain()[-1:]), None)

    def _try(self, candidate: Path, holder: Holder) -> bool:
        """Return whether the claim could be taken with the file `candidate`, which names the holder."""
        chain = self._chain()
        if chain and chain[-1].lives(candidate.stat().st_mtime):
            return False
        link = self._successor(chain[-1]) if chain else self.path
        try:
            os.link(candidate, link)
        except FileExistsError:
            pass
        except OSError as problem:
            if problem.errno not in NO_LINKS:
                raise
            raise BenchmarkError(
                f"{self.path.parent} lies on a file system without hard links ({problem.strerror}), by which processes "
                f"claim what they work on. Keep runs and results elsewhere: --out, --results or --publish."
            ) from problem
        if candidate.stat().st_nlink < 2:  # what link reports may be lost between NFS and its server
            return False
        if not chain:
            return True
        if self.holder() != holder:  # the claim was taken over, and its successors removed, before the link
            link.unlink(missing_ok=True)
            return False
        candidate.replace(self.path)
        for former in chain:
            self._successor(former).unlink(missing_ok=True)
        return True

    def _successor(self, holder: Holder) -> Path:
        return self.path.with_name(f"{self.path.name}.{holder.nonce}")

    def _chain(self) -> list[Holder]:
        """Return the holder that the claim names, and those who took over from there; the last one counts."""
        chain: list[Holder] = []
        with suppress(FileNotFoundError):
            chain.append(_read(self.path))
            while True:
                chain.append(_read(self._successor(chain[-1])))
        return chain

    def _beat(self, holder: Holder, ended: threading.Event) -> None:
        """Touch the claim from time to time, until it is released, taken over or gone; `check` tells the process."""
        while not ended.wait(BEAT):
            with suppress(OSError, BenchmarkError):  # a file server that does not answer for a while
                if self.holder() != holder:
                    return
                os.utime(self.path)


def check() -> None:
    """Raise Lost if this process has lost a claim, and should write nothing more."""
    for claim in tuple(Claim.held):
        claim.check()


def _read(path: Path) -> Holder:
    with path.open(encoding="utf-8") as file:
        try:
            return Holder(**json.load(file), seen=os.fstat(file.fileno()).st_mtime)
        except (ValueError, TypeError) as error:
            raise BenchmarkError(f"{path} is damaged. Remove it if no process is at work there.") from error


def _place() -> str:
    """Return what tells this start of this machine, and its processes' numbers, from all others; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """Return when a process of this machine began; None for one that has ended or where this is not known."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]
