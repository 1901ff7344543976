"""The command line: what it answers to misuse, what a run leaves behind, and that neither order nor a kill shows."""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import command, runs_of

from benchmark.evals.knn import KNN
from benchmark.experiment.folders import prepare
from benchmark.export import main as export
from benchmark.report import record as records
from benchmark.report.audit import audit
from benchmark.report.cells import group, load
from benchmark.report.markdown import render
from benchmark.report.record import Record
from benchmark.run import main
from benchmark.storage.files import claim
from benchmark.training.loop import Outcome, Training

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("one_thread")


def run(
    folder: Path, steps: int, *more: str, gin: str = "gin/simclr.gin", seed: int = 0
) -> tuple[Record, list[dict[str, Any]]]:
    """Run to the end; return the record and the lines of metrics.jsonl without their times."""
    assert main(command(folder, steps, *more, gin=gin, seed=seed)) == 0
    return newest(folder)


def newest(folder: Path) -> tuple[Record, list[dict[str, Any]]]:
    """Return the newest record below a folder and the lines logged beside it."""
    path = runs_of(folder)[-1]
    lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    times = ("images_per_second", "train_seconds")
    return records.read(path), [{k: v for k, v in line.items() if k not in times} for line in lines]


MISUSES = [
    ("Budget.ammount=3", "no parameter 'ammount'. Did you mean amount?"),
    ("Budget.kind=epochs", "expected one of 'samples', 'flops'"),
    ("ResNet.name=resnet18", "experiment does not use ResNet"),
    ("Images.source=ftp:digits", "expected 'sklearn:digits', 'hub:owner/name'"),
    ("Images.label=lable", "Did you mean 'label'?"),
    ("Images.test=tset", "Did you mean 'test'?"),
    ("Images.test=none", "the test split of digits has none"),
    ("Images.test=train", "is also a split to train on"),
    ("Images.size=0", "at least 1 pixel"),
    ("Budget.amount=31", "buys no step: one step of 32 images costs 32 samples"),
    ("Budget.amount=1e30", "is the most that a run can have"),
    ("Pretraining.batch_size=1", "need at least 2 images"),
    ("Pretraining.views=@crop_flip", "SimCLR takes 2 view(s), but Pretraining.views makes 1"),
    ("PATCH=5", "ViT.patch = 5 does not divide the image side 16"),
    ("ViT.heads=3", "must be a multiple of 4 and of ViT.heads = 3"),
    ("ViT.depth=0", "at least 1 block"),
    ("AdamW.warmup=1.5", "of at least 0 and below 1"),
    ("AdamW.betas=(2.0, 2.0)", "AdamW.betas expected tuple"),
    ("AdamW.base_rate=-1.0", "AdamW.base_rate expected float above 0"),
    ("SimCLR.temperature=0.0", "SimCLR.temperature expected float above 0"),
    ("SimCLR.projector_layers=0", "expected int of at least 1, got 0"),
    ("KNN.k=0", "KNN.k expected int of at least 1, got 0 (int)"),
    ("experiment.evaluations=(@KNN, @KNN)", "each evaluation may stand there once"),
]
MISUSES += [
    ("Pretraining.batch_size=99999999999999999999", "a whole number is at most 2^63 - 1"),
    ("Images.size=99999999", "at most 16,384 pixels"),
    ("Pretraining.name=' '", "Pretraining.name is empty"),
    ("Images.name=' '", "Images.name is empty"),
]
OPTIONS = [
    (
        ["--gin", "gin/protocol/digits.gin", "--set", "experiment.encoder=@Timm", "--set", "Timm.name=resnet18"],
        2,
        "%HEAD_LAYERS is not defined. The protocol of an encoder defines it",
    ),
    (["--set", "Images.source=parquet:/nowhere"], 3, "--set Images.source=parquet:/path"),
    (["--set", "Images.source=folder:/nowhere"], 3, "--set Images.source=parquet:/path"),
    (["--set", "Pretraining.batch_size=2000", "--set", "Budget.amount=9999"], 2, "Pretraining.batch_size=1442"),
    (["--seed", "-1"], 2, "a whole number from 0"),
    (["--out", "README.md"], 2, "cannot be made a folder"),
    (["--publish", "README.md"], 2, "cannot be made a folder"),
    (["--publish", "results/board/.."], 2, "give the folder of a board by its name"),
    (["--publish", "."], 2, "give the folder of a board by its name"),
]


