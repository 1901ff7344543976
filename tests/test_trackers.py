"""Trackers: a run is the same with one, without one and with one that fails; what they are shown; their packages."""

import json
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import command, runs_of, training

from benchmark import trackers
from benchmark.boards.plan import Suite
from benchmark.report.record import read
from benchmark.run import main
from benchmark.trackers import TRACKERS, tracking
from benchmark.trackers.tracking import Tracking, sheet
from benchmark.training import loop

ROOT = Path(__file__).parents[1]
FACTS = {"method": "tiny", "seed": 0, "configuration": "a = 1\nb = 2\n"}


class Fake:
    """Keeps what it is shown; the methods that `failing` and `slow` name raise, or take a second and a half."""

    slow, failing = "", ""

    def __init__(self, folder: Path, facts: Mapping[str, str | float], resumed: bool) -> None:
        self.facts, self.resumed = dict(facts), resumed
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[Any] = []
        self.ended: list[bool] = []
        self._show("init")

    def log(self, step: int, values: dict[str, float]) -> None:
        self.lines.append((step, values))
        self._show("log")

    def picture(self, name: str, pixels: Any) -> None:
        self.pictures.append(pixels)
        self._show("picture")

    def close(self, *, is_done: bool) -> None:
        self.ended.append(is_done)
        self._show("close")

    def _show(self, method: str) -> None:
        time.sleep(1.5 * (method == self.slow))
        if method == self.failing:
            raise OSError(f"no {method}\nmore")


def fake(**changes: Any) -> Fake:
    return type("Fake", (Fake,), changes)(Path(), FACTS, False)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["", "log", "picture", "close"])
def test_a_run_is_the_same_with_a_tracker(tmp_path: Path, capsys: pytest.CaptureFixture[str], failing: str) -> None:
    """Oracle: digest, losses and log of the run without one; where it fails, one warning, and nothing shown after it;
    of the second and a half that it takes to fail, nothing is charged.
    """
    plain = training(tmp_path / "plain")
    outcome = plain.run(resume=False)
    shown = fake(failing=failing, slow=failing)
    tracked = training(tmp_path / "tracked", tracking=Tracking("fake", shown))
    again = tracked.run(resume=False)
    tracked.tracking.close(is_done=True)  # type: ignore[union-attr]
    assert (again.digest, again.loss, again.logs) == (outcome.digest, outcome.loss, outcome.logs)
    assert torch.equal(tracked.losses, plain.losses)
    assert tracked.ledger.train_seconds < 1.5
    assert tracked.ledger.images == plain.ledger.images
    assert (len(shown.pictures), len(shown.lines)) == {"picture": (1, 0), "log": (1, 1)}.get(failing, (1, 12))
    warning = f"warning: --track fake failed (OSError: no {failing}). The run goes on without it.\n"
    assert capsys.readouterr().err == (warning if failing else "")


