"""How commands end: with one sentence and a code of its own, also when a signal stops them, and never a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from tiny import command

from benchmark import evaluate, run
from benchmark.errors import BenchmarkError, Interrupted, reported, stops_by
from benchmark.evals.knn import KNN

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("one_thread")


def stop(number: int) -> NoReturn:
    """Send a signal to this process, which must end what it does."""
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise AssertionError


def test_a_stop_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the code and all that is printed."""
    for problem, code, sentence in (
        (BenchmarkError("The disk is full."), 1, "error: The disk is full.\n"),
        (Interrupted("Stopped by SIGTERM after step 4."), 75, "Stopped by SIGTERM after step 4.\n"),
        (KeyboardInterrupt("SIGINT"), 130, "Stopped by SIGINT before the end. Give the same command again.\n"),
    ):

        @reported
        def main(arguments: object, problem: BaseException = problem) -> int:
            raise problem

        assert main([]) == code
        assert capsys.readouterr().err == sentence


def test_any_command_heeds_signals(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the signal's name and the code; the handler of before is back, here one that must not be called."""

    def before(number: int, frame: object) -> None:
        raise AssertionError

    main = reported(stop)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        ours = signal.signal(number, before)  # which may ignore it, where pytest runs in the background
        assert main(number) == 130
        assert f"Stopped by {number.name} before the end" in capsys.readouterr().err
        assert signal.signal(number, ours) is before


def test_ignored_signals_stay_ignored() -> None:
    """Oracle: what nohup and a shell's `&` set, for a command and for the training in it: nothing takes them over."""
    taken: list[int] = []
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stops_by(lambda number, _: taken.append(number)) as before:
            assert signal.SIGHUP not in before
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
    assert taken == [signal.SIGUSR1]


def test_the_same_signal_again_acts_at_once() -> None:
    """Oracle: the code of a process that clears up for a minute, and would say so, after one SIGTERM and another."""
    code = """
import time
from benchmark.errors import reported
@reported
def main(arguments):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("ready", flush=True)
        time.sleep(60)
main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for _ in range(2):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM


def test_a_run_that_is_stopped_says_whether_it_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: one sentence each: in the floors no checkpoint is there; from the evaluation the run goes on."""

    def stopped(number: int) -> tuple[int, str]:
        """Stop a run in its first evaluation; return its code and the last line that it printed."""
        with monkeypatch.context() as patch:
            patch.setattr(KNN, "__call__", lambda *_: stop(number))
            code = run.main(arguments)
        return code, capsys.readouterr().err.splitlines()[-1]

    arguments = command(tmp_path, 2)
    code, last = stopped(signal.SIGUSR1)
    assert (code, last) == (
        75,
        "Stopped by SIGUSR1. The same command goes on with what is finished; the training begins anew.",
    )
    assert run.main(command(tmp_path, 1)) == 0  # which leaves its floors
    code, last = stopped(signal.SIGTERM)
    assert (code, last) == (75, "Stopped by SIGTERM. The same command goes on from the last checkpoint.")
    assert run.main(arguments) == 0


def test_an_evaluation_that_is_stopped_says_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the code and the last line."""
    assert run.main(command(tmp_path, 1)) == 0
    (folder,) = tmp_path.glob("simclr-*")
    monkeypatch.setattr(KNN, "scores", lambda *_: stop(signal.SIGTERM))
    assert evaluate.main(["--run", str(folder), "--out", str(tmp_path)]) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Stopped by SIGTERM before there was a record. Give the same command again; it goes on from")
