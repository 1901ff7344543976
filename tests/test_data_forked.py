"""Small images decoded by several processes: the pixels, errors and words of one, and no process that is left."""

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from benchmark.data import cache, forked, formats
from benchmark.data.decode import Stored
from benchmark.data.streaming import Read
from benchmark.data.white import White
from benchmark.errors import MissingError

N = 1300  # of 3 processes, the first of which has 434
SHAPE = torch.Size((N, 3, 2, 2))
OWN = os.getpid()
ROOT = Path(__file__).parents[1]
THREE = [range(434), range(434, 867), range(867, N)]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system begins no process so")


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    assert active_children() == []


def numbered(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
    """The image of an id is its number in its first two bytes, and by whom it was read in the third."""
    rows = places.reshape(len(ids), -1)
    rows[:, 0], rows[:, 1] = np.array(ids) // 256, np.array(ids) % 256
    rows[:, 2] = os.getpid() % 251


def numbers(pixels: torch.Tensor) -> list[int]:
    first, second = pixels.flatten(1)[:, :2].int().T
    return (first * 256 + second).tolist()


def made(read: Read) -> torch.Tensor:
    pixels = forked.shared(SHAPE)
    forked.read_all(read, pixels, 3)
    return torch.from_numpy(pixels)


def test_each_process_takes_a_share() -> None:
    """Oracle: the ids, and three processes, each for the rows of its share."""
    pixels = made(numbered)
    assert (pixels.shape, pixels.dtype, numbers(pixels)) == (SHAPE, torch.uint8, list(range(N)))
    readers = [set(pixels.flatten(1)[list(share), 2].tolist()) for share in THREE]
    assert readers[0] == {OWN % 251}
    assert [len(each) for each in readers] == [1, 1, 1]
    assert len(set.union(*readers)) == 3


@pytest.mark.parametrize("end", ["error", "warning", "killed", "left", "stuck"])
def test_what_fails_elsewhere_is_done_here(
    end: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: all images; the process whose share failed in another one has made them; nothing is printed, and nothing
    waits for one that is stuck for 20 seconds."""
    monkeypatch.setattr(forked, "SLOWER", 1)
    begun = time.monotonic()

    def read(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        if 500 in ids and os.getpid() != OWN:
            if end == "error":
                raise ValueError("broken")
            if end == "warning":
                warnings.warn("odd", stacklevel=1)
            if end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "stuck":
                time.sleep(20)
            os._exit(0 if end == "warning" else 3)
        numbered(ids, places)

    pixels = made(read)
    assert numbers(pixels) == list(range(N))
    readers = [set(pixels.flatten(1)[list(share), 2].tolist()) for share in THREE]
    assert readers[0] == readers[1] == {OWN % 251} != readers[2]
    assert time.monotonic() - begun < 20
    assert capfd.readouterr() == ("", "")


def test_where_no_process_can_be_begun_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: all images, by this process."""

    def refused() -> int:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(os, "fork", refused)
    pixels = made(numbered)
    assert numbers(pixels) == list(range(N))
    assert set(pixels.flatten(1)[:, 2].tolist()) == {OWN % 251}


def test_a_stop_ends_all() -> None:
    """Oracle: the stop, and no process at work, which would take 20 seconds."""

    def read(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        if os.getpid() == OWN:
            raise KeyboardInterrupt
        time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        made(read)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_stop_while_processes_are_begun_is_not_lost(
    place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the stop, by the handler that was there; Python would only print what is raised within a fork."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    def signalled() -> None:
        if os.getpid() == OWN and asked:
            asked.clear()
            os.kill(OWN, signal.SIGTERM)

    asked = [1]
    os.register_at_fork(**{"before" if place == "before" else "after_in_parent": signalled})
    former = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            made(numbered)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert capfd.readouterr() == ("", "")


def test_none_outlives_the_process_that_began_it() -> None:
    """Oracle: the end of a pipe that all of them hold, after the one that began them was killed: its reader waits for
    all, for 20 seconds where they went on."""
    program = (
        "import os, signal, sys, time, torch; from benchmark.data import forked; own = os.getpid()\n"
        "def read(ids, places):\n"
        "    time.sleep(0.2)\n"
        "    if os.getpid() == own: os.kill(own, signal.SIGKILL)\n"
        "forked.read_all(read, forked.shared(torch.Size((102_400, 3, 1, 1))), 2)"
    )
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGKILL, "", "")
    assert time.monotonic() - begun < 20


def test_as_many_as_torch_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand: one for few images, for one thread, in a daemon, which may have no children, and elsewhere."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    n = forked.LEAST
    assert [forked.processes_for(each) for each in (0, n, 2 * n - 1, 2 * n, 100 * n)] == [1, 1, 1, 2, 4]
    with monkeypatch.context() as daemon:
        daemon.setattr(forked.current_process(), "_config", {"daemon": True})
        assert forked.processes_for(100 * n) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert forked.processes_for(100 * n) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(forked.sys, "platform", "darwin")
    assert forked.processes_for(100 * n) == 1


def stored(files: list[Any], *, size: int = 2) -> Stored:
    def items(ids: list[int] | range) -> list[Any]:
        return [files[index] for index in ids]

    return Stored(len(files), items, size, "split 'train' of x", White(None, len(files), items, formats.opened, "x"))


def encoded(array: npt.NDArray[Any]) -> dict[str, Any]:
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let three processes decode whatever there is; the list has how many did, each time."""
    asked: list[int] = []
    monkeypatch.setattr(forked, "LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    read_all = forked.read_all
    monkeypatch.setattr(forked, "read_all", lambda *arguments: asked.append(arguments[-1]) or read_all(*arguments))
    return asked


def test_images_are_those_of_one_process(three: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what indexing decodes; those that are not small, or find no common memory, are decoded by threads."""
    files = [encoded(array) for array in np.random.default_rng(0).integers(0, 256, (20, 2, 2, 3), dtype=np.uint8)]
    assert torch.equal(stored(files).whole(), stored(files)[:])
    assert three == [3]
    assert torch.equal(stored(files, size=65).whole(), stored(files, size=65)[:])
    monkeypatch.setattr(forked.mmap, "mmap", lambda *_: (_ for _ in ()).throw(OSError("no memory")))
    assert torch.equal(stored(files).whole(), stored(files)[:])
    assert three == [3]


def test_broken_images_are_named_as_by_one_process(
    three: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the error of indexing; no other process looks for more of them, which may take 20 seconds."""
    files = [encoded(np.zeros((2, 2, 3), np.uint8)) for _ in range(20)]
    files[9] = files[15] = {"bytes": b"no image", "path": None}
    others = Stored._others

    def watched(images: Stored, start: int) -> str:
        found = others(images, start)
        if found and os.getpid() != OWN:
            (tmp_path / "looked").touch()
        return found

    monkeypatch.setattr(Stored, "_others", watched)
    messages = []
    for decode in (Stored.whole, lambda images: images[:]):
        with pytest.raises(MissingError, match="Image 9 of split 'train' of x cannot be read") as error:
            decode(stored(files))
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "Nor can, of the 10 images after it: 15." in messages[0]
    assert not (tmp_path / "looked").exists()
    assert three == [3]


def test_what_is_white_is_decided_and_said_once(
    three: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Oracle: one line, the pixels of one process, and no file: numbers are in the share of another process alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = [encoded(np.full((2, 2, 3), 9, np.uint8)) for _ in range(20)]
    files[19] = encoded(np.full((2, 2), 65_535, np.uint16))
    images = stored(files)
    pixels = cache.decoded(images)
    assert capfd.readouterr().out.count("white is 65,535") == 1
    assert images.white.is_surveyed
    assert (pixels[19] == 255).all()
    assert (pixels[:19] == 9).all()
    assert three == [3]
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
