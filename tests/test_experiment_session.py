"""What an experiment is opened with: the form of the data for choices, shares of budgets, factors of rates."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SMALL

from benchmark.config import load as configuration
from benchmark.data.dataset import Dataset, Split
from benchmark.data.images import Images
from benchmark.errors import ConfigError
from benchmark.evals.knn import KNN
from benchmark.experiment import run
from benchmark.experiment.session import without_test
from benchmark.experiment.stage import Stage
from benchmark.report.tuning import fingerprint_without_test
from benchmark.training import monitor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Images(name="digits", source="sklearn:digits", size=8)()


def stage(tmp_path: Path, *settings: str, gin: str = "gin/simclr.gin") -> Stage:
    return Stage.open(configuration.load([gin], (*SMALL, "Budget.amount=3200", *settings)), tmp_path)


def test_the_form_for_choices_has_no_test_image(digits: Dataset) -> None:
    """Oracle: train splits into two parts, a tenth and the rest, that share no id and of which none is pretrained on
    twice; the pixels of the test split are in neither. Choices need labels."""
    data = without_test(digits)
    whole = _pairs(digits.train)
    assert sorted([*_pairs(data.train), *_pairs(data.test)]) == sorted(whole)
    assert len(data.test.images) == pytest.approx(0.1 * len(whole), abs=5)
    assert data.pretrain is data.train.images
    assert data.fingerprint == fingerprint_without_test(digits.fingerprint) != digits.fingerprint
    extra = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    assert without_test(replace(digits, pretrain=extra)).pretrain is extra
    with pytest.raises(ConfigError, match="no labels to choose by"):
        without_test(replace(digits, train=Split(digits.train.images, None)))


def _pairs(split: Split) -> list[tuple[bytes, int]]:
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True)]


def test_impossible_parts_are_refused(tmp_path: Path) -> None:
    """Oracle: the sentence for each."""
    for setting, message in (
        ("experiment.rate_factor = 0.0", "a rate is above 0"),
        ("experiment.budget_share = 0.0", "above 0 and up to 1"),
        ("experiment.budget_share = 1.5", "above 0 and up to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            stage(tmp_path, setting)


def test_a_share_of_the_budget_buys_its_part(tmp_path: Path) -> None:
    """Oracle: 3,200 images are 100 steps of 32; a quarter is 25, of which a teacher's half is 12."""
    assert stage(tmp_path).steps == 100
    assert stage(tmp_path, "experiment.budget_share = 0.25").steps == 25
    student = stage(tmp_path, "experiment.budget_share = 0.25", gin="gin/mimco.gin")
    assert (student.teacher.steps, student.steps) == (12, 13)


def test_every_stage_trains_at_the_factor(tmp_path: Path) -> None:
    """Oracle: the peak rates of the recipe times the factor, for the method and for its teacher."""
    whole, half = (stage(tmp_path, f"experiment.rate_factor = {factor}", gin="gin/mimco.gin") for factor in (1.0, 0.5))
    for ours, theirs in ((whole, half), (whole.teacher, half.teacher)):
        configuration.build(ours.config)
        peaks = [
            [group["peak"] for group in stage.training(600).optimiser.inner.param_groups] for stage in (ours, theirs)
        ]
        assert peaks[1] == pytest.approx([0.5 * peak for peak in peaks[0]])
    assert whole.teacher.key != half.teacher.key


def test_the_tuning_key_is_what_trials_and_runs_share(tmp_path: Path) -> None:
    """Oracle: the parts in which they differ change nothing, any other does."""
    key = stage(tmp_path).tuning_key
    trial = (
        "experiment.is_trial = True",
        "experiment.rate_factor = 2.0",
        "experiment.budget_share = 0.0625",
        "experiment.evaluations = (@Linear,)",
        "experiment.seed = 1000",
    )
    assert stage(tmp_path, *trial).tuning_key == key
    assert stage(tmp_path, "AdamW.base_rate = 1.0").tuning_key != key
    assert stage(tmp_path, "Budget.amount = 6400").tuning_key != key
    assert stage(tmp_path, gin="gin/moco_v3.gin").tuning_key != key


