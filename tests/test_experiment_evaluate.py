"""Evaluating an encoder that exists: our runs score as they did, and everyone's weights by the same rules."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from report_records import trial
from safetensors.torch import load_file, save_file
from tiny import SMALL, command

from benchmark.evals.knn import KNN
from benchmark.evaluate import main
from benchmark.experiment import describe, evaluate
from benchmark.export import main as export
from benchmark.nets import timm_net
from benchmark.report import record as records
from benchmark.report.audit import audit
from benchmark.report.audit_one import examine
from benchmark.report.cells import load
from benchmark.report.contents import title
from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render
from benchmark.report.record import Record, file_name, seal, write
from benchmark.run import main as pretrain

pytestmark = pytest.mark.usefixtures("one_thread")

SMALLER = [part for setting in SMALL if setting.startswith("ViT") for part in ("--set", setting)]
KNN_ONLY = ["--set", "experiment.evaluations=(@KNN,)"]


@pytest.fixture
def run(out: Path) -> Path:
    """The folder of a finished run of 4 steps."""
    if not list(out.glob("simclr-*-s0-*")):
        assert pretrain(command(out, 4)) == 0
    return next(out.glob("simclr-*-s0-*"))


def evaluated(out: Path, *arguments: str) -> Record:
    before = set(out.glob("evaluations/*.json"))
    assert main([*arguments, "--fresh", "--out", str(out)]) == 0
    (path,) = set(out.glob("evaluations/*.json")) - before
    return records.read(path)


def of(run: Path) -> Record:
    return records.read(next(run.glob("*-s*-*-*.json")))


def test_a_run_scores_as_it_did(run: Path, out: Path) -> None:
    """Oracle: the run's own record: metrics, cost and floors; the division says that it was evaluated apart.

    By another evaluation it has that one's metrics, and another key; nothing of the pretraining is in the text, and
    no features are written again.
    """
    record, original = evaluated(out, "--run", str(run)), of(run)
    assert record["metrics"] == original["metrics"]
    assert record["floors"] == original["floors"]
    assert (record["division"], original["division"]) == ("open", "closed")
    for name in ("method", "budget", "training", "encoder", "dataset", "seed", "checkpoint"):
        assert record[name] == original[name], name  # type: ignore[literal-required]
    assert {**record["cost"], "evaluation_seconds": 0} == {**original["cost"], "evaluation_seconds": 0}
    features = set(out.glob("features/*/*"))
    record = evaluated(out, "--run", str(run), "--set", "experiment.evaluations=(@Retrieval,)", "--name", "mine")
    assert set(out.glob("features/*/*")) == features != set()
    assert list(record["metrics"]) == ["retrieval"]
    assert record["method"]["name"] == "mine"
    assert record["config"]["key"] != original["config"]["key"]
    assert "experiment.pretraining = None" in record["config"]["text"]
    assert "AdamW" not in record["config"]["text"]


def test_a_finished_evaluation_is_not_repeated(
    run: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: whether kNN was asked, and the new records: one for all that changes numbers or the line, else none."""
    asked = list[str]()
    scores = KNN.scores

    def counted(self: KNN, *arguments: object) -> object:
        asked.append(self.name)
        return scores(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(KNN, "scores", counted)
    monkeypatch.setattr(evaluate, "OTHERS", set())  # other tests of this process import modules of others

    def repeated(*arguments: str) -> tuple[bool, int]:
        """Give the command, and return whether anything was scored, and how many records are new."""
        before = set(out.glob("evaluations/*.json"))
        asked.clear()
        assert main([*arguments, "--out", str(out)]) == 0
        return bool(asked), len(set(out.glob("evaluations/*.json")) - before)

    knn = [*KNN_ONLY, "--set", "KNN.k=7"]
    ours = ["--run", str(run), *knn]
    assert repeated(*ours) == (True, 1)
    assert repeated(*ours, "--name", "mine") == (True, 1)
    capsys.readouterr()
    assert repeated(*ours, "--name", "mine", "--publish", str(tmp_path / "board")) == (False, 0)
    assert re.search(r"finished, in \S+evaluations\S+mine\S+\.json; it is not repeated", capsys.readouterr().out)
    assert {"mine", "random init"} <= {record["method"]["name"] for record in load(tmp_path / "board")}
    assert repeated(*ours, "--name", "mine", "--fresh") == (True, 1)
    assert repeated(*ours, "--name", "mine", "--set", "KNN.k=8") == (True, 1)

    monkeypatch.setattr(evaluate, "OTHERS", {"mine"})
    assert repeated(*ours) == (True, 1)
    monkeypatch.setattr(evaluate, "OTHERS", set())
    for path in out.glob("evaluations/*-simclr-*.json"):
        path.unlink()
    assert [repeated(*ours), repeated(*ours)] == [(True, 1), (False, 0)]
    (path,) = out.glob("evaluations/*-simclr-*.json")
    record = records.read(path)
    path.unlink()
    elsewhere = write(seal({**record, "environment": {**record["environment"], "torch": "0.1"}}), path.parent)
    assert repeated(*ours) == (True, 1)
    elsewhere.write_text("damaged")
    assert repeated(*ours, "--fresh") == (True, 1)
    elsewhere.unlink()
    for predictions in out.glob("evaluations/*.safetensors"):
        predictions.write_bytes(b"")
    assert repeated(*ours) == (True, 1)

    again = Path(shutil.copytree(run, tmp_path / "again"))  # another machine may train other weights
    weights = load_file(run / "encoder.safetensors")
    save_file(weights | {"norm.weight": weights["norm.weight"] + 1}, again / "encoder.safetensors")
    next(again.glob("*-s*-*-*.json")).unlink()
    write(seal({**of(run), "checkpoint": describe.weights(again / "encoder.safetensors")}), again)
    assert repeated("--run", str(again), *knn, "--name", "mine") == (True, 1)

    theirs = ["--gin", "gin/protocol/digits_vit_micro.gin", *SMALLER, *knn, "--name", "theirs", "--weights"]
    assert repeated(*theirs, str(run / "encoder.safetensors")) == (True, 1)
    assert repeated(*theirs, str(run / "encoder.safetensors")) == (False, 0)
    assert repeated(*theirs, str(again / "encoder.safetensors")) == (True, 1)
    assert repeated(*theirs, str(run / "encoder.safetensors"), "--layout", "dino") == (True, 1)
    monkeypatch.setattr(KNN, "version", "9.0")
    assert repeated(*theirs, str(run / "encoder.safetensors")) == (True, 1)
    assert "9.0" in {record["code"]["versions"].get("KNN") for record in load(out / "evaluations")}


def test_what_needs_a_projector_is_named(run: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the name in a note beside what is scored; alone it is refused before anything is written."""
    choice = "experiment.evaluations=(@KNN, @KNNProjection)"
    assert list(evaluated(out, "--run", str(run), "--set", choice)["metrics"]) == ["knn"]
    assert "note: knn_projection is left out: it needs a projector" in capsys.readouterr().err
    before = set(out.rglob("*"))
    alone = ["--set", "experiment.evaluations=(@KNNProjection,)"]
    assert main(["--run", str(run), *alone, "--out", str(out)]) == 2
    assert "Nothing is left to score" in capsys.readouterr().err
    assert set(out.rglob("*")) == before


def test_what_is_published_is_evaluated_like_the_run(run: Path, out: Path, tmp_path: Path) -> None:
    """Oracle: the predictions of the run: its published encoder, in float16, gives the same for all images but 2 %;
    an evaluation publishes its predictions and no encoder; the audit, which knows what must be in them."""
    board = tmp_path / "results" / "board"
    assert pretrain([*command(out, 4), "--publish", str(board)]) == 0
    (encoder,) = board.glob("encoders/*.safetensors")
    assert encoder.stat().st_size < (run / "encoder.safetensors").stat().st_size * 0.55
    of_halves = ["--weights", str(encoder), "--layout", "run", "--gin", "gin/protocol/digits_vit_micro.gin", *SMALLER]
    record = evaluated(out, *of_halves, *KNN_ONLY, "--publish", str(board))
    assert abs(record["metrics"]["knn"]["top1"] - of(run)["metrics"]["knn"]["top1"]) < 0.02
    (copy,) = (each for each in load(board) if each["division"] == "open")
    assert list(copy["published"]) == ["predictions"]
    assert len(list(board.glob("predictions/*.npz"))) == 2
    assert audit(tmp_path / "results") == []


def test_a_run_on_other_data_names_those_of_its_pretraining(run: Path, out: Path, tmp_path: Path) -> None:
    """Oracle: the record of the run, whose inputs it still expects; epochs by hand; the title; the audit, which knows
    the run beside it, and does not mind another name of the same data."""
    board = tmp_path / "results" / "board"
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(8):
                Image.new("L", (16, 16), 9 * i + 99 * (label == "b")).save(folder / f"{i}.png")
    photos = ["--set", f"Images.source='folder:{tmp_path}/photos'", "--set", "Images.name='photos'"]
    assert pretrain([*command(out, 4), "--publish", str(board)]) == 0
    renamed = evaluated(out, "--run", str(run), "--set", "Images.name='same'", *KNN_ONLY, "--publish", str(board))
    assert not {"pretrained_on"} & renamed.keys()
    assert "inputs" not in renamed["encoder"]
    record = evaluated(out, "--run", str(run), *photos, *KNN_ONLY, "--publish", str(board))
    own = of(run)["dataset"]
    origin = {"name": "digits", "fingerprint": own["fingerprint"], "size": 16, "images": own["sizes"]["pretrain"]}
    assert record["pretrained_on"] == origin
    assert record["encoder"].get("inputs") == {"mean": own["mean"], "std": own["std"]}
    assert record["dataset"]["sizes"]["pretrain"] == 16
    published = load(tmp_path / "results")
    assert audit(tmp_path / "results") == []
    (table,) = (each for each in sections(published) if each.setting.dataset == "photos")
    assert table.lines[0].cost.epochs == record["cost"]["images"] / own["sizes"]["pretrain"]
    assert title(table).startswith("photos, pretrained on digits, vit_micro")
    (copy,) = (each for each in published if "pretrained_on" in each)
    of_copy = board / file_name(copy)
    by_the_run = examine(of_copy, tmp_path / "results")
    assert by_the_run.held["the run that trained it"] == ["pretrained_on.fingerprint"]
    (alone := tmp_path / "alone").mkdir()
    shutil.copy(of_copy, alone)
    open_fields = examine(alone / of_copy.name, alone).self_reported
    assert open_fields["unless the run that trained it is published"] == ["pretrained_on.fingerprint"]
    left_out = {name: value for name, value in copy.items() if name != "pretrained_on"}
    for forged in (left_out, left_out | {"pretrained_on": origin | {"fingerprint": "beef"}}):
        path = write(seal(forged), board)
        assert any("pretrained_on" in problem for problem in audit(tmp_path / "results"))
        path.unlink()


def test_equal_weights_of_other_heads_have_other_features(run: Path, out: Path, tmp_path: Path) -> None:
    """Oracle: each network evaluated in a folder of its own; the weights do not tell how many heads share them."""

    def predicted(heads: int, folder: Path) -> bytes:
        setting = ["--weights", str(run / "encoder.safetensors"), "--set", f"ViT.heads={heads}", *KNN_ONLY]
        record = evaluated(folder, "--gin", "gin/protocol/digits_vit_micro.gin", *SMALLER, *setting)
        return (folder / "evaluations" / record["predictions"]["file"]).read_bytes()

    apart = [predicted(heads, tmp_path / str(heads)) for heads in (2, 4)]
    assert apart[0] != apart[1]
    assert [predicted(heads, tmp_path) for heads in (2, 4)] == apart


def test_layers_of_the_probe(
    run: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the record has the number that was chosen, and a default that is written out has the key of none.

    More layers than the encoder has are refused before an image is decoded, and so by a run.
    """
    monkeypatch.setattr("benchmark.evals.linear.GRID", (1.0, 0.1, 0.01))
    monkeypatch.setattr("benchmark.evals.linear.WEAKER", ())  # which take long
    monkeypatch.setattr("benchmark.experiment.floors.MOST_SIDE", 0)  # no raw pixels, which take longest
    linear = ["--set", "experiment.evaluations=(@Linear,)"]
    plain, written, deep = (
        evaluated(out, "--run", str(run), *linear, *more)
        for more in ([], ["--set", "Linear.layers=(1,)"], ["--set", "Linear.layers=(1,1)"])
    )
    assert plain["config"]["key"] == written["config"]["key"] != deep["config"]["key"]
    assert plain["metrics"] == written["metrics"]
    assert "layers" not in plain["metrics"]["linear"]["choices"]
    assert deep["metrics"]["linear"]["choices"] == plain["metrics"]["linear"]["choices"] | {"layers": 1}
    assert deep["code"]["versions"] == plain["code"]["versions"]
    capsys.readouterr()
    too_many = [*linear, "--set", "Linear.layers=(1,4)", "--out", str(tmp_path / "none")]
    assert main(["--run", str(run), *too_many]) == 2
    assert "The last 4 layers of vit_micro_patch4 cannot be had" in capsys.readouterr().err
    assert pretrain([*command(tmp_path / "none", 4), *too_many]) == 2
    assert "The last 4 layers of vit_micro_patch4 cannot be had" in capsys.readouterr().err
    assert not list((tmp_path / "none").rglob("*.safetensors"))


def test_seeds_of_a_run_are_one_line(run: Path, out: Path) -> None:
    """Oracle: the mean over two seeds in one line of the table, each with predictions of its own."""
    assert pretrain(command(out, 4, seed=1)) == 0
    other = next(out.glob("simclr-*-s1-*"))
    evaluations = [evaluated(out, "--run", str(folder), "--set", "KNN.k=3") for folder in (run, other)]
    assert [record["seed"] for record in evaluations] == [0, 1]
    lines = [line for line in render(evaluations).splitlines() if line.split(" | ")[1:2] and "simclr" in line]
    assert len(lines) == 1
    assert " ± " in lines[0]
    assert len({record["predictions"]["file"] for record in evaluations}) == 2


def test_weights_from_elsewhere_score_the_same(run: Path, out: Path, tmp_path: Path) -> None:
    """Oracle: the metrics of the run whose weights these are, on the inputs that the layout's weights expect."""
    weights = load_file(run / "encoder.safetensors")
    wrapped = {f"module.momentum_encoder.{name}": torch.zeros_like(value) for name, value in weights.items()}
    wrapped |= {f"module.base_encoder.{name}": value for name, value in weights.items()}
    for layout, laid_out in (("timm", dict(weights)), ("moco_v3", {"state_dict": wrapped})):
        torch.save(laid_out, tmp_path / "theirs.pth")
        theirs = ["--weights", str(tmp_path / "theirs.pth"), "--layout", layout]
        record = evaluated(out, *theirs, "--gin", "gin/protocol/digits_vit_micro.gin", *SMALLER, *KNN_ONLY)
        same = record["metrics"] == of(run)["metrics"]
        assert same == (layout == "timm")  # the other layout expects ImageNet's statistics, not the digits'
        assert record["method"] == {"name": f"{layout}: theirs", "files": [], "module_sha256": None, "deviations": []}
        assert record["budget"] is None
        assert record["cost"]["flops"] == 0
        assert "unknown budgets, open division" in render([record])


def test_the_floor_of_published_weights_is_random(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the floor of the same network without weights, which is named by its architecture; a stand-in for what
    timm fetches is all zero."""
    create = timm_net.create_model

    def fetched(name: str, *, pretrained: bool, **arguments: object) -> torch.nn.Module:
        model: torch.nn.Module = create(name, pretrained=False, **arguments)
        for weight in model.parameters() if pretrained else ():
            weight.data.zero_()
        return model

    monkeypatch.setattr(timm_net, "create_model", fetched)
    settings = ["--set", "experiment.encoder=@Timm", "--set", "Timm.name='test_resnet'", *KNN_ONLY]
    plain = evaluated(out, "--gin", "gin/protocol/digits.gin", *settings)
    assert plain["method"]["name"] == plain["encoder"]["name"] == "test_resnet"
    assert plain["checkpoint"] is None
    record = evaluated(out, "--gin", "gin/protocol/digits.gin", *settings, "--set", "Timm.pretrained=True")
    floors = [floor for floor in map(records.read, out.glob("floors/*.json")) if floor["id"] in record["floors"]]
    (floor,) = (floor for floor in floors if floor["method"]["name"] == "random init")
    assert record["metrics"]["knn"]["top1"] < 0.2
    assert floor["metrics"]["knn"]["top1"] > 0.3
    assert plain["metrics"]["knn"]["top1"] > 0.3


def test_misuse_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: exit code 2, the words that help, nothing written, a decoder that nobody calls; argparse's own code where
    nothing is to be evaluated, or where a layout would score a random encoder."""
    monkeypatch.setattr("benchmark.data.cache.decoded", None)
    protocol = ["--gin", "gin/protocol/digits_vit_micro.gin"]
    for arguments, answer in (
        (["--run", "tests"], "is not the folder of a finished run"),
        (["--weights", "none.pth", *protocol], "none.pth"),
        (["--weights", "README.md", "--layout", "mea", *protocol], "mea"),
        (["--weights", "README.md", "--layout", "dino", *protocol], "torch.save"),
        (["--gin", "gin/simclr.gin"], "does not use SimCLR"),
        ([*protocol, "--set", "experiment.evaluations=()"], "name what to evaluate"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "runs")]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert answer in printed
        assert not (tmp_path / "runs").exists()
    for arguments, answer in (([], "say what to evaluate"), (["--gin", "a.gin", "--layout", "dino"], "by --weights")):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert answer in capsys.readouterr().err


def test_changed_weights_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the checksum in the run's record."""
    copy = tmp_path / run.name
    copy.mkdir()
    for path in run.glob("*.json"):
        (copy / path.name).write_bytes(path.read_bytes())
    weights = load_file(run / "encoder.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, copy / "encoder.safetensors")
    assert main(["--run", str(copy), "--out", str(tmp_path)]) == 2
    assert "not the file that the run wrote" in capsys.readouterr().err


def test_a_trial_is_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the refusal, also where the test split is asked for: scored there, a trial could choose by it."""
    write(trial(1.0, 0.5), tmp_path)
    for more in ([], ["--set", "experiment.is_trial = False"]):
        assert main(["--run", str(tmp_path), "--out", str(tmp_path / "out"), *more]) == 2
        assert "has a trial, which is scored on a hold-out" in capsys.readouterr().err


def test_a_diverged_run_is_scored_as_it_was(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the metrics of the run's record; its weights without the run are refused, since they made no features.

    Nothing is written of what is refused.
    """
    assert pretrain(command(tmp_path, 5, "--set", "AdamW.base_rate=1e9")) == 1
    run = next(tmp_path.glob("simclr-*-s0-*"))
    record = evaluated(out, "--run", str(run))
    assert (record["status"], record["metrics"]) == ("diverged", of(run)["metrics"])
    weights = ["--weights", str(run / "encoder.safetensors"), "--gin", "gin/protocol/digits_vit_micro.gin"]
    nothing = tmp_path / "nothing"
    assert main([*weights, *SMALLER, *KNN_ONLY, "--out", str(nothing)]) == 2
    assert "has weights that are not finite" in capsys.readouterr().err
    assert export([str(run), "--to", str(nothing), "--license", "mit"]) == 2
    assert "has weights that are not finite" in capsys.readouterr().err
    assert not nothing.exists()
