"""A teacher's stage: one budget for both, weights used again but charged again, kills, and weights from elsewhere."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SMALL, command, runs_of

from benchmark.config import load as configuration
from benchmark.experiment.stage import Stage
from benchmark.report import record as records
from benchmark.report.record import Record
from benchmark.run import main
from benchmark.training.loop import Training

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

pytestmark = pytest.mark.usefixtures("one_thread")

GIN = "gin/mimco.gin"


def arguments(folder: Path, *more: str, steps: int = 8, seed: int = 0) -> list[str]:
    return command(folder, steps, *more, gin=GIN, seed=seed)


def run(folder: Path, *more: str, steps: int = 8, seed: int = 0) -> Record:
    assert main(arguments(folder, *more, steps=steps, seed=seed)) == 0
    return records.read(runs_of(folder, "mimco")[-1])


@pytest.fixture
def whole(out: Path) -> Record:
    """The record of an undisturbed run of 8 steps, 4 of them the teacher's."""
    finished = runs_of(out, "mimco")
    return records.read(finished[0]) if finished else run(out)


def teachers(folder: Path) -> list[Path]:
    return sorted((folder / "teachers").glob("moco_v3-digits-s0-*"))


def test_both_stages_are_charged(out: Path, whole: Record) -> None:
    """Oracle: 256 images, 4 steps of 32 to each stage, with 2 views the teacher's and 1 the student's."""
    (folder,) = teachers(out)
    cost = whole["cost"]
    assert (cost["images"], cost["views"]) == (256, 4 * 32 * 2 + 4 * 32)
    assert whole["budget"] == {"kind": "samples", "amount": 256.0, "steps": 4, "batch_size": 32}
    assert cost["flops"] == cost["teacher_flops"] + 4 * cost["flops_per_step"]
    assert cost["teacher_flops"] > 4 * cost["flops_per_step"]
    assert whole["teacher"]["share"] == 0.5
    assert folder.name.endswith(whole["teacher"]["key"][:8])
    assert (whole["division"], whole["status"], whole["method"]["name"]) == ("closed", "ok", "mimco")
    assert {text.split(":")[0] for text in whole["method"]["deviations"]} == {"MimCo", "MoCoV3"}


def test_flops_of_both_stages_fill_the_budget(tmp_path: Path) -> None:
    """Oracle: the amount, less than one student step above what was spent."""
    settings = ("Budget.kind=flops", "Budget.amount=1e9", "experiment.teacher_share=0.3")
    record = run(tmp_path, *[part for setting in settings for part in ("--set", setting)])
    unspent = record["budget"]["amount"] - record["cost"]["flops"]
    assert 0 <= unspent < record["cost"]["flops_per_step"]
    assert 0.2e9 < record["cost"]["teacher_flops"] <= 0.3e9


def test_the_student_learns_from_the_trained_teacher(out: Path, whole: Record) -> None:
    """Oracle: the teacher's exported weights are those in the student's last checkpoint, and not the student's own."""
    (folder,) = teachers(out)
    teacher = load_file(folder / "encoder.safetensors")
    checkpoint = max(next(out.glob("mimco-*")).glob("checkpoints/*.pt"))
    state = torch.load(checkpoint, weights_only=True)["method"]
    prefix = "teacher.encoder.net."
    assert {name.removeprefix(prefix) for name in state if name.startswith(prefix)} == set(teacher)
    assert all(torch.equal(state[prefix + name], value) for name, value in teacher.items())
    student = load_file(next(out.glob("mimco-*")) / "encoder.safetensors")
    assert not torch.equal(student["blocks.0.attn.qkv.weight"], teacher["blocks.0.attn.qkv.weight"])