def test_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the lines of metrics.jsonl, the ledger, the views of the first batch by `batch`; a run that goes on shows
    no picture again; of more lines than are shown every so many, and those at the points of the curve.
    """
    shown = fake()
    training(tmp_path, tracking=Tracking("fake", shown)).run(resume=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for (step, values), line in zip(shown.lines, lines, strict=True):
        assert step == line.pop("step")
        assert line.items() <= values.items()
        assert (values["budget/images"], values["budget/flops"], values["budget/share"]) == (
            16 * step,
            7 * step,
            step / 12,
        )
    (picture,) = shown.pictures
    assert picture.shape == (8 * 8, 2 * 8, 3)
    views = training(tmp_path / "other").batch(0)
    expected = views[1][3] * 0.3 + 0.5  # the deviation and the mean of this run
    assert np.abs(picture[3 * 8 : 4 * 8, 8:].transpose(2, 0, 1) / 255 - expected.numpy()).max() < 0.51 / 255
    small, large = torch.rand(9, 3, 2, 2), torch.rand(9, 3, 4, 4)
    both = sheet([small, large])
    assert both.shape == (8 * 4, 8, 3)
    assert (both[:2, :2] == both[0, 0]).all()  # nothing is interpolated

    gone_on = fake()
    training(tmp_path, tracking=Tracking("fake", gone_on)).run(resume=True)
    assert not gone_on.pictures
    monkeypatch.setattr(loop, "TRACKED", 3)
    some = fake()
    training(tmp_path / "some", tracking=Tracking("fake", some), points=2).run(resume=False)
    assert [step for step, _ in some.lines] == [4, 6, 10, 12]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> list[Fake]:
    """Put a fake in the place of TensorBoard, and return those that were made."""
    made: list[Fake] = []

    class Installed(Fake):
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            super().__init__(*arguments)

    monkeypatch.setitem(sys.modules, "benchmark.trackers.tensorboard", SimpleNamespace(Tracker=Installed))
    monkeypatch.setattr(trackers, "find_spec", lambda name: name if name == "tensorboard" else None)
    return made


def test_the_command(tmp_path: Path, installed: list[Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the record without a tracker, in all but times; the scores and costs of the record; a tracker that does
    not start trains nothing; one that is not installed is refused with the command that installs it.
    """
    assert main(command(tmp_path, 2)) == 0
    assert main(command(tmp_path, 2, "--fresh", "--track", "tensorboard")) == 0
    plain, tracked = map(read, runs_of(tmp_path, "simclr"))
    for part in ("config", "training", "metrics", "predictions", "checkpoint", "seed"):
        assert plain[part] == tracked[part]  # type: ignore[literal-required]
    assert "tensorboard" not in json.dumps(tracked)
    (shown,) = installed
    step, final = shown.lines[-1]
    assert step == 2
    assert final["final/knn"] == tracked["metrics"]["knn"]["top1"]
    assert final["final/train_seconds"] == tracked["cost"]["train_seconds"]
    assert "final/joules" not in final
    assert shown.facts["method"] == "simclr"
    assert str(tmp_path) not in str(shown.facts)
    assert (shown.resumed, shown.ended) == (False, [True])
    (planned, *_) = Suite(methods=("simclr",), protocols=("digits_vit_micro",), seeds=(0,)).runs()
    assert "--track wandb" in " ".join(planned.command(tmp_path, tmp_path, "wandb"))

    Fake.failing = "init"
    try:
        assert main(command(tmp_path, 3, "--track", "tensorboard")) == 3
    finally:
        Fake.failing = ""
    assert "--track tensorboard did not start (OSError: no init). Nothing was trained." in capsys.readouterr().err
    assert not list(tmp_path.glob("simclr-*/checkpoints/step-00000003*"))
    assert main(command(tmp_path, 2, "--track", "wandb")) == 3
    assert "--track wandb needs wandb: pip install 'ssl-benchmark[wandb]'." in capsys.readouterr().err
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(TRACKERS) <= set(extras)


@pytest.mark.parametrize("name", TRACKERS)
def test_real_trackers(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: no warning, and the names of the values in the files that the tracker left; nothing is sent."""
    for variable, value in (("WANDB_MODE", "offline"), ("TRACKIO_DIR", str(tmp_path / "trackio"))):
        monkeypatch.setenv(variable, value)  # before trackio is imported
    pytest.importorskip(name, reason=f"an extra: pip install -e '.[{name}]'")
    for resumed in (False, True):
        with tracking.tracked(name, tmp_path / "a-run", FACTS, resumed=resumed) as tracked:
            assert tracked
            if not resumed:
                tracked.picture("views", np.zeros((16, 8, 3), np.uint8))
            tracked.log(2 + resumed, {"loss": 0.5, "final/knn": 0.25, "step": 2, "nothing": None})
    assert "failed" not in capsys.readouterr().err
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"final/knn" in files
    assert b"nothing" not in files
