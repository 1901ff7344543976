"""Pretraining that goes on from trained weights: each source, what is refused, and what records and tables say."""

from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from report_records import run as made
from safetensors.torch import save_file
from test_nets_pretrained import FILES, images, vit
from tiny import command, runs_of
from torch import Tensor

from benchmark.boards.plan import Suite
from benchmark.boards.planned import identity
from benchmark.config import load as configuration
from benchmark.errors import ConfigError, MissingError
from benchmark.evaluate import main as evaluate
from benchmark.experiment.stage import Stage
from benchmark.experiment.start import Start
from benchmark.nets import timm_net
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.layouts import IMAGENET, LAYOUTS
from benchmark.report import record as records
from benchmark.report.identity import without_paths
from benchmark.report.markdown import render
from benchmark.report.record import Record
from benchmark.run import main
from benchmark.views.colour import normalise

pytestmark = pytest.mark.usefixtures("one_thread")

NARROW = "vit_tiny_patch16_224"


def run(folder: Path, *settings: str, steps: int = 2) -> Record:
    bound = [part for setting in settings for part in ("--set", setting)]
    assert main(command(folder, steps, "--publish", str(folder / "board"), *bound)) == 0
    return records.read(runs_of(folder, "simclr")[-1])


def floors(folder: Path, record: Record) -> dict[str, Record]:
    found = [records.read(path) for path in (folder / "board").glob("*.json")]
    return {floor["method"]["name"]: floor for floor in found if floor["id"] in record["floors"]}