def test_misuse_is_answered_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the exit code, the words that help, no traceback, a folder for runs that does not exist, and a decoder
    that nobody calls."""
    monkeypatch.setattr("benchmark.data.cache.decoded", None)
    for more, code, answer in [*((["--set", setting], 2, answer) for setting, answer in MISUSES), *OPTIONS]:
        assert main(command(tmp_path / "runs", 2, *more)) == code, more
        printed = capsys.readouterr().err
        assert re.search("^error: ", printed, re.MULTILINE)
        assert answer in printed
        assert "Traceback" not in printed
        assert not (tmp_path / "runs").exists()


def test_a_byte_order_mark_is_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the same file without the mark that an editor put before it."""
    file = tmp_path / "marked.gin"
    file.write_bytes(b"\xef\xbb\xbf" + Path("gin/simclr.gin").read_bytes())
    assert main(command(tmp_path / "runs", 2, "--dry-run", gin=str(file))) == 0
    assert "simclr" in capsys.readouterr().out


def test_a_network_of_timm_under_masking_is_not_called_convolutional(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the class of the encoder, and what to give."""
    files = ["--gin", "gin/mae.gin", "--gin", "gin/protocol/digits_vit_micro.gin", "--set", "Images.size=32"]
    network = ["--set", "experiment.encoder=@Timm", "--set", "Timm.name=vit_tiny_patch16_224"]
    assert main([*files, *network, "--out", str(tmp_path), "--dry-run"]) == 2
    printed = capsys.readouterr().err
    assert "encodes whole images (Timm). Use a ViT" in printed
    assert "convolutional" not in printed


def test_what_the_files_show_is_refused_at_once(tmp_path: Path) -> None:
    """Oracle: the processor's clock: 2 s are not enough to import torch, timm and the rest; and what was refused.

    The last file stands for all that a command refuses by the text of its files.
    """
    foreign = tmp_path / "foreign.gin"
    foreign.write_text("import baselines.simclr\nimport my_method\nPretraining.method = @Mine\n")
    for command_line, *answers in (
        ("evaluate --weights none.pth --gin gin/protocol/digits.gin", "none.pth: there is no such file"),
        ("suite --gin gin/suites/digit.gin", "Did you mean gin/suites/digits.gin?"),
        (f"run --gin {foreign}", "foreign.gin:2: ", "my_method"),
    ):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run(
            [sys.executable, "-m", *f"benchmark.{command_line}".split()], capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert all(answer in ended.stdout + ended.stderr for answer in answers), ended
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2, command_line


@pytest.mark.parametrize(("name", "option"), [("run", "--checkpoint-seconds"), ("doctor", "--no-training")])
def test_help_is_fast_and_imports_no_torch(name: str, option: str) -> None:
    """Oracle: the processor's clock: the median of five starts is below 0.2 s; modules named torch and gin that must
    not be imported."""
    hidden = "import sys; sys.modules['torch'] = None; sys.modules['gin'] = None"
    code = f"{hidden}; import benchmark.{name} as command; command.main()"
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert ended.returncode == 0, ended.stderr
    assert option in ended.stdout
    assert "exit codes" in ended.stdout
    assert statistics.median(seconds) < 0.2


def test_a_wrong_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: argparse's code and what is wrong; beside a record, which says itself what is made again, all that would
    be ignored: a dry run would have trained."""
    ignored = ["--dry-run", "--seed", "3", "--set", "Images.source=folder:/data"]
    for arguments, answer in (
        ([], "--gin"),
        (["--gin", "gin/simclr.gin", "--checkpoint-seconds", "-1"], "--checkpoint-seconds -1: give 0"),
        (["--reproduce", "record.json", *ignored], "leave out --seed, --dry-run"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert answer in capsys.readouterr().err


def test_dry_run_shows_what_would_happen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: numbers by hand: 10 steps of 32 of 1442 images, the weights of one block; nothing is written.

    1568 to embed patches, 576 for the class token and positions, 12,704 in the block, 64 in the last norm.
    """
    assert main(command(tmp_path / "runs", 10, "--dry-run")) == 0
    printed = capsys.readouterr().out
    for fact in (
        "No file binds experiment.data: using gin/protocol/digits.gin",
        "SimCLR.temperature = 0.2",
        "experiment.evaluations = (@KNN,)",
        "digits, 1,442 images to pretrain on, 1,442 train, 355 test, 16 px, 10 classes, fingerprint ",
        "vit_micro_patch4, 14,912 parameters, 32 features",
        "320 samples buys 10 steps, 320 images, 0.2 epochs",
        "cpu, 1 threads, ",
    ):
        assert fact in printed
    assert not (tmp_path / "runs").exists()


def test_words_and_synonyms_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one configuration in gin's own names and quotes and in ours without: the same printed configuration."""
    bare = ["Budget.kind=samples", "Budget.amount=256", "Images.test=none", "experiment.evaluations=()"]
    quoted = ["Budget.kind = 'samples'", "Budget.amount = 256.0", "Images.test = None", "experiment.evaluations = ()"]
    texts = []
    for arguments in (
        ["--gin", "gin/simclr.gin", *(part for setting in bare for part in ("--set", setting))],
        ["--gin_file", "simclr.gin", *(part for setting in quoted for part in ("--gin_param", setting))],
        ["--gin_files", "simclr.gin", *(part for setting in quoted for part in ("--gin_bindings", setting))],
    ):
        assert main([*arguments, "--dry-run"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert "Budget.kind = 'samples'" in texts[0]


def test_a_run_leaves_a_whole_record(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the schema; sums by hand; files by their digests; published with its floors; the row is printed."""
    board = tmp_path / "results" / "board"
    record, lines = run(out, 4, "--set", "experiment.curve_points=8", "--publish", str(board))
    printed = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in printed.splitlines()]
    assert {"simclr", "random init", "raw pixels"} <= set(rows)
    assert "so these numbers rank nothing" in printed
    assert (record["status"], record["board"], record["seed"]) == ("ok", None, 0)
    assert record["budget"] == {"kind": "samples", "amount": 128.0, "steps": 4, "batch_size": 32}
    assert (record["cost"]["images"], record["cost"]["views"]) == (128, 256)
    assert record["cost"]["flops"] == 4 * record["cost"]["flops_per_step"]
    assert record["dataset"]["sizes"] == {"pretrain": 1442, "train": 1442, "test": 355}
    assert any("SimCLR: The projector has batch norm" in text for text in record["method"]["deviations"])
    assert record["training"]["loss"] == lines[-1]["loss"]
    points = [{"step": 4, "knn": lines[-1]["knn"]}]
    assert record["training"]["curve"] == {"bank": 1153, "queries": 289, "points": points}
    assert record["metrics"]["knn"]["n"] == 355
    published = {record["id"]: record for record in map(records.read, board.glob("*.json"))}
    floors = {identity: published.pop(identity) for identity in record["floors"]}
    assert {floor["division"] for floor in floors.values()} == {"floor"}
    (copy,) = published.values()
    assert copy["board"] == "board"
    files = copy.pop("published")  # type: ignore[misc]
    assert dict(copy, id=record["id"], board=None) == record
    folder = next(out.glob(f"simclr-digits-s0-{record['config']['key'][:8]}"))
    assert (folder / "config.gin").read_text() == record["config"]["text"]
    assert record["checkpoint"] is not None
    assert len((folder / record["checkpoint"]["file"]).read_bytes()) == record["checkpoint"]["bytes"]
    weights = load_file(folder / record["checkpoint"]["file"])
    assert sum(value.numel() for value in weights.values()) == record["encoder"]["parameters"]
    assert record["predictions"] is not None
    ranked = load_file(folder / record["predictions"]["file"])["knn"]
    assert ranked.shape == (355, 5)
    for file in files.values():
        content = (board / file["file"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])
        assert (board / file["file"]).name.startswith(f"{records.stem(copy)}-")
    classes = np.load(board / files["predictions"]["file"])["classes"]
    assert (classes["knn"] == ranked[:, 0].numpy()).all()
    assert (classes["knn"] == classes["label"]).mean() == pytest.approx(record["metrics"]["knn"]["top1"])
    halves = load_file(board / files["encoder"]["file"])
    assert {name: value.shape for name, value in halves.items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert all(value.dtype == torch.float16 for value in halves.values())
    assert all(torch.equal(value, weights[name].half()) for name, value in halves.items())
    assert audit(board.parent) == []


def test_a_run_is_a_function_of_configuration_and_seed(tmp_path: Path, out: Path) -> None:
    """Oracle: two runs of one seed in two folders: equal digests, keys, lines and scores; another seed differs."""
    first, lines = run(tmp_path / "a", 6)
    second, again = run(out, 6)
    other, _ = run(out, 6, seed=1)
    assert first["training"] == second["training"]
    assert first["metrics"] == second["metrics"]
    assert first["config"] == second["config"]
    assert lines == again
    assert other["training"]["digest"] != first["training"]["digest"]
    assert other["config"]["key"] == first["config"]["key"]


@pytest.mark.long
@pytest.mark.parametrize("method", ["simclr", "moco", "mae"])
def test_a_compiled_run_is_a_function_of_configuration_and_seed(tmp_path: Path, method: str) -> None:
    """Oracle: twice the same digest, by generated code; the eager run's losses but for rounding, its cost in FLOPs.

    A joint forward, a momentum copy with a queue, and a decoder: what is compiled differs. `pytest -m long
    tests/test_run.py -k compiled`, half a minute to two minutes each on 2 cores, for the first compilation.
    """
    if not shutil.which("g++"):
        pytest.skip("there is no compiler")
    gin, compiled = f"gin/{method}.gin", ("--set", "Pretraining.compiled=True")
    (first, lines), (again, _) = (run(tmp_path / name, 4, *compiled, gin=gin) for name in "ab")
    eager, expected = run(tmp_path / "eager", 4, gin=gin)
    assert first["training"]["digest"] == again["training"]["digest"]
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-2)
    assert first["cost"]["compile_seconds"] > eager["cost"]["compile_seconds"] == 0
    assert first["cost"]["flops"] == eager["cost"]["flops"]
    compiled_names, eager_names = (
        load_file(next(tmp_path.glob(f"{name}/*/encoder.safetensors"))).keys() for name in ("a", "eager")
    )
    assert compiled_names == eager_names


def test_a_diverged_run_is_recorded(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code 1, then and when asked again; a record without a loss but with scores, which are chance."""
    arguments = command(out, 5, "--set", "AdamW.base_rate=1e9")
    assert main(arguments) == 1
    assert "The loss was not finite before step 3 of 5" in capsys.readouterr().err
    record, _ = newest(out)
    assert (record["status"], record["training"]["loss"], record["training"]["collapsed"]) == ("diverged", None, True)
    assert record["metrics"]["knn"]["top1"] < 0.2
    assert record["cost"]["images"] == 3 * 32
    assert main(arguments) == 1
    assert "The loss was not finite before step 3 of 5" in capsys.readouterr().err


def test_a_run_that_breaks_down_shows_on_its_board(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a sound record of four steps without scores, which a run that comes to its end replaces in its cell."""
    take, board = Training._take, tmp_path / "board"

    def broken(training: Training) -> None:
        if training.step == 4:
            raise RuntimeError("out of memory")
        take(training)

    arguments = [*command(out / "broken", 9), "--publish", str(board)]
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_take", broken)
        assert main(arguments) == 1
    (failed,) = load(board)
    assert (failed["status"], failed["metrics"], failed["cost"]["images"]) == ("failed", {}, 4 * 32)
    assert audit(tmp_path) == []
    assert "1 failed" in render([failed])
    assert main(arguments) == 0
    (cell,) = group(record for record in load(board) if record["division"] == "closed")
    assert ([run["status"] for run in cell.runs], cell.superseded) == (["ok"], (failed,))
    assert audit(tmp_path) == []


def test_an_unfinished_run_is_neither_lost_nor_taken(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: code 75 and a state; refused without a word, resumed by the same code, and once finished only shown."""
    whole, lines = run(out, 9)
    take = Training._take

    def stopped(training: Training) -> None:
        take(training)
        if training.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = command(out / "cut", 9)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_take", stopped)
        assert main(arguments) == 75
    assert "Stopped by SIGTERM after step 4 of 9; the state is saved" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # a state of other code is refused
        patch.setattr("benchmark.experiment.session.PRETRAINING_VERSION", "1.99")
        assert main(arguments) == 1
        assert "belongs to another configuration or code" in capsys.readouterr().err
    monkeypatch.setattr(KNN, "version", "1.1")  # that of another evaluation trains alike
    capsys.readouterr()
    assert main(arguments) == 0
    assert "\ngoes on from step 4 of 9; --fresh starts over\n" in capsys.readouterr().out
    record, resumed = newest(out / "cut")
    assert record["training"] == whole["training"]
    assert resumed == lines
    assert record["cost"]["resumes"] == 1
    capsys.readouterr()
    assert main(arguments) == 0
    assert "This run is finished" in capsys.readouterr().out
    assert newest(out / "cut")[0]["id"] == record["id"]


def test_a_second_command_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the trainings, counted: none for a finished run, published or not; one by --fresh, one for a new seed."""
    trained: list[Path] = []
    train = Training.run

    def counted(training: Training, resume: bool) -> Outcome:
        trained.append(training.folder)
        return train(training, resume)

    monkeypatch.setattr(Training, "run", counted)
    first = run(tmp_path / "runs", 3)[0]
    board = ["--publish", str(tmp_path / "results" / "board")]
    for more, trainings in (
        ([], 0),
        (board, 0),
        (["--resume"], 0),
        (["--fresh"], 1),
        (["--set", "experiment.seed=1"], 1),
    ):
        trained.clear()
        seed = 1 if more[-1:] == ["experiment.seed=1"] else 0
        assert main(command(tmp_path / "runs", 3, *more, seed=seed)) == 0
        assert len(trained) == trainings
        printed = capsys.readouterr().out
        assert ("it is not repeated" in printed) == (not trainings)
        assert "random init" in printed
    published = next(record for record in load(tmp_path / "results") if record["board"])
    assert published["created_utc"] == first["created_utc"]
    assert set(published["published"]) == {"predictions", "encoder"}
    assert audit(tmp_path / "results") == []


def test_what_is_published_has_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a folder of photos by its absolute path: on the board by its last part, in the run's own folder whole;
    a record that has one all the same is found."""
    photos = tmp_path / "private" / "photos"
    for split, number, shade in product(("train", "test"), range(20), (0, 200)):
        place = photos / split / f"class{shade}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (shade + number, number, 99)).save(place / f"{number}.png")
    data = ["--set", f"Images.source=folder:{photos}", "--set", "Images.name=photos"]
    results = tmp_path / "results"
    assert main(command(tmp_path / "runs", 3, *data, "--publish", str(results / "board"))) == 0
    text = "".join(path.read_text() for path in results.rglob("*.json"))
    assert "folder:photos" in text
    assert str(tmp_path) not in text
    own = newest(tmp_path / "runs")[0]
    assert str(photos) in own["config"]["text"]
    (folder,) = (tmp_path / "runs").glob("simclr-*")
    monkeypatch.setattr("benchmark.experiment.export._compare", lambda encoder, spec, folder: None)  # in a process
    assert export([str(folder), "--to", str(tmp_path / "encoder")]) == 0
    assert str(photos) not in (tmp_path / "encoder" / "README.md").read_text()
    assert audit(results) == []
    records.write(records.seal(own | {"board": "board"}), results / "board")
    assert "has an absolute path: Images.source" in " ".join(audit(results))


def test_a_finished_run_is_published_as_it_is_asked_for(tmp_path: Path) -> None:
    """Oracle: the recipe's own value as a point of a sweep on one board, and nothing varied on another; one run; the
    audit, which misses no floor, though those that the run had named are gone and were measured anew."""
    recipe = run(tmp_path / "runs", 3)[0]
    shutil.rmtree(tmp_path / "runs" / "floors")
    point = "SimCLR.temperature = 0.2"
    for board, more in {"sweep": ["--vary", point], "plain": []}.items():
        place = tmp_path / "results" / board
        assert main(command(tmp_path / "runs", 3, *more, "--publish", str(place))) == 0
        (published,) = (record for record in load(place) if record["board"])
        assert published["config"]["varied"] == ([point] if board == "sweep" else [])
        assert published["created_utc"] == recipe["created_utc"]
    assert audit(tmp_path / "results") == []


def test_floors_are_of_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the count of floors after two runs by one code, and a third after its evaluation changed."""
    run(tmp_path, 3)
    run(tmp_path, 4)
    assert len(list(tmp_path.glob("floors/*.json"))) == 2
    monkeypatch.setattr(KNN, "version", "1.1")
    run(tmp_path, 5)
    assert len(list(tmp_path.glob("floors/*.json"))) == 4


def test_resuming_another_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a checkpoint that the test leaves in the folder of a run of 3 steps: one of 2 does not use it. Nothing is
    said of another seed, nor while another process has the claim of that run."""
    run(tmp_path, 3)
    (unfinished,) = tmp_path.glob("simclr-*-s0-*")
    (unfinished / "checkpoints").mkdir(exist_ok=True)
    (unfinished / "checkpoints/step.pt").touch()
    next(unfinished.glob("*-s0-*.json")).unlink()
    capsys.readouterr()
    run(tmp_path, 2, seed=1)
    with claim(unfinished).acquire():
        run(tmp_path, 1)
    assert "begins at step 0" not in capsys.readouterr().err
    run(tmp_path, 2)
    printed = capsys.readouterr().err
    assert "begins at step 0: with these settings it is another run than what is unfinished" in printed
    assert f"{unfinished} (Budget.amount = 96.0)" in printed


def test_fresh_forgets_that_there_were_checkpoints(tmp_path: Path) -> None:
    """Oracle: a fresh run that is killed before its first checkpoint, after some steps, goes on from step 0.

    What the kill leaves is made by hand: a logged step.
    """
    whole, _ = run(tmp_path, 3)
    (folder,) = tmp_path.glob("simclr-*-s0-*")
    prepare(folder, fresh=True)
    assert not (folder / "checkpoints").exists()
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    next(folder.glob("*-s0-*.json")).unlink()
    assert run(tmp_path, 3)[0]["training"]["digest"] == whole["training"]["digest"]


def test_fresh_starts_over(out: Path) -> None:
    """Oracle: an unfinished state of the same run, here an empty file, is discarded on request and only then.

    Both at once is a contradiction.
    """
    whole, lines = run(out, 3)
    folder = next(path for path in out.glob("simclr-*") if whole["config"]["key"][:8] in path.name)
    copy = out / "fresh" / folder.name / "checkpoints"
    copy.mkdir(parents=True)
    (copy / "step-00000002-0123456789abcdef.pt").write_bytes(b"")
    assert main(command(out / "fresh", 3)) == 1
    with pytest.raises(SystemExit, match="2"):
        main(command(out / "fresh", 3, "--fresh", "--resume"))
    again, fresh = run(out / "fresh", 3, "--fresh")
    assert again["training"]["digest"] == whole["training"]["digest"]
    assert fresh == lines


@pytest.mark.slow
def test_kill_at_a_random_moment_does_not_show(out: Path, tmp_path: Path) -> None:
    """Oracle: digest and lines of the run that nobody killed; the kill hits a step, a write or an evaluation."""
    steps = 60
    whole, lines = run(out, steps)
    arguments = command(tmp_path, steps, "--checkpoint-seconds", "0")
    program = [sys.executable, "-m", "benchmark.run", *arguments]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    moment = random.Random().uniform(0.0, 2.0)
    try:
        deadline = time.monotonic() + 600
        while not list(tmp_path.glob("*/checkpoints/step-*.pt")):
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moment)
    finally:
        process.kill()
        process.communicate()
    assert main(arguments) == 0
    record, resumed = newest(tmp_path)
    assert record["training"] == whole["training"], f"killed {moment:.3f} s after the first checkpoint"
    assert record["metrics"] == whole["metrics"]
    assert resumed == lines
    assert [line["step"] for line in resumed] == list(range(1, steps + 1))


def worked_example() -> tuple[str, str]:
    """Return the module and the gin file of the method that the README adds."""
    text = (ROOT / "README.md").read_text()
    (module,) = re.findall(r"`toy\.py`:\n\n```python\n(.*?)```\n", text, re.DOTALL)
    (settings,) = re.findall(r"`toy\.gin`:\n\n```\n(.*?)```\n", text, re.DOTALL)
    return module, settings


@pytest.mark.slow
def test_a_method_outside_of_the_tree_runs(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: two files in any folder; refused without --allow-imports, since a gin file executes what it imports."""
    module, settings = worked_example()
    (tmp_path / "toy_of_my_own.py").write_text(module)
    (tmp_path / "toy.gin").write_text(settings.replace("import toy", "import toy_of_my_own"))
    arguments = command(out / "toy", 3, gin=str(tmp_path / "toy.gin"))
    assert main(arguments) == 2
    assert "If you trust it, add --allow-imports" in capsys.readouterr().err
    assert main([*arguments, "--allow-imports"]) == 0
    record, _ = newest(out / "toy")
    assert record["method"]["name"] == "toy"
    assert record["method"]["deviations"] == ["Toy: There is none."]
    (folder,) = (out / "toy").glob("toy-*")
    assert export([str(folder), "--to", str(tmp_path / "encoder")]) == 2
    assert "If you trust it, add --allow-imports" in capsys.readouterr().err
    assert export([str(folder), "--to", str(tmp_path / "encoder"), "--allow-imports"]) == 0

    again = [*arguments, "--allow-imports"]
    assert main(again) == 0
    assert "it is not repeated" in capsys.readouterr().out
    (tmp_path / "toy_of_my_own.py").write_text(module.replace("relu(1 -", "relu(2 -"))
    assert main(again) == 0
    assert "by code that has changed since (the file of the method): it is made again" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the tracked tree is known in a git checkout only")
def test_a_method_is_two_new_files(tmp_path: Path) -> None:
    """Oracle: the README's files in a copy of what a commit of everything would hold, else untouched: the battery
    that it names passes."""
    listed = subprocess.check_output(["git", "ls-files", "--cached", "--others", "--exclude-standard"], text=True)
    for name in filter(lambda name: Path(name).is_file(), listed.splitlines()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, tmp_path / name)
    module, settings = worked_example()
    (tmp_path / "baselines" / "toy.py").write_text(module)
    (tmp_path / "gin" / "toy.gin").write_text(settings.replace("import toy", "import baselines.toy"))
    battery = [sys.executable, "-m", "pytest", "tests/test_battery.py", "-k", "toy", "-p", "no:cacheprovider"]
    ended = subprocess.run(battery, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert " passed" in ended.stdout
