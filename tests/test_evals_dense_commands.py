"""Segmentation from a file with masks to the record, the table and the page, by the commands."""

import os
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import command

from benchmark.evaluate import main as evaluate
from benchmark.page.page import Page
from benchmark.page.page import render as page
from benchmark.report.audit import audit
from benchmark.report.cells import load
from benchmark.report.markdown import render
from benchmark.run import main

CLASSES = {"floor": (40, 40, 200), "wall": (200, 40, 40), "door": (40, 200, 40)}
SMALL = ("Images.size=24", "Images.mask_ignored=9", "DenseKNN.bank=2000", "SegLinear.epochs=4")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of 36 x 28 px with a coloured class above a drawn line, another below and a third beside."""
    folder = tmp_path_factory.mktemp("rooms")
    random = np.random.RandomState(0)
    kinds = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    for split, n in (("train", 30), ("test", 20)):
        columns: dict[str, list[Image.Image]] = {"image": [], "mask": []}
        for _ in range(n):
            mask = np.ones((28, 36), dtype=np.uint8)
            mask[random.randint(10, 20) :] = 0
            mask[:, random.randint(20, 30) :] = 2
            pixels = np.array(list(CLASSES.values()))[mask] // 2 + random.randint(0, 128, (28, 36, 3))
            mask[:2] = 9
            columns["image"].append(Image.fromarray(pixels.astype(np.uint8)))
            columns["mask"].append(Image.fromarray(mask))
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(folder / f"{split}.parquet")
    return folder


def on(rooms: Path, *more: str) -> list[str]:
    """Return the arguments of an evaluation by the protocol of CamVid on these images."""
    names = f"Images.mask_classes={tuple(CLASSES)}"
    settings = (f"Images.source=parquet:{rooms}", "Images.name=rooms", names, *SMALL, *more)
    return ["--gin", "gin/protocol/camvid.gin", *(part for setting in settings for part in ("--set", setting))]


@pytest.mark.usefixtures("one_thread")
def test_an_encoder_of_a_run_on_larger_images_with_masks(
    rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the record says how positions were interpolated and has scores, an interval and tallies that give them;
    floors are measured; table and page show mean IoU and the intervals; the audit finds nothing wrong.

    Colours are easy for raw pixels, and guessing one class has a mean IoU below 0.3.
    """
    board = tmp_path / "results" / "board"
    assert main(command(tmp_path / "runs", 4)) == 0
    (run,) = (tmp_path / "runs").glob("simclr-*")
    arguments = ["--run", str(run), *on(rooms), "--out", str(tmp_path / "out"), "--publish", str(board)]
    assert evaluate(arguments) == 0
    printed = capsys.readouterr().out
    assert "positions interpolated: 4 x 4 to 6 x 6" in printed
    assert "linear mIoU v2" in printed
    records = {each["method"]["name"]: each for each in load(board)}
    assert set(records) == {"simclr", "random init", "raw pixels"}
    record = records["simclr"]
    assert record["encoder"]["image_size"] == 24
    assert record["encoder"].get("positions") == "4 x 4 to 6 x 6"
    assert "experiment.encoder_size = 16" in record["config"]["text"]
    assert record["code"]["versions"]["SegLinear"] == "2.0"
    assert set(record["metrics"]) == {"seg_linear", "dense_knn_2000"}
    assert records["raw pixels"]["metrics"]["seg_linear"]["mean_iou"] > 0.6
    assert record["predictions"]
    tallies = load_file(tmp_path / "out" / "evaluations" / record["predictions"]["file"])
    for name in record["metrics"]:
        (picture,) = (tmp_path / "out" / "evaluations").glob(f"*-{name}.png")
        assert Image.open(picture).size == (3 * 36 + 2 * 4, 5 * 28 + 4 * 4)
    for name, metrics in record["metrics"].items():
        right, actual, predicted = tallies[name].sum(0).double()
        assert metrics["n"] == 20
        assert metrics["details"]["pixels"] == 20 * 26 * 36 == actual.sum()
        assert metrics["mean_iou"] == pytest.approx(float((right / (actual + predicted - right)).mean()))
        assert metrics["interval"][0] < metrics["mean_iou"] < metrics["interval"][1]
    places = {each["id"]: f"board/{each['id']}.json" for each in load(board)}
    shown = page(Page(load(board), (), lambda record: (), places))
    low, high = (f"{100 * end:.2f}" for end in record["metrics"]["seg_linear"]["interval"])
    score = f"{100 * record['metrics']['seg_linear']['mean_iou']:.2f}"
    assert f"simclr {low} to {high}" in render(load(board))
    for text in (render(load(board)), shown):
        assert score in text
        assert "mIoU, in place of top-1, is the mean over classes" in text
    assert audit(tmp_path / "results") == []
    assert evaluate(arguments) == 0  # floors are read, scores are the same
    again = [each for each in load(board) if each["method"]["name"] == "simclr"]
    assert len({str(each["metrics"]) for each in again}) == 1