def published(monkeypatch: pytest.MonkeyPatch, folder: Path) -> torch.nn.Module:
    """Let timm's own code load weights of a file in place of the ones that it would fetch, and return their network."""
    torch.manual_seed(3)
    network = timm.create_model(NARROW)
    torch.nn.init.normal_(network.pos_embed)
    save_file(network.state_dict(), folder / "timm.safetensors")
    overlay = {"file": str(folder / "timm.safetensors")}
    monkeypatch.setattr(timm_net, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    return network.eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_features_are_those_of_a_file(layout: str, tmp_path: Path) -> None:
    """Oracle: the network whose weights the file has, on inputs as the layout states them."""
    _, build, write = next(of_file for of_file in FILES.values() if of_file[0] == layout)
    source = build(1)  # type: ignore[call-arg]
    file = tmp_path / "weights.pth"
    torch.save(write(source.net.state_dict()), file)
    start = Start.find(str(file), layout)
    encoder: Encoder = build(2).eval()  # type: ignore[call-arg]
    assert start.load(encoder) is None
    assert encoder.statistics == LAYOUTS[layout].statistics
    expected = source.eval()(images()).pooled
    assert (encoder(images()).pooled - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_first_features_are_those_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: timm's network with the weights that timm itself loaded, at its own image size."""
    network = published(monkeypatch, tmp_path)
    start = Start.find(f"timm:{NARROW}", "run")
    encoder = ViT(224, name="vit", width=192, depth=12, heads=3, patch=16)
    assert start.load(encoder) is None
    assert encoder.statistics == (tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"]))
    view = torch.randn(1, 3, 224, 224)
    expected = network.forward_features(view)[:, 0]
    assert (encoder.eval()(view).pooled - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_positions_follow_the_image_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: timm's network of that size, for which timm resamples its positions on loading."""
    published(monkeypatch, tmp_path)
    encoder = ViT(64, name="vit", width=192, depth=12, heads=3, patch=16)
    assert Start.find(f"timm:{NARROW}", "run").load(encoder) == "14 x 14 to 4 x 4"
    expected = timm_net.create_model(NARROW, pretrained=True, img_size=64, num_classes=0).eval()(view := images64())
    torch.testing.assert_close(encoder.eval()(view).pooled, expected, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_from_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the grids of 224 and 32 px in patches of 16, and timm's inputs; the dry run names the start."""
    network = published(monkeypatch, tmp_path)
    shape = ("ViT.width=192", "ViT.depth=12", "ViT.heads=3", "ViT.patch=16", "Images.size=32")
    record = run(tmp_path, *shape, f"experiment.init='timm:{NARROW}'", "experiment.evaluations=()", steps=1)
    assert record["start"]["name"] == NARROW
    assert (record["start"]["layout"], record["start"]["positions"]) == ("timm", "14 x 14 to 2 x 2")
    assert record["encoder"]["inputs"]["mean"] == list(network.pretrained_cfg["mean"])


def test_a_published_path_is_the_same_run(tmp_path: Path) -> None:
    """Oracle: the text as it is published, whose absolute path is cut; another file is another run."""
    texts = [
        configuration.load(["gin/simclr.gin"], [f"experiment.init='{tmp_path / name}'"]).text for name in ("a", "b")
    ]
    assert without_paths(texts[0]) != texts[0]
    assert identity(without_paths(texts[0])) == identity(texts[0]) != identity(texts[1])


def test_no_trials_choose_the_rate_of_what_comes_from_elsewhere() -> None:
    """Oracle: such runs are of the division open: refused before a trial is made."""
    elsewhere = ("experiment.init = 'weights.pth'",)
    suite = Suite(methods=("simclr",), protocols=("digits_vit_micro",), seeds=(0,), settings=elsewhere)
    with pytest.raises(ConfigError, match=r"with experiment\.init: such runs are of the division open"):
        list(suite.trials())
    assert len(list(suite.runs())) == 1


def images64() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    folder = tmp_path_factory.mktemp("source")
    record = run(folder)
    (of_run,) = folder.glob("simclr-*")
    return of_run, record


def test_a_run_goes_on_from_another(source: tuple[Path, Record], tmp_path: Path) -> None:
    """Oracle: the source's own accuracy is that of the start, a floor; key and digest come from its weights.

    Evaluated again, the encoder of the run scores as it did.
    """
    folder, earlier = source
    record = run(tmp_path, f"experiment.init='{folder}'")
    assert record["division"] == "open"
    assert record["start"] == {
        "name": "simclr",
        "digest": earlier["checkpoint"]["sha256"],
        "layout": "run",
        "positions": None,
    }
    assert record["config"]["key"] != earlier["config"]["key"]
    assert record["encoder"]["inputs"] == {name: earlier["dataset"][name] for name in ("mean", "std")}
    start = floors(tmp_path, record)["start: simclr"]
    assert start["metrics"]["knn"]["top1"] == earlier["metrics"]["knn"]["top1"]
    page = render([records.read(path) for path in (tmp_path / "board").glob("*.json")])
    gain = 100 * (record["metrics"]["knn"]["top1"] - start["metrics"]["knn"]["top1"])
    assert f"Gain over the start, kNN, in points: simclr {gain:.2f} (1 seed)" in page
    (made,) = tmp_path.glob("simclr-*")
    assert evaluate(["--run", str(made), "--out", str(tmp_path / "again")]) == 0
    (again,) = (records.read(path) for path in (tmp_path / "again" / "evaluations").glob("*.json"))
    assert again["metrics"]["knn"]["top1"] == record["metrics"]["knn"]["top1"]
    assert again["start"] == record["start"]


def test_the_gain_is_over_the_start() -> None:
    """Oracle: by hand: 61 and 63 % after 50 %, and a floor that is no start does not count."""
    starts = {"name": "simclr", "digest": "0" * 64, "layout": "run", "positions": None}
    begun = {"division": "floor", "board": None, "budget": None}
    floor_records = [made("start: simclr", 0, 0.5, **begun), made("random init", 0, 0.2, **begun)]
    ids = [floor["id"] for floor in floor_records]
    runs = [
        made("moco", seed, top1, division="open", floors=ids, start=starts) for seed, top1 in ((0, 0.61), (1, 0.63))
    ]
    assert "Gain over the start, linear, in points: moco 12.00 ±" in render([*floor_records, *runs])


def test_other_weights_at_the_same_place_are_another_run(tmp_path: Path) -> None:
    """Oracle: the key of the stage, whose configuration names the same file."""
    small = ("ViT.width=32", "ViT.depth=2", "ViT.heads=2", "ViT.patch=4", "Images.size=8", "Pretraining.batch_size=32")
    weights, keys = tmp_path / "weights.pth", []
    for seed in (1, 2, 1):
        torch.save(vit(seed, size=8).net.state_dict(), weights)
        config = configuration.load(["gin/simclr.gin"], (*small, f"experiment.init='{weights}'"))
        keys.append(Stage.open(config, tmp_path).key)
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_inputs_of_weights_from_elsewhere_are_theirs(tmp_path: Path) -> None:
    """Oracle: the views of a step, normalised by ImageNet's statistics in place of the digits'."""
    weights = tmp_path / "weights.pth"
    torch.save({"model": vit(1, size=8).net.state_dict()}, weights)
    small = ("ViT.width=32", "ViT.depth=2", "ViT.heads=2", "ViT.patch=4", "Images.size=8", "Pretraining.batch_size=32")
    settings = (*small, f"experiment.init='{weights}'", "experiment.init_layout='mae'")
    stage = Stage.open(configuration.load(["gin/simclr.gin"], settings), tmp_path)
    plain = Stage.open(configuration.load(["gin/simclr.gin"], small), tmp_path)
    mean, std = (torch.tensor(values)[:, None, None] for values in (plain.dataset.mean, plain.dataset.std))
    pixels = plain.training(600).batch(0)[0] * std + mean
    torch.testing.assert_close(stage.training(600).batch(0)[0], normalise(pixels, *IMAGENET), atol=1e-5, rtol=1e-5)
    trained = stage.training(600).method.encoder.net
    assert torch.equal(trained.blocks[1].mlp.fc1.weight, vit(1, size=8).net.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("init", "layout", "message"),
    [
        ("nowhere", "run", "there is no such file or folder"),
        ("timm:vit_tyny_patch16_224", "run", "timm publishes no such weights. Did you mean"),
        (f"timm:{NARROW}", "run", f"experiment.init = 'timm:{NARROW}': these weights cannot be fetched"),
        ("gin", "run", "is not the folder of a finished run"),
        ("{weights}", "run", "does not hold the weights of"),
        ("{weights}", "maee", "No layout 'maee'"),
        (f"timm:{NARROW}", "mae", "experiment.init_layout = 'mae' is for a file of weights"),
        ("gin", "mae", "experiment.init_layout = 'mae' is for a file of weights"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    init: str,
    layout: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Oracle: one sentence before anything is trained; the exit code of what is missing or of what is wrong."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    weights = tmp_path / "weights.pth"
    torch.save(vit(1, size=8).net.state_dict(), weights)
    settings = (f"experiment.init='{init.format(weights=weights)}'", f"experiment.init_layout='{layout}'")
    code = main(command(tmp_path, 2, *(part for setting in settings for part in ("--set", setting))))
    assert code in (ConfigError.exit_code, MissingError.exit_code)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("simclr-*"))


def test_trained_encoders_are_not_ranked_with_random_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: an encoder that timm fetched would enter the closed division; the sentence names what to bind."""
    published(monkeypatch, tmp_path)
    timm_encoder: tuple[Any, ...] = ("experiment.encoder=@Timm", f"Timm.name='{NARROW}'", "Timm.pretrained=True")
    settings = ("Images.size=32", *timm_encoder, "Budget.kind='samples'", "Budget.amount=64")
    files = ["--gin", "gin/simclr.gin", "--gin", "gin/protocol/digits_resnet18.gin"]
    arguments = [*files, *(part for setting in settings for part in ("--set", setting))]
    assert main([*arguments, "--out", str(tmp_path)]) == ConfigError.exit_code
    assert f"--set experiment.init=timm:{NARROW}" in capsys.readouterr().err
