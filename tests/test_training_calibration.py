"""Calibration of a step, and runs whose budget is in seconds, by a clock that the tests move."""

import json
from pathlib import Path

import pytest
from tiny import SMALL, command, runs_of, training

from benchmark.config import load as configuration
from benchmark.experiment.stage import Stage
from benchmark.report import record as records
from benchmark.report.record import Record
from benchmark.run import main
from benchmark.storage.files import claim
from benchmark.training import calibration, loop
from benchmark.training.calibration import WARMUP, WHOLE, Calibration
from benchmark.training.loop import Training

SHORT = 10 + 5 * 4  # the steps of a calibration for a budget of about 10 s, at half a second a step

pytestmark = pytest.mark.usefixtures("one_thread")


class Clock:
    """Seconds that pass only in steps: `durations[i]` in the i-th step that any run takes, the last from then on.

    A step learns nothing and has the loss 1, unless steps are `real`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *durations: float, real: bool = False) -> None:
        self.now, self.steps, self.durations = 0.0, 0, durations
        take = Training._take

        def slow(training: Training) -> None:
            if real:
                take(training)
            else:
                training.losses[training.step] = 1.0
                training.step += 1
            self.now += self.durations[min(self.steps, len(self.durations) - 1)]
            self.steps += 1

        monkeypatch.setattr(Training, "_take", slow)
        monkeypatch.setattr(loop.time, "perf_counter", lambda: self.now)


def test_windows_are_timed_after_the_warmup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: five slow steps, five of 2 s, then windows of steps of 2, 1, 4, 3 and 10 s: mean 4, least 1, most 10.

    A fifth of 200 s is five windows of 8 s, which are 4 steps of 2 s.
    """
    clock = Clock(monkeypatch, *[50.0] * 5, *[2.0] * 5, *(s for s in (2.0, 1.0, 4.0, 3.0, 10.0) for _ in range(4)))
    measured = Calibration.measure(training(tmp_path, steps=WHOLE), 200.0)
    assert measured == Calibration(4.0, 1.0, 10.0)
    assert clock.steps == 10 + 5 * 4


def test_windows_are_a_share_of_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a fifth of the seconds in five windows at half a second a step, by hand, and never fewer than 4 steps."""
    clock = Clock(monkeypatch, 0.5)
    for budget, steps in ((10.0, 4), (99.0, 8)):
        clock.steps = 0
        Calibration.measure(training(tmp_path, steps=WHOLE), budget)
        assert clock.steps == 10 + 5 * steps


def test_windows_are_timed_in_pieces_like_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: 400 s at half a second a step are 800 steps, at which a run looks at its loss every 8."""
    Clock(monkeypatch, 0.5)
    counts, advance = [], Training.advance
    monkeypatch.setattr(Training, "advance", lambda run, count: counts.append(count) or advance(run, count))
    Calibration.measure(training(tmp_path, steps=WHOLE), 400.0)
    assert counts == [5, 5, *[8] * 4 * 5]


def test_a_calibration_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the count of steps, and the numbers of the file."""
    clock = Clock(monkeypatch, 0.5)
    path = tmp_path / "calibrations" / "x.json"
    first = calibration.stored(path, lambda: training(tmp_path / "scratch", steps=WHOLE), 10.0)
    assert clock.steps == SHORT
    assert calibration.stored(path, lambda: training(tmp_path / "scratch", steps=WHOLE), 100.0) == first
    assert clock.steps == SHORT
    assert json.loads(path.read_text()) == {"seconds": 0.5, "least": 0.5, "most": 0.5}


def test_who_waits_for_a_calibration_is_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the steps that are taken until another process has written the calibration, which is read."""
    monkeypatch.setenv("SSL_BENCHMARK_JOBS", "2")
    path, counts, advance = tmp_path / "x.json", [], Training.advance
    other = claim(path).acquire()

    def advanced(run: Training, count: int) -> float:
        counts.append(count)
        if len(counts) == 3:
            path.write_text('{"seconds": 2.0, "least": 1.0, "most": 3.0}')
            other.release()
        return advance(run, count)

    monkeypatch.setattr(Training, "advance", advanced)
    scratch = training(tmp_path / "scratch", steps=WHOLE)
    assert calibration.stored(path, lambda: scratch, 10.0) == Calibration(2.0, 1.0, 3.0)
    assert counts == [4, 4, 4]
    with claim(path).acquire(0):
        pass