def test_both_stages_read_the_images_that_the_device_holds_once(tmp_path: Path) -> None:
    """Oracle: one copy, on a device that always copies."""
    stage = Stage.open(configuration.load([GIN], SMALL), tmp_path)
    copies = []
    for each in (stage, stage.teacher, stage):
        object.__setattr__(each, "device", torch.device("meta"))
        copies.append(each.dataset.pretrain_on(each.device))
    assert all(copy is copies[0] for copy in copies)
    assert stage.dataset.pretrain_on(torch.device("cpu")) is stage.dataset.pretrain
    object.__setattr__(stage, "device", torch.device("cpu"))
    assert stage.scratch(0).data.images is stage.dataset.pretrain


def test_the_teacher_starts_from_weights_of_its_own(tmp_path: Path) -> None:
    """Oracle: first weights of equal shapes in one experiment: another seed draws others, the same seed the same."""
    settings = [f"experiment.seed={seed}" for seed in (0, 0, 1)]
    opened = [Stage.open(configuration.load([GIN], [*SMALL, "Budget.amount=256", each]), tmp_path) for each in settings]
    students = [stage.method()[0].encoder.net.patch_embed.proj.weight for stage in opened]
    teachers = [stage.teacher.method()[0].encoder.net.patch_embed.proj.weight for stage in opened]
    assert torch.equal(teachers[0], teachers[1])
    for other in (students[0], students[2], teachers[2]):
        assert not torch.equal(teachers[0], other)


def test_a_finished_teacher_is_used_again_and_charged_again(out: Path, whole: Record, monkeypatch: Patch) -> None:
    """Oracle: another student on the same teacher takes only its own steps, and its record has the whole cost."""
    taken = []
    take = Training._take
    monkeypatch.setattr(Training, "_take", lambda training: (taken.append(training.folder), take(training))[1])
    other = run(out, "--set", "MimCo.patch_weight=0.5")
    assert len(teachers(out)) == 1
    assert [folder.name[:5] for folder in taken] == ["mimco"] * 4
    assert other["teacher"] == whole["teacher"]
    for name in ("images", "views", "flops", "teacher_flops", "resumes"):
        assert other["cost"][name] == whole["cost"][name], name  # type: ignore[literal-required]
    assert other["training"]["digest"] != whole["training"]["digest"]


def test_a_kill_in_either_stage_does_not_show(
    tmp_path: Path, whole: Record, monkeypatch: Patch, capsys: Capture
) -> None:
    """Oracle: the undisturbed run's digest and scores, by the same command again and again."""
    take, killed = Training._take, set[str]()

    def stopped(training: Training) -> None:
        take(training)
        if training.step == 2 and training.folder.name not in killed:
            killed.add(training.folder.name)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Training, "_take", stopped)
    assert main(arguments(tmp_path)) == 75
    assert main(arguments(tmp_path)) == 75
    record = run(tmp_path)
    assert "goes on from step 2 of" in capsys.readouterr().out
    assert {name.partition("-")[0] for name in killed} == {"moco_v3", "mimco"}
    assert record["training"] == whole["training"]
    assert record["metrics"] == whole["metrics"]
    assert record["teacher"] == whole["teacher"]
    assert record["cost"]["resumes"] == 2


def test_a_teacher_that_diverged_is_named(tmp_path: Path, capsys: Capture) -> None:
    """Oracle: a rate at which no loss stays finite: the run fails as diverged, and the warning leads to the cause."""
    assert main(arguments(tmp_path, "--set", "experiment.rate_factor=1e30")) == 1
    (folder,) = teachers(tmp_path)
    printed = capsys.readouterr().err
    assert f"'diverged', and the student learns from what it was then; look at {folder}" in printed
    assert "The very first of 4 losses was not finite" in printed
    (path,) = tmp_path.glob("mimco-*/*.json")
    assert records.read(path)["status"] == "diverged"


def test_what_a_teacher_depends_on_is_in_its_key(tmp_path: Path) -> None:
    """Oracle: another temperature, share or encoder is another teacher; a student's setting is not."""

    def key(*settings: str) -> str:
        stage = Stage.open(configuration.load([GIN], [*SMALL, "Budget.amount=256", *settings]), tmp_path)
        return stage.teacher.key

    assert key("MimCo.mask_ratio=0.5") == key()
    others = [key(setting) for setting in ("MoCoV3.temperature=0.4", "experiment.teacher_share=0.25", "ViT.width=16")]
    assert len({key(), *others}) == 4


