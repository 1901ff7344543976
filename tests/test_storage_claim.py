"""Claims: one process alone has one, whether machines share file locks or not, and one takes over from the dead."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from benchmark.errors import BenchmarkError
from benchmark.storage import claim
from benchmark.storage.claim import Claim, Held, Lost
from benchmark.storage.files import write_text

CLIENT = """
import fcntl, sys, time
from pathlib import Path
from benchmark.storage import claim

def no_flock(*_):
    raise OSError(38, "Function not implemented")

fcntl.flock = fcntl.lockf = no_flock
folder, place, lease, count, start = Path(sys.argv[1]), *sys.argv[2:]
claim._place, claim.LEASE = lambda: place, float(lease)
numbers = list(range(int(count)))
time.sleep(max(0.0, float(start) - time.time()))
while numbers:
    for number in tuple(numbers):
        run = folder / f"run-{number}"
        try:
            with claim.Claim(run).acquire(0):
                if not run.exists():
                    with (folder / f"making-{number}").open("x"), run.open("x") as file:  # "x" fails where it exists
                        file.write(place)
                    (folder / f"making-{number}").unlink()
        except claim.Held:
            continue
        numbers.remove(number)
"""


def clients(folder: Path, *places: str, lease: float, count: int) -> list[int]:
    """Have a process at each place make the runs that are missing, all beginning at once; return the exit codes."""
    arguments = [str(lease), str(count), str(time.time() + 3)]
    commands = [[sys.executable, "-c", CLIENT, str(folder), place, *arguments] for place in places]
    return [process.wait(120) for process in [subprocess.Popen(command) for command in commands]]


@pytest.mark.parametrize(
    "places",
    [
        pytest.param(("a", "b"), id="hosts"),
        pytest.param(("a", "a"), id="one host", marks=pytest.mark.long),
        pytest.param(("", ""), id="unknown", marks=pytest.mark.long),
    ],
)
def test_two_clients_make_no_run_twice_without_flock(tmp_path: Path, places: tuple[str, str]) -> None:
    """Oracle: 200 runs, each a file that only one process can make; a second attempt ends a client with an error."""
    assert clients(tmp_path, *places, lease=300.0, count=200) == [0, 0]
    assert len(list(tmp_path.glob("run-*"))) == 200
    assert len(list(tmp_path.iterdir())) == 200


def test_one_of_several_takes_over(tmp_path: Path) -> None:
    """Oracle: as above, where each of 60 runs has the claim of a machine that is gone, and four clients want them."""
    for number in range(60):
        held = Claim(tmp_path / f"run-{number}").acquire()
        held._ended.set()
        Claim.held.clear()
        os.utime(held.path, (time.time() - 1000,) * 2)
    assert clients(tmp_path, "a", "b", "c", "d", lease=300.0, count=60) == [0, 0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 60


def test_a_holder_elsewhere_is_gone_after_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the claim of another machine is refused while it is touched, and had once it was not for the lease."""
    monkeypatch.setattr(claim, "BEAT", 0.05)
    with Claim(tmp_path / "run").acquire() as first:
        monkeypatch.setattr(claim, "_place", lambda: "elsewhere")
        monkeypatch.setattr(claim, "LEASE", 0.5)
        time.sleep(1.0)
        with pytest.raises(Held):
            Claim(tmp_path / "run").acquire(0)
        first._ended.set()
        with Claim(tmp_path / "run").acquire(30) as second:
            assert second.holder() == second._holder
            first.release()
            assert second.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_half_taken_over_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a process that was killed between its link and the end of its take-over, which the next one finishes."""
    monkeypatch.setattr(claim, "LEASE", -1.0)
    monkeypatch.setattr(claim, "_place", lambda: "")
    first = Claim(tmp_path / "run").acquire()
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            Claim(tmp_path / "run").acquire(0)
    assert len(first._chain()) == 2
    second = Claim(tmp_path / "run").acquire(0)
    assert second._chain() == [second._holder]
    second.release()
    first.release()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_is_no_leftover(tmp_path: Path) -> None:
    """Oracle: the holder, where the one before wrote files beside its claim and removed leftovers meanwhile."""
    first, second = Claim(tmp_path / "run").acquire(), Claim(tmp_path / "run")
    waiter = threading.Thread(target=second.acquire, daemon=True)
    waiter.start()
    assert wait_until(lambda: any(tmp_path.glob("*.waiting")))
    write_text(tmp_path / "record", "first")
    time.sleep(2 * claim.POLL)
    first.release()
    waiter.join(10)
    assert second.holder() == second._holder
    second.release()
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_who_has_lost_a_claim_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the files, after another machine took over as if this one had slept for the lease, and ended or not."""
    with Claim(tmp_path / "run").acquire() as first, monkeypatch.context() as elsewhere:
        claim.check()
        write_text(tmp_path / "record", "first")
        elsewhere.setattr(claim, "_place", lambda: "elsewhere")
        elsewhere.setattr(claim, "LEASE", -1.0)
        second = Claim(tmp_path / "run").acquire(0)
        for _ in ("at work", "ended"):
            with pytest.raises(Lost, match="taken over by another process"):
                first.check()
            with pytest.raises(Lost):
                write_text(tmp_path / "record", "second")
            second.release()
        assert Lost.exit_code == 75
    claim.check()
    assert (tmp_path / "record").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_a_claim_ends_with_its_context(tmp_path: Path) -> None:
    """Oracle: files, threads and what the process holds, as before, however the context is left."""
    before = threading.active_count()
    held = Claim(tmp_path / "run")
    with suppress(ValueError), held.acquire():
        assert (threading.active_count(), Claim.held) == (before + 1, [held])
        with pytest.raises(Held):
            Claim(tmp_path / "run").acquire(0)
        raise ValueError("work")
    held.release()
    assert threading.active_count() == before
    assert (Claim.held, list(tmp_path.iterdir())) == ([], [])


def test_a_folder_that_is_removed_ends_the_beat_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: no thread is left and no signal came, whether the holder forgets its claim or looks again."""
    monkeypatch.setattr(claim, "BEAT", 0.01)
    before, signals = threading.active_count(), []
    monkeypatch.setattr(os, "kill", lambda *arguments: signals.append(arguments))
    (tmp_path / "out").mkdir()
    with Claim(tmp_path / "out" / "run").acquire():
        shutil.rmtree(tmp_path / "out")
        assert wait_until(lambda: threading.active_count() == before)
        with pytest.raises(Lost, match="was removed"):
            claim.check()
    assert signals == []


def wait_until(condition: Callable[[], bool]) -> bool:
    """Return whether the condition comes true within ten seconds."""
    return any(condition() or time.sleep(0.01) for _ in range(1000))


def test_a_damaged_claim_is_named(tmp_path: Path) -> None:
    """Oracle: the file in the message, and what to do."""
    (tmp_path / ".run.claim").write_text("{")
    with pytest.raises(BenchmarkError, match=r"\.run\.claim is damaged\. Remove it if"):
        Claim(tmp_path / "run").acquire(0)
    assert [path.name for path in tmp_path.iterdir()] == [".run.claim"]


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what exFAT and some mounts of object stores answer; nothing stays, and another error stays as it is."""
    for number, kind in ((errno.EPERM, BenchmarkError), (errno.EIO, OSError)):

        def refused(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", refused)
        with pytest.raises(kind) as raised:
            Claim(tmp_path / "run").acquire()
        assert ("lies on a file system without hard links" in str(raised.value)) == (kind is BenchmarkError)
        assert not list(tmp_path.iterdir())
