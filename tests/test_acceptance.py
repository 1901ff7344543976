"""The comparison with public logs: recipes, arithmetic and page; `pytest -m acceptance` trains, which takes hours."""

import csv
import math
from pathlib import Path

import acceptance
import pytest
import torch
from acceptance import FIELDS, LOGS, PAGE, ROOT, RUNS, main, page, read, verdicts

from benchmark.config import load as configuration
from benchmark.errors import CheckError, ConfigError
from benchmark.experiment.setup import Experiment
from benchmark.method import ParamGroup

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.acceptance
@pytest.mark.parametrize("name", RUNS)
def test_training_is_that_of_its_log(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: the public log, within the bands; nothing is published."""
    monkeypatch.setattr(acceptance, "MEASURED", tmp_path / "acceptance.csv")
    monkeypatch.setattr(acceptance, "PAGE", tmp_path / "acceptance.md")
    assert main([name]) == 0


def test_the_page_is_current() -> None:
    """Oracle: the committed page; `python tests/acceptance.py` without a name writes it."""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("name", RUNS)
def test_every_number_of_a_log_has_a_band(name: str) -> None:
    """Oracle: the log: each epoch that is trained has a loss, and those that are scored a score."""
    rows = [row for row in read(LOGS) if row["run"] == name]
    assert {row["measure"] for row in rows} == set(RUNS[name].bands)
    assert {int(row["epoch"]) for row in rows} <= set(range(1, RUNS[name].epochs + 1))
    scored = {int(row["epoch"]) for row in rows if row["measure"] != "loss"}
    assert {*RUNS[name].scored, RUNS[name].epochs} <= scored


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("moco", {0: 0.06, 97: 0.03 * (1 + math.cos(math.pi / 200)), 388: 0.03 * (1 + math.cos(4 * math.pi / 200))}),
        ("simclr_resnet50", {0: 1e-3, 195: 1e-3, 389: 1e-3}),
        ("simclr_resnet18", {0: 0.12, 4850: 0.06}),
    ],
)
def test_rates_are_those_of_the_source(name: str, rates: dict[int, float]) -> None:
    """Oracle: the schedules of the sources, by hand, at the beginning of epochs and in the middle."""
    experiment: Experiment = configuration.build(configuration.load([str(ROOT / "gin" / f) for f in RUNS[name].files]))
    assert experiment.pretraining is not None
    assert experiment.budget is not None
    stage = experiment.pretraining()
    steps = stage.schedule_steps or experiment.budget().amount / stage.batch_size
    optimiser = stage.optimiser().build([ParamGroup([torch.nn.Parameter(torch.ones(2, 2))])], stage.batch_size)
    for step, rate in rates.items():
        optimiser.step(step / steps)
        assert optimiser.inner.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-6)


def test_verdicts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: differences and bands by hand: the newest training counts, and a loss 0.16 above its log is outside."""
    monkeypatch.setattr(acceptance, "MEASURED", tmp_path / "acceptance.csv")
    about = ("45.0", "2 threads of a processor", "bfloat16", "2.15.0")
    lines = [
        ("moco", 0, 1, "loss", "9.000", *about, "2026-01-01T00:00:00Z"),
        ("moco", 0, 1, "loss", "7.117", *about, "2026-01-02T00:00:00Z"),
        ("moco", 0, 2, "loss", "7.100", *about, "2026-01-02T00:00:00Z"),
        ("moco", 0, 5, "knn_projection", "39.94", *about, "2026-01-02T00:00:00Z"),
    ]
    acceptance.store([dict(zip(FIELDS, line, strict=True)) for line in lines[:1]])
    acceptance.store([dict(zip(FIELDS, line, strict=True)) for line in lines[1:]])
    assert [line[4:] for line in verdicts("moco")] == [
        ("+0.16", "0.15", "OUTSIDE"),
        ("-0.15", "0.15", "inside"),
        ("+1.99", "2", "inside"),
    ]
    with acceptance.MEASURED.open() as file:
        assert len(list(csv.DictReader(file))) == 4
    text = page()
    assert "45.0 minutes on 2 threads of a processor" in text
    assert text.count("Not trained yet.") == 2


def test_a_small_training_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: 3 epochs of the digits: a loss for each, a score for those that are kept, the same after a stop.

    It is outside of the band, and the error says by how much.
    """
    monkeypatch.setattr(acceptance, "MEASURED", tmp_path / "acceptance.csv")
    monkeypatch.setattr(acceptance, "PAGE", tmp_path / "acceptance.md")
    (tmp_path / "small.gin").write_text(
        "ViT.width = 32\nViT.depth = 1\nViT.heads = 2\nPretraining.batch_size = 128\nBudget.kind = 'samples'\n"
        "experiment.evaluations = (@KNN,)\nexperiment.curve_points = 0\n"
    )
    files = ("simclr.gin", "protocol/digits_vit_micro.gin", str(tmp_path / "small.gin"))
    run = acceptance.Run("digits", files, epochs=3, scored=(1, 3), bands={"loss": 0.1, "knn": 1.0})
    monkeypatch.setitem(RUNS, "digits", run)
    logs = [("digits", "a log", epoch, "loss", 9) for epoch in (1, 2, 3)] + [("digits", "a log", 3, "knn", 50)]
    (tmp_path / "logs.csv").write_text(LOGS.read_text() + "".join(f"{','.join(map(str, row))}\n" for row in logs))
    monkeypatch.setattr(acceptance, "LOGS", tmp_path / "logs.csv")
    with pytest.raises(CheckError, match=r"digits: 1 mean loss 9 \d\.\d+ -\d\.\d\d 0\.1"):
        raise_from(["digits", "--out", str(tmp_path)])
    first = read(acceptance.MEASURED)
    assert [(row["epoch"], row["measure"]) for row in first] == [
        *((str(epoch), "loss") for epoch in (1, 2, 3)),
        ("1", "knn"),
        ("3", "knn"),
    ]
    assert 20 < float(first[-1]["value"]) <= 100
    with pytest.raises(CheckError):
        raise_from(["digits", "--out", str(tmp_path)])
    assert [row["value"] for row in read(acceptance.MEASURED)] == 2 * [row["value"] for row in first]


def raise_from(arguments: list[str]) -> None:
    """Call the command without the decorator that turns errors into exit codes."""
    main.__wrapped__(arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["mocoo"], "There is no run 'mocoo'"), (["moco", "--epochs", "6"], "moco has 1 to 5 epochs")],
)
def test_misuse(arguments: list[str], message: str) -> None:
    """Oracle: the sentence."""
    with pytest.raises(ConfigError, match=message):
        raise_from(arguments)
