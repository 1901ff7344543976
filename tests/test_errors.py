"""How commands end: with one sentence and a code of its own, also when a signal stops them, and never a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import command
from torch import Tensor

from benchmark import evaluate, run
from benchmark.errors import BenchmarkError, Interrupted, reported
from benchmark.evals.knn import KNN

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("one_thread")

SLOW = """
import sys, time
from benchmark.evals.knn import KNN
from benchmark.run import main

def slow(knn, bank):
    print("evaluating", flush=True)
    time.sleep(60)

KNN.__call__ = slow
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (BenchmarkError("The disk is full."), 1, "error: The disk is full.\n"),
        (Interrupted("Stopped by SIGTERM after step 4."), 75, "Stopped by SIGTERM after step 4.\n"),
        (KeyboardInterrupt("SIGINT"), 130, "Stopped by SIGINT before the end. Give the same command again.\n"),
    ],
)
def test_a_stop_is_no_error(
    problem: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the code and all that is printed."""

    @reported
    def main(arguments: object) -> int:
        raise problem

    assert main([]) == code
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_any_command_heeds_signals(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the signal's name and the code; the handler of before is back, here one that must not be called."""

    def before(number: int, frame: object) -> None:
        raise AssertionError

    ours = signal.signal(number, before)  # which may ignore it, where pytest runs in the background

    @reported
    def main(arguments: object) -> int:
        os.kill(os.getpid(), number)
        time.sleep(60)
        return 0

    assert main([]) == 130
    assert capsys.readouterr().err == f"Stopped by {number.name} before the end. Give the same command again.\n"
    assert signal.signal(number, ours) is before


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


def stopped(arguments: list[str], number: int) -> tuple[int, str]:
    """Start a run in a process of its own, stop it in its first evaluation, and return its code and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    printed = ""
    while not printed.endswith("evaluating\n"):
        line = process.stdout.readline()
        assert line, printed
        printed += line
    process.send_signal(number)
    return process.wait(30), process.stdout.read()


def test_a_run_that_is_stopped_says_whether_it_can_be_resumed(tmp_path: Path) -> None:
    """Oracle: one sentence each: in the floors there is nothing; in the evaluation the run goes on to its record."""
    arguments = command(tmp_path, 2)
    code, printed = stopped(arguments, signal.SIGUSR1)
    sentence = (
        "Stopped by SIGUSR1 before the first checkpoint, so there is nothing to resume. Give the same command again."
    )
    assert (code, printed) == (130, f"{sentence}\n")
    assert run.main(command(tmp_path, 1)) == 0  # which leaves its floors
    code, printed = stopped(arguments, signal.SIGTERM)
    assert code == 75
    assert printed.count("\n") == 1
    assert printed.startswith(
        "Stopped by SIGTERM. The training goes on from its last checkpoint: continue with the same"
    )
    assert run.main([*arguments, "--resume"]) == 0


def test_an_evaluation_that_is_stopped_says_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the code and the last line."""

    def stop(knn: KNN, keys: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise AssertionError

    assert run.main(command(tmp_path, 1)) == 0
    (folder,) = tmp_path.glob("simclr-*")
    monkeypatch.setattr(KNN, "scores", stop)
    assert evaluate.main(["--run", str(folder), "--out", str(tmp_path)]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Stopped by SIGTERM before there was a record. Give the same command again; it goes on from")