@pytest.mark.parametrize(("slowest", "warned"), [(0.52, False), (0.55, True)])
def test_a_device_that_drifts_is_named(
    slowest: float, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: windows of 0.5 s a step and a last one 4 % or 10 % slower, where 6 % is what a run may vary by."""
    Clock(monkeypatch, *[0.5] * (SHORT - 4), slowest)
    calibration.stored(tmp_path / "x.json", lambda: training(tmp_path / "scratch", steps=WHOLE), 10.0)
    message = "warning: while a step was calibrated, it took from 500.0 to 550.0 ms. The speed of this device drifts"
    assert (message in capsys.readouterr().err) == warned


def arguments(out: Path, seconds: float, *more: str, gin: str = "gin/simclr.gin", seed: int = 0) -> list[str]:
    settings = [setting for setting in SMALL if not setting.startswith("Budget")]
    settings += ["Budget.kind=device_seconds", f"Budget.amount={seconds}", "experiment.evaluations=()"]
    parts = [part for setting in settings for part in ("--set", setting)]
    return ["--gin", gin, *parts, "--seed", str(seed), "--out", str(out), *more]


def newest(out: Path, method: str) -> Record:
    return records.read(runs_of(out, method)[-1])


def test_seconds_become_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: 10 s at half a second a step buy 20 steps, whatever the seed; nothing before them is part of the cost."""
    clock = Clock(monkeypatch, 0.5)
    assert main(arguments(tmp_path, 10.2)) == 0
    record = newest(tmp_path, "simclr")
    assert record["budget"] == {"kind": "device_seconds", "amount": 10.2, "steps": 20, "batch_size": 32}
    assert (record["status"], record["cost"]["train_seconds"], clock.steps) == ("ok", 10.0, SHORT + WARMUP + 20)
    assert main(arguments(tmp_path, 10.2, seed=1)) == 0
    assert clock.steps == SHORT + 2 * (WARMUP + 20)
    assert newest(tmp_path, "simclr")["budget"] == record["budget"]


def test_a_calibration_serves_runs_of_equal_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the number of files; another rate or share of the budget takes the same steps; other code, and
    runs beside others, may not."""

    def calibrated(*settings: str) -> int:
        budget = ["Budget.kind=device_seconds", "Budget.amount=4.0", "experiment.evaluations=()"]
        config = configuration.load(["gin/simclr.gin"], [*SMALL[:4], *budget, *settings])
        assert Stage.open(config, tmp_path).price.seconds == 0.5
        return len(list((tmp_path / "calibrations").glob("*.json")))

    Clock(monkeypatch, 0.5)
    assert calibrated() == 1
    assert calibrated("experiment.rate_factor=2.0") == 1
    assert calibrated("experiment.budget_share=0.5") == 1
    assert calibrated("Pretraining.batch_size=64") == 2
    monkeypatch.setattr("benchmark.experiment.session.PRETRAINING_VERSION", "1.99")
    assert calibrated("experiment.rate_factor=4.0") == 3
    monkeypatch.setenv("SSL_BENCHMARK_JOBS", "2")
    assert calibrated("experiment.rate_factor=8.0") == 4


def test_calibration_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the digest of a run of as many steps whose budget is in images."""
    Clock(monkeypatch, 0.5, real=True)
    assert main(arguments(tmp_path, 4.0)) == 0
    more = ("--set", "experiment.evaluations=()")
    assert main(command(tmp_path / "images", 8, *more)) == 0
    record, expected = newest(tmp_path, "simclr"), newest(tmp_path / "images", "simclr")
    assert record["budget"] is not None
    assert record["budget"]["steps"] == 8
    assert record["training"]["digest"] == expected["training"]["digest"]


@pytest.mark.parametrize(("slower", "status", "taken"), [(0.53, "budget_miss", 20), (2.0, "overtime", 8)])
def test_a_slower_run_is_marked(
    slower: float,
    status: str,
    taken: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Oracle: 20 steps planned at 0.5 s: 6 % over is marked, four times as slow is stopped at 15 s."""
    Clock(monkeypatch, *[0.5] * (SHORT + WARMUP), slower)
    assert main(arguments(tmp_path, 10.0)) == 1
    record = newest(tmp_path, "simclr")
    assert record["status"] == status
    assert record["cost"]["images"] == 32 * taken
    assert "while nothing else runs" in capsys.readouterr().err


def test_two_stages_spend_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: at 0.5 s a step of either stage, 10 s are 10 steps for the teacher and 10 for the student."""
    clock = Clock(monkeypatch, 0.5)
    assert main(arguments(tmp_path, 10.0, gin="gin/mimco.gin")) == 0
    record = newest(tmp_path, "mimco")
    assert record["cost"]["train_seconds"] == 10.0
    assert record["cost"]["images"] == 20 * 32
    assert record["status"] == "ok"
    assert clock.steps == 2 * (SHORT + WARMUP + 10)
