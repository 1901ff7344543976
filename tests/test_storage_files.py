"""Folders that runs write to: refused where they cannot be made, and kept to one process at a time."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tiny import command

from benchmark.errors import ConfigError
from benchmark.evals import harness
from benchmark.report.cells import load, of_run
from benchmark.run import main
from benchmark.storage import files
from benchmark.storage.claim import Held
from benchmark.storage.files import check_folders, claim, exclusive, is_held, make_folder
from benchmark.training import calibration
from benchmark.training.calibration import Calibration
from benchmark.training.loop import Training

HOLDER = """
import sys, time
from pathlib import Path
from benchmark.storage.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    if len(sys.argv) > 3:
        Path(sys.argv[1]).write_text(sys.argv[3])
"""


def holder(path: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a process that keeps a path for some seconds, and then may write it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def claimed(path: Path) -> Path:
    """Return what the file of a claim is the claim of."""
    return path.with_name(path.name[1:].removesuffix(".claim"))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """Oracle: the message names the place and the options that give another."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/runs .*--out, --publish or --to"):
        make_folder(tmp_path / "file" / "runs")
    with pytest.raises(ConfigError, match="file cannot be made a folder"), exclusive(tmp_path / "file" / "runs"):
        pass


def test_the_second_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the clock, and what is printed; nobody waits for one that has ended."""
    begin = time.monotonic()
    process = holder(tmp_path / "new" / "run", "1")
    with exclusive(tmp_path / "new" / "run"):
        assert time.monotonic() - begin > 1
        assert process.wait(60) == 0
    assert capsys.readouterr().out == f"waiting for another process, which is at work on {tmp_path / 'new' / 'run'}\n"
    with exclusive(tmp_path / "new" / "run"):
        assert capsys.readouterr().out == ""


def test_a_killed_process_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Oracle: the claim is refused while its holder lives, and had after SIGKILL."""
    process = holder(tmp_path / "run", "600")
    with pytest.raises(Held):
        claim(tmp_path / "run").acquire(0)
    process.kill()
    process.wait()
    claim(tmp_path / "run").acquire(0).release()


def test_a_calibration_of_another_process_is_taken(tmp_path: Path) -> None:
    """Oracle: the numbers that the other writes while this one waits; nothing is built."""
    path = tmp_path / "x.json"
    process = holder(path, "0.5", '{"seconds": 2.0, "least": 1.0, "most": 3.0}')
    assert calibration.stored(path, lambda: pytest.fail("calibrated twice"), 10.0) == Calibration(2.0, 1.0, 3.0)
    assert process.wait(60) == 0


def test_what_killed_writers_leave_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the names of temporary files: of a writer that is killed, of one at work, and of one that was taken for
    dead before its file was locked. Where nothing can be locked, none is removed."""
    writer = "import sys, time; from pathlib import Path; from benchmark.storage.files import atomic_write\n"
    writer += "with atomic_write(Path(sys.argv[1])): print('at work', flush=True); time.sleep(600)"

    def at_work(name: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-c", writer, tmp_path / name], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        return process

    def names() -> list[str]:
        return sorted(path.name.split(".")[1] for path in tmp_path.glob(".*.partial"))

    dead, alive = at_work("dead"), at_work("alive")
    try:
        dead.kill()
        dead.wait()
        with monkeypatch.context() as patch:
            patch.setattr("fcntl.flock", no_locks)
            files.remove_partials(tmp_path)
        assert names() == ["alive", "dead"]
        files.write_text(tmp_path / "other", "x")
        assert names() == ["alive"]
        lock_file, taken = fcntl.flock, []

        def taken_first(file: BinaryIO, flags: int) -> None:
            if not taken:
                taken.append(Path(file.name))
                taken[0].unlink()
            lock_file(file, flags)

        monkeypatch.setattr("fcntl.flock", taken_first)
        files.write_text(tmp_path / "other", "y")
        assert taken
        assert (tmp_path / "other").read_text() == "y"
        assert names() == ["alive"]
    finally:
        alive.kill()
        alive.wait()


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_another_process_finished_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the number of records, where the run is made while this one waits for its claim."""
    arguments = command(tmp_path, 3, seed=0)

    @contextmanager
    def later(path: Path) -> Iterator[None]:
        monkeypatch.setattr("benchmark.experiment.run.exclusive", exclusive)
        assert main(arguments) == 0
        assert "it is not repeated" not in capsys.readouterr().out
        with exclusive(path):
            yield

    monkeypatch.setattr("benchmark.experiment.run.exclusive", later)
    assert main(arguments) == 0
    assert "it is not repeated" in capsys.readouterr().out
    assert len(list(tmp_path.glob("simclr-*/*.json"))) == 1


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_another_process_took_over_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the files: the claim is another's from the second of 3 steps on, or from the evaluation on."""
    advance, evaluate = Training.advance, harness._evaluate

    def lose() -> dict[Path, bytes]:
        (claimed,) = tmp_path.glob(".simclr-*.claim")
        claimed.write_text(claimed.read_text().replace('"nonce": "', '"nonce": "x'))
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def advanced(run: Training, *arguments: Any) -> float:
        if run.step:
            left.update(lose())
        return advance(run, *arguments)

    def evaluated(*arguments: Any, **named: Any) -> harness.Results:
        left.update(lose())
        return evaluate(*arguments, **named)

    for owner, name, function in ((Training, "advance", advanced), (harness, "_evaluate", evaluated)):
        left: dict[Path, bytes] = {}
        with monkeypatch.context() as losing:
            losing.setattr(owner, name, function)
            assert main(command(tmp_path, 3)) == 75
        assert "taken over by another process" in capsys.readouterr().err
        assert left == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        next(tmp_path.glob(".simclr-*.claim")).unlink()
    assert main(command(tmp_path, 3)) == 0