def test_weights_from_elsewhere_flag_the_row(out: Path, whole: Record, tmp_path: Path) -> None:
    """Oracle: division open, no charge and no share for the teacher, all of the budget for the student."""
    (folder,) = teachers(out)
    weights = folder / "encoder.safetensors"
    record = run(tmp_path, "--set", f"experiment.teacher_weights={weights}")
    assert not (tmp_path / "teachers").exists()
    assert (record["division"], record["cost"]["teacher_flops"]) == ("open", 0)
    assert record["budget"]["steps"] == 8
    assert record["teacher"] == {"key": None, "share": 0.0, "digest": whole["teacher"]["digest"]}
    assert str(weights) not in record["config"]["key"]
    others = {name: value + 1 for name, value in load_file(weights).items()}
    save_file(others, tmp_path / "others.safetensors")
    changed = [f"experiment.teacher_weights={tmp_path / 'others.safetensors'}", "Budget.amount=256"]
    again = Stage.open(configuration.load([GIN], [*SMALL, *changed]), tmp_path)
    assert again.key != record["config"]["key"], "other weights are another experiment"
    unchanged = [f"experiment.teacher_weights={weights}", "Budget.amount=256"]
    assert Stage.open(configuration.load([GIN], [*SMALL, *unchanged]), tmp_path).key == record["config"]["key"]


def test_unusable_weights_and_shares_are_refused(tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """Oracle: exit code 2 and a message that names file and remedy: missing, no weights, of another network; or the
    range of the share. The decoder is not called."""
    monkeypatch.setattr("benchmark.data.cache.decoded", None)
    (tmp_path / "text").write_text("no weights")
    save_file({"some.weight": torch.zeros(2)}, tmp_path / "foreign")
    remedy = "Give the encoder.safetensors of a run"
    for setting, *words in (
        (f"teacher_weights={tmp_path / 'none'}", "cannot be read", remedy),
        (f"teacher_weights={tmp_path / 'text'}", "are not the weights of", remedy),
        (f"teacher_weights={tmp_path / 'foreign'}", "Missing key", remedy),
        ("teacher_share=0.0", "above 0 and below 1"),
        ("teacher_share=1.0", "above 0 and below 1"),
        ("teacher_share=-1.0", "above 0 and below 1"),
    ):
        assert main(arguments(tmp_path, "--set", f"experiment.{setting}")) == 2
        message = capsys.readouterr().err
        assert all(word in message for word in words), message


def test_dry_run_shows_both_stages(tmp_path: Path, capsys: Capture) -> None:
    """Oracle: 4 steps each of 256 images."""
    assert main(arguments(tmp_path, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "moco_v3, 4 steps first" in printed
    assert "128 samples buys 4 steps" in printed
    assert not list(tmp_path.iterdir())


def test_a_teacher_without_a_student_and_a_student_without_a_teacher(tmp_path: Path, capsys: Capture) -> None:
    """Oracle: exit code 2, what was given and what to do; nothing is written. The second file has the lines of the
    method without those of its teacher."""
    others = ("include", "experiment.teacher", "teacher/")
    own = [line for line in Path(GIN).read_text().splitlines() if not line.startswith(others)]
    (tmp_path / "own.gin").write_text("\n".join(own))
    idle = command(tmp_path / "runs", 4, "--set", "experiment.teacher_weights='README.md'")
    for refused, *words in (
        (idle, "simclr learns from no teacher", "give one. Leave both"),
        (command(tmp_path / "runs", 4, gin=str(tmp_path / "own.gin")), "mimco learns from a teacher", "none. Bind"),
    ):
        assert main(refused) == 2
        message = capsys.readouterr().err
        assert all(word in message for word in words), message
        assert not (tmp_path / "runs").exists()
