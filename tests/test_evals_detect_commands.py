"""Detection from a file with boxes to the record, the table, the page and the picture, by the command."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmark.evaluate import main as evaluate
from benchmark.page.page import Page
from benchmark.page.page import render as page
from benchmark.report.audit import audit
from benchmark.report.audit_numbers import wrong_numbers
from benchmark.report.cells import load
from benchmark.report.markdown import render

SMALL = (
    "Images.size=32",
    "Detect.steps=6",
    "Detect.select_steps=3",
    "Detect.rates=(0.001, 0.003)",
    "Detect.trials=2",
    "experiment.encoder_size=16",
    "ViT.width=32",
    "ViT.depth=1",
    "ViT.heads=2",
    "Detect.batch_size=4",
    "Detect.width=16",
    "Detect.samples=16",
    "Detect.proposals=60",
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 60 x 40 px with one rectangle, whose class is its colour."""
    folder = tmp_path_factory.mktemp("shapes")
    random = np.random.RandomState(0)
    box = datasets.List(datasets.List(datasets.Value("float32")))
    kind = {"bbox": box, "category": datasets.List(datasets.ClassLabel(names=["red", "blue"]))}
    for split, n in (("train", 16), ("test", 8)):
        columns: dict[str, list[object]] = {"image": [], "objects": []}
        for label in np.arange(n) % 2:
            left, top, width, height = (int(random.randint(*ends)) for ends in ((0, 30), (0, 20), (15, 30), (10, 20)))
            pixels = np.full((40, 60, 3), 120, dtype=np.uint8)
            pixels[top : top + height, left : left + width] = ((250, 30, 30), (30, 30, 250))[label]
            columns["image"].append(Image.fromarray(pixels))
            columns["objects"].append({"bbox": [[left, top, width, height]], "category": [int(label)]})
        features = datasets.Features({"image": datasets.Image(), "objects": kind})
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.usefixtures("one_thread")
def test_an_encoder_on_images_with_boxes(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the record has the scores of both trials, an interval and rows that lie in the stored images; the floor
    is measured and raw pixels are not; table and page show AP and its interval; the picture is small; the audit finds
    nothing wrong. Other evaluations are refused."""
    board = tmp_path / "results" / "board"
    names = (f"Images.source=parquet:{shapes}", "Images.name=shapes", "Images.box_classes=('red', 'blue')")
    settings = [part for setting in (*names, *SMALL) for part in ("--set", setting)]
    files = ["--gin", "gin/protocol/digits_vit_micro.gin", "--gin", "gin/protocol/pennfudan.gin"]
    arguments = [*files, "--name", "simclr", *settings, "--out", str(tmp_path / "out")]
    assert evaluate([*arguments, "--publish", str(board)]) == 0
    printed = capsys.readouterr().out
    assert "raw pixels left out: a detector is trained on an encoder" in printed
    records = {each["method"]["name"]: each for each in load(board)}
    assert set(records) == {"simclr", "random init"}
    record = records["simclr"]
    assert record["code"]["versions"]["Detect"] == "1.0"
    metrics = record["metrics"]["detect"]
    assert metrics["n"] == metrics["details"]["objects"] == 8
    assert metrics["choices"]["rate"] in (0.001, 0.003)
    assert metrics["mean_average_precision"] == pytest.approx(
        (metrics["details"]["trial 0"] + metrics["details"]["trial 1"]) / 2
    )
    assert record["predictions"]
    rows = load_file(tmp_path / "out" / "evaluations" / record["predictions"]["file"])["detect"]
    assert set(rows[:, 0].tolist()) <= {0.0, 1.0}
    assert (rows[:, 4:] <= torch.tensor([60, 40, 60, 40])).all()
    (picture,) = (tmp_path / "out" / "evaluations").glob("*-detect.png")
    assert Image.open(picture).size == (2 * 60 + 4, 5 * 40 + 4 * 4)
    assert picture.stat().st_size < 50_000
    places = {each["id"]: f"board/{each['id']}.json" for each in load(board)}
    low, high = (f"{100 * end:.2f}" for end in metrics["interval"])
    text = render(load(board))
    assert f"simclr {low} to {high}" in text
    for shown in (text, page(Page(load(board), (), lambda record: (), places))):
        assert "AP, in place of top-1, is the mean average precision of boxes" in shown
    assert audit(tmp_path / "results") == []
    for change in ({"mean_average_precision": 0.5}, {"interval": [0.6, 0.5]}):
        forged = {**record, "metrics": {"detect": {**metrics, **change}}}
        assert any(next(iter(change)) in problem for problem in wrong_numbers(forged)), change  # type: ignore[arg-type]
    assert evaluate([*arguments, "--set", "experiment.evaluations=(@KNN, @Detect)"]) == 2
    assert "Images of shapes have boxes, for which KNN is not made" in capsys.readouterr().err
    assert evaluate([*arguments, "--set", "Images.size=36"]) == 2
    assert "Images.size = 36: the coarsest map of the detector has 32 pixels a cell" in capsys.readouterr().err