def test_encoders_on_the_way_are_kept_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: files by name; the last is the encoder of the end, the first is another; --fresh keeps none of before.

    A run with other points is the same run: its key and its weights; without points it has no curve.
    """
    monkeypatch.setattr(monitor, "SHARE", 10.0)  # else a run as short as this one has one point alone
    settings = (*SMALL, "Budget.amount=320", "experiment.evaluations=()")
    kept, plain = (
        configuration.load(["gin/simclr.gin"], (*settings, *more))
        for more in (["experiment.curve_points=2", "experiment.keep_encoders=True"], ["experiment.curve_points=0"])
    )
    first = run.run(kept, out=tmp_path)
    (folder,) = tmp_path.glob("simclr-*")
    half, last = sorted(folder.glob("encoder-step-*"))
    assert (half.name, last.name) == ("encoder-step-00000005.safetensors", "encoder-step-00000010.safetensors")
    assert last.read_bytes() == (folder / "encoder.safetensors").read_bytes() != half.read_bytes()
    assert [point["step"] for point in first["training"]["curve"]["points"]] == [5, 10]
    second = run.run(plain, out=tmp_path, fresh=True)
    assert not list(folder.glob("encoder-step-*"))
    assert second["config"]["key"] == first["config"]["key"]
    assert second["training"] == {name: value for name, value in first["training"].items() if name != "curve"}
    with pytest.raises(ConfigError, match="there is none"):
        stage(tmp_path, "experiment.keep_encoders = True", "experiment.curve_points = 0")


def test_trials_teachers_and_unlabelled_data_have_no_curve(tmp_path: Path) -> None:
    """Oracle: the points of each. Training on 320,000 pairs costs at least 6 passes of each image, of which 8 passes of
    1,442 images are below a twentieth; a run of 3,200 pairs has the least, one point."""
    points = "experiment.curve_points = 8"
    long, trial = ("Budget.amount = 320000", points), "experiment.is_trial = True"
    student = stage(tmp_path, *long, gin="gin/mimco.gin")
    assert (student.training(600).points, student.teacher.training(600).points) == (8, 0)
    assert [stage(tmp_path, *each).training(600).points for each in (long, [points], [*long, trial])] == [8, 1, 0]
    blind = stage(tmp_path, *long)
    vars(blind)["dataset"] = replace(blind.dataset, train=replace(blind.dataset.train, labels=None))
    assert (blind.probe, blind.points) == (None, 0)


def test_a_trial_by_changed_code_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the folders of a trial and of a run before and after a new version; keys stay."""
    for setting, version, is_same in (
        ("experiment.is_trial = True", "2.0", False),
        ("experiment.is_trial = True", "1.1", True),
        ("experiment.is_trial = False", "2.0", True),
    ):
        with monkeypatch.context() as later:
            before = stage(tmp_path, setting)
            folder, key = before.folder, before.key
            later.setattr(KNN, "version", version)
            after = stage(tmp_path, setting)
            assert (after.folder == folder) == is_same
            assert after.key == key


def test_a_trial_has_no_floors_and_its_own_division(tmp_path: Path) -> None:
    """Oracle: the record: division, factor, no floor, the hold-out in place of the test set."""
    trial = configuration.load(["gin/simclr.gin"], (*SMALL, "Budget.amount=64", "experiment.is_trial=True"))
    record = run.run(trial, out=tmp_path)
    assert (record["division"], record["floors"]) == ("trial", [])
    assert (record["tuning"]["factor"], record["tuning"]["trials"]) == (1.0, [])
    assert record["dataset"]["sizes"] == {"pretrain": 1299, "train": 1299, "test": 143}
    assert not (tmp_path / "floors").exists()


def test_a_schedule_is_at_least_as_long_as_the_run(tmp_path: Path) -> None:
    """Oracle: 100 steps are bought; a schedule of 100 or more is taken, one of 99 is refused with both numbers."""
    assert stage(tmp_path, "Pretraining.schedule_steps=200").training(600).schedule_steps == 200
    assert stage(tmp_path).training(600).schedule_steps == 100
    with pytest.raises(ConfigError, match=r"schedule_steps = 99, but the budget buys 100 steps"):
        stage(tmp_path, "Pretraining.schedule_steps=99").check()


def test_statistics_that_an_encoder_states_are_used_everywhere(tmp_path: Path) -> None:
    """Oracle: a batch of the training, whose pixels follow from the batch by the statistics of the data."""
    files = ["gin/simclr.gin", "gin/protocol/digits_resnet18.gin"]
    pixels = []
    for settings in ((), ("ResNet.statistics=((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))",)):
        opened = Stage.open(configuration.load(files, ("ResNet.base_width=8", *settings)), tmp_path)
        stated = ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)) if settings else (opened.dataset.mean, opened.dataset.std)
        assert opened.statistics == stated
        mean, std = (torch.tensor(values)[:, None, None] for values in stated)
        pixels.append(opened.training(600).batch(0)[0] * std + mean)
    torch.testing.assert_close(*pixels, atol=1e-5, rtol=1e-5)