@pytest.mark.usefixtures("one_thread")
def test_what_runs_share_is_made_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: claims that cannot be had meanwhile: of teacher and run while they train, and of each floor."""
    kept: list[Path] = []

    def noting(function: Callable[..., object], folder: Callable[..., Path]) -> Callable[..., object]:
        def noted(*arguments: object, **named: object) -> object:
            kept.extend(path for path in folder(*arguments).glob(".*.claim") if is_held(claimed(path)))
            return function(*arguments, **named)

        return noted

    monkeypatch.setattr(Training, "run", noting(Training.run, lambda training, *_: training.folder.parent))
    for name in ("evaluate_encoder", "evaluate_pixels"):
        monkeypatch.setattr(harness, name, noting(getattr(harness, name), lambda *_: tmp_path / "floors"))
    assert main(command(tmp_path, 8, gin="gin/mimco.gin", seed=0)) == 0
    names = [path.name.split("-")[0] for path in kept]
    assert len(set(kept[:2])) == 2
    assert names[2:] == [".moco_v3", ".mimco"]
    assert not any(is_held(claimed(path)) for path in kept)


def test_folders_are_refused_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a file in the way, a parent that the system would not let us write to, and nothing made by asking."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is a file"):
        check_folders(tmp_path / "new", tmp_path / "file" / "runs")
    check_folders(tmp_path / "new" / "runs", None)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda place, mode: False)
    with pytest.raises(ConfigError, match="may not be written to"):
        check_folders(tmp_path / "new", None)


@pytest.mark.usefixtures("one_thread")
def test_a_run_trains_while_another_process_measures_its_floors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: floors are waited for after the training alone, and all results are those of an undisturbed run."""
    assert main(command(tmp_path / "alone", 2)) == 0
    order: list[object] = []

    @contextmanager
    def held(path: Path, *, waits: bool) -> Iterator[None]:
        order.append(waits)
        with nullcontext() if waits else claim(path).acquire(), exclusive(path, waits=waits):
            yield

    train = Training.run
    monkeypatch.setattr(Training, "run", lambda training, resume: order.append("training") or train(training, resume))
    monkeypatch.setattr("benchmark.experiment.floors.exclusive", held)
    assert main(command(tmp_path / "shared", 2)) == 0
    assert order == [False, "training", True, True]
    results = []
    for name in ("alone", "shared"):
        (run,) = of_run(next(tmp_path.glob(f"{name}/simclr-*")))
        floors = {floor["id"]: floor["metrics"] for floor in load(tmp_path / name / "floors")}
        results.append((run["training"], run["metrics"], [floors[floor] for floor in run["floors"]]))
    assert results[0] == results[1]
    assert len(results[0][2]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_full_disk_is_a_sentence_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: each kind of file that a run writes cannot be written once; each time the same command goes on, in the
    end to the digest of an undisturbed run. Nothing half-written stays, and no board has the record of a failure."""

    def arguments(place: str) -> list[str]:
        publish = ["--publish", str(tmp_path / place / "results" / "board")]
        return [*command(tmp_path / place / "runs", 3, seed=0), *publish, "--checkpoint-seconds", "0"]

    assert main(arguments("whole")) == 0
    refused: dict[str, str] = {}
    sync = files._sync

    def full(path: Path) -> None:
        kind = re.sub(r"[0-9a-f]{6,}|step-\d+", "", f"{path.parent.name}/{path.name}")
        if path.is_file() and kind not in refused:
            refused[kind] = path.name
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    monkeypatch.setattr(files, "_sync", full)
    capsys.readouterr()
    for _ in range(20):
        before = len(refused)
        if main(arguments("full")) == 0:
            break
        error = capsys.readouterr().err.splitlines()[-1]
        assert len(refused) == before + 1, error
        assert "No space left on device" in error
        assert "give the same command again" in error
        assert not list(tmp_path.rglob("*.partial"))
    kinds = " ".join(refused.values())
    for name in (
        "config.gin",
        "metrics.jsonl",
        ".pt",
        "encoder.safetensors",
        "predictions",
        "random-init",
        "raw-pixels",
    ):
        assert name in kinds
    assert len(refused) >= 12
    ends = [load(tmp_path / place / "results" / "board") for place in ("whole", "full")]
    digests = [{run["training"]["digest"] for run in runs if run["training"]["digest"]} for runs in ends]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 1
    assert len(ends[0]) == len(ends[1])
