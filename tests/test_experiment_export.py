"""Exported encoders: a stranger's process loads them and gets the outputs of the run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SMALL, command

from benchmark.config import load as configuration
from benchmark.experiment.session import Session
from benchmark.experiment.trained import TrainedEncoder, configure
from benchmark.export import main
from benchmark.nets.encoders import Encoder
from benchmark.report.markdown import row
from benchmark.run import main as pretrain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(params=["vit", "resnet"])
def run(request: pytest.FixtureRequest, out: Path) -> Path:
    """The folder of a finished run of one step on either kind of encoder."""
    folder = out / request.param
    if not folder.exists():
        arguments = command(folder, 1)
        if request.param == "resnet":
            settings = [part for setting in SMALL if "ViT" not in setting for part in ("--set", setting)]
            files = ["--gin", "gin/simclr.gin", "--gin", "gin/protocol/digits_resnet18.gin"]
            arguments = [*files, *settings, "--set", "Budget.amount=32", "--out", str(folder)]
        assert pretrain(arguments) == 0
    return next(folder.glob("simclr-*"))


def encoder_of(run: Path) -> Encoder:
    trained = TrainedEncoder.of_run(run)
    encoder = Session.open(configure(trained, (), (), allow_imports=False), run.parent).encoder()
    encoder.net.load_state_dict(load_file(run / "encoder.safetensors"))
    return encoder.eval()


def test_a_stranger_gets_the_same_outputs(run: Path, tmp_path: Path) -> None:
    """Oracle: the run's encoder, to the last bit; the stranger has the model card and no path to this project. The card
    has the record's statistics, tag and licence, the row, and the configuration, which loads again."""
    folder = tmp_path / "exported"
    assert main([str(run), "--to", str(folder), "--license", "cc-by-4.0"]) == 0
    card = (folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    save_file({"images": images}, tmp_path / "images")
    lines = [
        "import sys; sys.modules['benchmark'] = None",
        code[1],
        "import torch; from safetensors.torch import load_file, save_file; torch.set_num_threads(1)",
        "save_file({'outputs': model(load_file('images')['images']).detach().contiguous()}, 'outputs')",
    ]
    done = subprocess.run([sys.executable, "-I", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = encoder_of(run)(images).pooled
    assert torch.equal(load_file(tmp_path / "outputs")["outputs"], expected)

    record = TrainedEncoder.of_run(run).run
    assert "license: cc-by-4.0\n" in card
    assert row(record, []) in card
    assert str(tuple(record["dataset"]["mean"])) in card
    text = card.split("## Configuration\n\n```\n")[1].removesuffix("```\n")
    assert configuration.loads(text).text == record["config"]["text"]
    if record["encoder"]["patch"] is None:
        assert not (folder / "config.json").exists()  # timm has no such stem
        return
    written = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert written["tag"] == f"simclr_digits_s0_{record['config']['key'][:8]}"
    assert (written["mean"], written["std"]) == (record["dataset"]["mean"], record["dataset"]["std"])
    assert written["license"] == "cc-by-4.0"
    assert written["input_size"] == [3, 16, 16]


@pytest.mark.parametrize("run", ["vit"], indirect=True)
def test_a_folder_in_use_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code 2, and the file that was there."""
    (tmp_path / "mine.txt").write_text("mine")
    for place, answer in (
        ("", "is not empty"),
        ("mine.txt", "is not empty"),
        ("mine.txt/x", "cannot be made a folder"),
    ):
        assert main([str(run), "--to", str(tmp_path / place)]) == 2
        assert answer in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
