"""Making a recorded run again: the same bits here, the interval elsewhere, a clear word where the code is another."""

from pathlib import Path
from typing import Any

import pytest
from report_records import remade
from tiny import command

from benchmark import PRETRAINING_VERSION
from benchmark.errors import CheckError
from benchmark.experiment.reproduce import _compare_scores
from benchmark.report import record as records
from benchmark.report.record import write
from benchmark.run import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def recorded(out: Path) -> Path:
    """The record of a run of 4 steps."""
    if not list(out.glob("simclr-*")):
        assert main(command(out, 4)) == 0
    return next(out.glob("simclr-*/*.json"))


def again(path: Path, out: Path) -> int:
    return main(["--reproduce", str(path), "--out", str(out)])


def test_a_clock_may_differ(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a figure in seconds beside a score is no score; another figure is."""
    old = records.read(recorded)
    for name, code, answer in (
        ("seconds_to_95", 0, "The same bits"),
        ("epochs_to_95", 4, "knn gave other scores"),
    ):
        other = remade(old, metrics__knn__details=old["metrics"]["knn"]["details"] | {name: 1.0})
        assert again(write(other, tmp_path), tmp_path) == code
        assert answer in "".join(capsys.readouterr())


def test_what_cannot_agree_says_why(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one field of the record changed: an exit code above 0 and the reason."""
    older = {"pretraining": "2.0", "KNN": "0.9", "SimCLR": "3.1"}
    for change, answer in (
        ({"training__digest": "0" * 64}, "but the weights differ"),
        (
            {"code__versions": older},
            f"(KNN 0.9, now 1.0; SimCLR 3.1, now 1.0; pretraining 2.0, now {PRETRAINING_VERSION})",
        ),
        ({"code__versions": {"KNN": "1.4"}, "metrics__knn__top1": 0.0}, "Outside the interval over test images: knn"),
        ({"method__module_sha256": "0" * 64}, "The file of the method is not that of the record"),
        ({"division": "floor", "budget": None}, "nothing was pretrained"),
        ({"config__text": "\nexperiment.pretraining = None\n", "division": "open"}, "nothing was pretrained"),
        ({"status": "failed", "training__digest": None}, "ended as 'failed'"),
    ):
        path = write(remade(records.read(recorded), **change), tmp_path / "board")
        assert again(path, tmp_path) in (2, 4)
        assert answer in capsys.readouterr().err


@pytest.mark.parametrize(("spread", "code"), [(0.05, 0), (0.0001, 4)])
def test_elsewhere_the_interval_decides(
    spread: float, code: int, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: three seeds of another machine around a mean 2 points off: inside a wide spread, outside a narrow one.

    A record of another division is of no cell of theirs.
    """
    record = records.read(recorded)
    centre = record["metrics"]["knn"]["top1"] + 0.02
    for seed, step in enumerate((-1, 0, 1)):
        top1 = centre + step * spread
        other = remade(record, seed=seed, environment__processor="Another", metrics__knn__top1=top1)
        path = write(other, tmp_path / "board")
    write(remade(other, division="open", metrics__knn__top1=0.0), tmp_path / "board")
    assert again(path, tmp_path) == code
    text = "".join(capsys.readouterr())
    half = 4.302652729911275 * spread * (4 / 3) ** 0.5
    assert f"[{100 * (centre - half):.2f}, {100 * (centre + half):.2f}]" in text
    assert ("Differs from the record in processor. Inside the 95 %" in text) == (code == 0)
    assert ("Outside the prediction interval: knn" in text) == (code == 4)


@pytest.mark.parametrize(
    "beside",
    [
        {"status": "failed", "seed": 1, "metrics": {}},
        {"created_utc": "2026-01-01T00:00:00Z", "metrics__knn__top1": 0.0},
        {"created_utc": "2036-01-01T00:00:00Z", "metrics__knn__top1": 0.0},
    ],
)
def test_one_seed_with_scores_has_the_interval_over_test_images(
    beside: dict[str, Any], recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the formula by hand, where what lies beside the record has no score, or is another run of its own seed;
    just inside and just outside. Of a measure that is no share of the images there is none."""
    record = records.read(recorded)
    q, n = record["metrics"]["knn"]["top1"], record["metrics"]["knn"]["n"]
    for code, factor in ((0, 0.99), (4, 1.01)):
        p = next(
            p
            for p in (q + step * 1e-5 for step in range(99_999))
            if p - q >= factor * 1.959963984540054 * ((p * (1 - p) + q * (1 - q)) / n) ** 0.5
        )
        elsewhere = remade(record, environment__processor="Another", metrics__knn__top1=p)
        folder = tmp_path / str(code)
        write(remade(elsewhere, **beside), folder)
        assert again(write(elsewhere, folder), tmp_path) == code
        text = "".join(capsys.readouterr())
        assert ("Inside the 95 % interval over test images of the only seed" in text) == (code == 0)
        assert ("Outside the interval over test images: knn" in text) == (code == 4)


def test_one_seed_has_no_interval_of_other_measures(recorded: Path) -> None:
    """Oracle: a mean IoU, which is no share of the test images."""
    record = records.read(recorded)
    dense = remade(record, metrics__knn__mean_iou=0.25)
    with pytest.raises(CheckError, match="One seed gives no interval"):
        _compare_scores(recorded, dense, dense)
