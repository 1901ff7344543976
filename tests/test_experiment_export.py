"""Exported encoders: a stranger's process loads them and gets the outputs of the run."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image
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


@pytest.fixture(params=["vit", "resnet"])
def run(request: pytest.FixtureRequest, out: Path) -> Path:
    """The folder of a finished run of one step on either kind of encoder."""
    folder = out / request.param
    if not folder.exists():
        arguments = command(folder, 1)
        if request.param == "resnet":
            settings = [part for setting in SMALL if "ViT" not in setting for part in ("--set", setting)]
            files = ["--gin", "gin/simclr.gin", "--gin", "gin/protocol/digits_resnet18.gin"]
            small = ["--set", "ResNet.base_width=4", "--set", "HEAD_HIDDEN=32", "--set", "Budget.amount=32"]
            arguments = [*files, *settings, *small, "--out", str(folder)]
        assert pretrain(arguments) == 0
    return next(folder.glob("simclr-*"))


def encoder_of(run: Path) -> Encoder:
    trained = TrainedEncoder.of_run(run)
    encoder = Session.open(configure(trained, (), (), allow_imports=False), run.parent).encoder()
    encoder.net.load_state_dict(load_file(run / "encoder.safetensors"))
    return encoder.eval()


@pytest.mark.slow
def test_a_stranger_gets_the_same_outputs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the run's encoder, to the last bit; the stranger has the model card and no path to this project. Where
    timm has such a network it loads it from the hub too: here from the hub's cache, as after an upload. The card has
    the record's statistics, tag and licence, the row, and the configuration, which loads again.

    The command compares outputs too, in a process that takes as long as the stranger's; test_run has it do so.
    """
    monkeypatch.setattr("benchmark.experiment.export._compare", lambda encoder, spec, folder: None)
    folder = tmp_path / "exported"
    assert main([str(run), "--to", str(folder), "--license", "cc-by-4.0"]) == 0
    card = (folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    save_file({"images": images}, tmp_path / "images")
    cache, revision = tmp_path / "hub" / "models--me--mine", "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(revision)
    shutil.copytree(folder, cache / "snapshots" / revision)
    has_twin = (folder / "config.json").exists()
    lines = [
        "import sys; sys.modules['benchmark'] = None",
        code[1],
        "import torch; from safetensors.torch import load_file, save_file; torch.set_num_threads(1)",
        "models = {'card': model}",
        *(["models['hub'] = timm.create_model('hf-hub:me/mine', pretrained=True).eval()"] if has_twin else []),
        "images = load_file('images')['images']",
        "save_file({name: each(images).detach().contiguous() for name, each in models.items()}, 'outputs')",
    ]
    stranger = [sys.executable, "-I", "-c", "\n".join(lines)]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(stranger, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = encoder_of(run)(images).pooled
    outputs = load_file(tmp_path / "outputs")
    assert set(outputs) == ({"card", "hub"} if has_twin else {"card"})
    assert all(torch.equal(each, expected) for each in outputs.values())

    record = TrainedEncoder.of_run(run).run
    assert "license: cc-by-4.0\n" in card
    assert row(record, []) in card
    assert str(tuple(record["dataset"]["mean"])) in card
    text = card.split("## Configuration\n\n```\n")[1].removesuffix("```\n")
    assert configuration.loads(text).text == record["config"]["text"]
    said = capsys.readouterr().out
    assert has_twin == (record["encoder"]["patch"] is not None)
    if not has_twin:
        assert "timm has no such network" in said
        assert "library_name: pytorch\n" in card
        return
    assert "no such network" not in said
    written = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert written["tag"] == f"simclr_digits_s0_{record['config']['key'][:8]}"
    assert (written["mean"], written["std"]) == (record["dataset"]["mean"], record["dataset"]["std"])
    assert written["license"] == "cc-by-4.0"
    assert written["input_size"] == [3, 16, 16]


def test_mteb_evaluates_the_folder(run: Path, tmp_path: Path) -> None:
    """Oracle: the run's encoder on the pixels of images of its size, within 1e-5, by mteb's loader; and a task on black
    and white images in a folder, which any encoder solves."""
    pytest.importorskip("mteb", reason="not of this project: pip install mteb")
    folder = tmp_path / "exported"
    assert main([str(run), "--to", str(folder)]) == 0
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_file({"pixels": pixels}, tmp_path / "pixels")
    for split, name, number in product(("train", "test"), ("black", "white"), range(16)):
        (tmp_path / "photos" / split / name).mkdir(parents=True, exist_ok=True)
        colour = (number + 200 * (name == "white"),) * 3
        Image.new("RGB", (20, 24), colour).save(tmp_path / "photos" / split / name / f"{number}.png")
    program = """
import sys; sys.path.insert(0, "exported"); sys.modules["benchmark"] = None; sys.argv[1:] = ["photos"]
import runpy, mteb_encoder; from PIL import Image; from safetensors.torch import load_file, save_file
images = [Image.fromarray(each.numpy()) for each in load_file("pixels")["pixels"]]
task = mteb_encoder.of_folder(mteb_encoder.Path("photos"))
model = mteb_encoder.META.load_model()
encoded = model.encode([{"image": images}], task_metadata=task.metadata, hf_split="test", hf_subset="default")
save_file({"encoded": encoded}, "encoded")
runpy.run_path("exported/mteb_encoder.py", run_name="__main__")
"""
    environment = os.environ | {name: str(tmp_path / "cache") for name in ("HF_HOME", "MTEB_CACHE")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    stranger = [sys.executable, "-I", "-c", program]
    done = subprocess.run(stranger, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "photos: 1.0000\n" in done.stdout
    data = TrainedEncoder.of_run(run).run["dataset"]
    mean, std = (torch.tensor(data[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = encoder_of(run)((pixels.permute(0, 3, 1, 2) / 255 - mean) / std).pooled
    assert (load_file(tmp_path / "encoded")["encoded"] - expected).abs().max() < 1e-5


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
