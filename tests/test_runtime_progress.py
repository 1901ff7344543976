"""Lines of progress: what a command is doing, how far it is, and how long the rest takes."""

import io
import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import command, training
from torch import Tensor
from tqdm import tqdm

from benchmark.evals.features import Bank, Ranking
from benchmark.evals.knn import KNN
from benchmark.run import main
from benchmark.runtime import progress
from benchmark.training import pace
from benchmark.training.loop import Training
from benchmark.training.pace import Pace

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_slow_work_prints_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: a step and evaluations of 0.7 s, a line each 0.2 s: at least two of each, whole, and no progress bar."""
    take, scores = Training._take, KNN.scores

    def slow_step(run: Training) -> None:
        if run.step == 1:
            time.sleep(0.7)
        take(run)

    def slow_scores(knn: KNN, keys: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
        time.sleep(0.7)
        return scores(knn, keys, labels, queries, classes)

    monkeypatch.setattr(progress, "INTERVAL", 0.2)
    monkeypatch.setattr(Training, "_take", slow_step)
    monkeypatch.setattr(KNN, "scores", slow_scores)
    assert main(command(tmp_path, 4)) == 0
    lines = capsys.readouterr().err
    assert "\r" not in lines
    assert lines.endswith("\n")
    for line in (
        r"pretraining 25% of the budget, step 1 of 4, loss \d.*, [\d,]+ images/s \(\d+ s\)",
        r"evaluating random init: knn, feature 2 of 3 \(\d+ s\)",
        r"evaluating simclr: knn, feature 3 of 3 \(\d+ s\)",
    ):
        assert len(re.findall(f"^{line}$", lines, re.MULTILINE)) >= 2, (line, lines)


class Terminal(io.StringIO):
    """Takes what is printed as a terminal does."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_lines_appear_only_while_the_bar_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: of steps of 0.1 s and one of 1.7 s, at a line each 0.8 s, the slow one alone has lines, above the bar."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "INTERVAL", 0.8)
    take = Training._take

    def slow(run: Training) -> None:
        time.sleep(1.7 if run.step == 6 else 0.1)
        take(run)

    monkeypatch.setattr(Training, "_take", slow)
    with progress.shown():
        training(tmp_path).run(resume=False)
    printed = terminal.getvalue()
    assert set(re.findall(r"step (\d+) of 12", printed)) == {"6"}
    assert re.search(r"\r *\rpretraining 50% of the budget, step 6 of 12.*\(\d s\)\n", printed)
    assert "step 12/12" in printed
    assert not tqdm._instances


def test_activities_are_parts_of_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the sentence by hand, also after loops that ended early."""
    with progress.doing("working"), progress.doing("evaluating mae"):
        for strength in progress.each("abcd", "strength"):
            if strength == "b":
                progress._print_activities()
                break
        with progress.doing("linear"):
            draws = progress.each(range(3), "draw")
            next(draws)
        progress.say("nearly done")
        draws.close()
        progress._print_activities()
    assert capsys.readouterr().err == "evaluating mae: strength 2 of 4 (1 s)\nevaluating mae nearly done (1 s)\n"
    assert not progress._activities


def test_a_silent_thread_changes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the sentence by hand; the thread names its work, reports, and ends while another goes on."""

    def work() -> None:
        progress.be_silent()
        with progress.doing("a part"):
            progress.say("at its end")
            progress._print_activities()

    with progress.doing("working"), progress.doing("evaluating mae"):
        progress.say("search 1 of 9")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert capsys.readouterr().err == "evaluating mae search 1 of 9 (1 s)\n"


def test_durations_read_well() -> None:
    """Oracle: by hand."""
    words = {0.2: "1 s", 59.4: "59 s", 59.6: "1 min 00 s", 65: "1 min 05 s", 7510: "2 h 05 min"}
    assert {seconds: progress.duration(seconds) for seconds in words} == words


def test_the_time_is_printed_once_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: 103 steps, first 3 of 50 s, then even ones: known after 10 of them and 3 s, or 15 s; resumed too."""
    now = 0.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
    for first, seconds, known_at, evaluation, line in (
        (0, 1.0, 13, 12.0, "about 1 min 30 s of training, then about 12 s of evaluation\n"),
        (0, 0.25, 15, 12.0, "about 22 s of training, then about 12 s of evaluation\n"),
        (50, 10.0, 55, None, "about 8 min 00 s of training\n"),
    ):
        run = Pace(tqdm(disable=True), first, 103, evaluation)
        for step in range(first, 103):
            now += 50.0 if step < first + 3 else seconds
            run.stepped()
            assert capsys.readouterr().out == (line if run.step == known_at else "")


def test_an_accuracy_is_shown_with_its_error_and_its_time_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the line by hand: 5 of 10 steps of 2 s are left, although a measurement between them took 100 s."""
    now = 0.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.doing("pretraining"):
        run = Pace(tqdm(disable=True), 0, 10, None)
        for step in range(5):
            now += 2.0
            run.stepped()
            if step == 3:
                now += 100.0
                run.looked(1.25, 640.0)
                run.measured(0.431, 0.0157)
                run.paused(100.0)
        shown = progress._activities[-1].detail
    measured = "loss 1.25, 640 images/s, kNN on train 43.1 ± 1.6 %"
    assert shown == f"50% of the budget, step 5 of 10, {measured}, about 10 s left"


@pytest.mark.slow
def test_the_floors_tell_how_long_evaluation_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: evaluations of 2 s, foretold between the opening line and the result; a trial is not evaluated so."""
    rank = KNN.__call__

    def slow(knn: KNN, bank: Bank) -> Ranking:
        time.sleep(2)
        return rank(knn, bank)

    monkeypatch.setattr(pace, "LATEST", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(KNN, "__call__", slow)
        assert main(command(tmp_path, 8)) == 0
    printed = capsys.readouterr().out
    foretold = r"about 1 s of training, then about [23] s of evaluation"
    assert re.search(
        rf"^simclr on digits.*\n(evaluating .* a floor, once; .*\n)*{foretold}\n\nmethod", printed, re.MULTILINE
    )
    assert main(command(tmp_path, 8, "--set", "experiment.is_trial=True")) == 0
    assert re.search(r"^about 1 s of training$", capsys.readouterr().out, re.M)


def test_what_cannot_be_evaluated_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: an evaluation that breaks down does so before the first checkpoint."""

    def broken(knn: KNN, bank: Bank) -> Ranking:
        raise RuntimeError("a broken evaluation")

    monkeypatch.setattr(KNN, "__call__", broken)
    assert main(command(tmp_path, 2)) == 1
    assert not list(tmp_path.glob("*/checkpoints"))