@pytest.mark.usefixtures("one_thread")
def test_weights_of_others_on_images_with_masks(rooms: Path, tmp_path: Path) -> None:
    """Oracle: positions of a file of 16 px are interpolated; a network of timm without attention has maps too."""
    assert main(command(tmp_path / "runs", 2)) == 0
    (weights,) = (tmp_path / "runs").glob("simclr-*/encoder.safetensors")
    small = ("ViT.width=32", "ViT.depth=1", "ViT.heads=2")
    settings = on(rooms, *small)
    encoder = ["--gin", "gin/protocol/digits_vit_micro.gin", "--weights", str(weights), "--layout", "run"]
    assert evaluate([*encoder, *settings, "--out", str(tmp_path / "a")]) == 0
    (record,) = load(tmp_path / "a" / "evaluations")
    assert record["encoder"].get("positions") == "4 x 4 to 6 x 6"
    timm = on(rooms, "experiment.encoder=@Timm", "Timm.name=resnet10t")
    assert evaluate([*timm, "--out", str(tmp_path / "b")]) == 0
    (record,) = load(tmp_path / "b" / "evaluations")
    assert "positions" not in record["encoder"]


def test_what_does_not_fit_is_refused(rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code and sentence: evaluations of other data, a patch that leaves a rest, a pretraining."""
    encoder = ["--gin", "gin/protocol/digits_vit_micro.gin", "--out", str(tmp_path)]
    assert evaluate([*encoder, *on(rooms, "experiment.evaluations=(@KNN, @SegLinear, @DenseKNN)")]) == 2
    assert "Images of rooms have masks, for which KNN is not made" in capsys.readouterr().err
    assert evaluate([*encoder, "--set", "experiment.evaluations=(@SegLinear,)"]) == 2
    assert "Images of digits have one label, for which SegLinear is not made" in capsys.readouterr().err
    assert evaluate([*encoder, *on(rooms, "experiment.encoder_size=16", "Images.size=26")]) == 2
    assert "Images.size = 26: vit_micro_patch4 cuts images into patches of 4 px" in capsys.readouterr().err
    assert evaluate([*encoder, *on(rooms, "Images.test=None")]) == 2
    assert "need masks of test images" in capsys.readouterr().err
    assert main(command(tmp_path, 2, "--set", "experiment.encoder_size=8")) == 2
    assert "an encoder is pretrained on images of Images.size" in capsys.readouterr().err


@pytest.mark.long
def test_camvid_takes_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: random weights and raw colours are above guessing road everywhere, 3 %, and below trained networks."""
    if not Path(os.environ.get("SSL_BENCHMARK_DATA", ""), "camvid", "test.parquet").is_file():
        pytest.skip("needs CamVid as the folder camvid below SSL_BENCHMARK_DATA")
    vit = ["--gin", "gin/protocol/cifar10_vit_micro.gin", "--gin", "gin/protocol/camvid.gin"]
    assert evaluate([*vit, "--set", "experiment.encoder_size=32", "--out", str(tmp_path)]) == 0
    assert re.search("raw pixels", capsys.readouterr().out)
    for record in load(tmp_path / "floors"):
        for metrics in record["metrics"].values():
            assert 0.1 < metrics["mean_iou"] < 0.5
    torch.use_deterministic_algorithms(False)
