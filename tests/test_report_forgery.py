"""Forged records: one field of a published record is changed, and the record is sealed anew, as a careful forger does.

The audit finds a field by what else the record says, by its predictions, by its floors, or by other records of its
data. `FORGED` has what is not in the catalogue of test_report_audit. `UNDECIDED` are the fields that nothing in a
record can contradict; `docs/reference.md` names them.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_records import altered, reworded

from benchmark.report.audit import audit
from benchmark.report.record import file_name, read, seal, write
from benchmark.results import main

RESULTS = Path(__file__).parents[1] / "results"
RUN = RESULTS / "cifar10_gpu" / "cifar10-resnet18_stem3x3-simclr-s0-1911aec4-5c280c18.json"
TUNED = next(RESULTS.glob("digits/digits-vit_micro_patch4-byol-s0-9ad8b50c-*.json"))
SUPERVISED = next(RESULTS.glob("digits/digits-vit_micro_patch4-supervised_reference-s0-5065d8fa-*.json"))
TAUGHT = next(RESULTS.glob("digits/digits-vit_micro_patch4-mimco-s0-ba2d609e-*.json"))
FLOOR = next(RESULTS.glob("cifar10_gpu/*-random-init-s0-*.json"))
ELSEWHERE = read(next(RESULTS.glob("digits/*-random-init-s0-*.json")))["id"]


def plus(change: float) -> Callable[[float], float]:
    """Return what adds to a number."""
    return lambda value: value + change


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what drops one entry."""
    return lambda entries: {key: value for key, value in entries.items() if key != name}


FIVE = plus(0.05)
FORGED: dict[str, tuple[str, Any]] = {
    "five points of the linear probe": ("metrics.linear.top1", FIVE),
    "five points of kNN": ("metrics.knn.top1", FIVE),
    "macro-F1": ("metrics.linear.macro_f1", FIVE),
    "balanced accuracy": ("metrics.knn.balanced_accuracy", FIVE),
    "balanced accuracy over draws": ("metrics.semi_probe_1.balanced_accuracy", FIVE),
    "one draw": ("metrics.semi_probe_1.draws.0", FIVE),
    "an evaluation by another version": ("metrics.linear.version", 2),
    "another k": ("metrics.knn.choices.k", 5),
    "a detail between two images": ("metrics.knn.details.k=10", 0.61535),
    "an evaluation left out": ("metrics", without("semi_probe_1")),
    "all evaluations left out": ("metrics", {}),
    "seed": ("seed", 1),
    "the name of another method": ("method.name", "moco"),
    "files of another method": ("method.files", ["baselines/moco.py"]),
    "a hash of files outside": ("method.module_sha256", "0" * 64),
    "a reference by labels": ("method.supervised", True),
    "key": ("config.key", "0" * 64),
    "rate": ("config.text", reworded("base_rate = 0.0015", "base_rate = 0.003")),
    "temperature": ("config.text", reworded("SimCLR.temperature = 0.2", "SimCLR.temperature = 0.5")),
    "a point of a sweep": ("config.varied", ["SimCLR.temperature = 0.5"]),
    "kind of budget": ("budget.kind", "samples"),
    "a larger budget": ("budget.amount", 4e15 + 1e9),
    "batch": ("budget.batch_size", 128),
    "fewer images": ("cost.images", 300_000),
    "twice the views": ("cost.views", 2 * 1_197_568),
    "a million seconds": ("cost.train_seconds", 1e6),
    "no seconds": ("cost.train_seconds", 0.31),
    "compiled without compiler": ("cost.compile_seconds", 30.0),
    "no evaluation": ("cost.evaluation_seconds", 0.0),
    "a million seconds of evaluation": ("cost.evaluation_seconds", 1e6),
    "energy of a shared GPU": ("cost.joules", 1e4),
    "a megabyte": ("cost.peak_memory_bytes", 2**20),
    "devices": ("cost.devices", 8),
    "data set": ("dataset.name", "imagenet"),
    "fingerprint": ("dataset.fingerprint", "0" * 64),
    "fewer images to pretrain on": ("dataset.sizes.pretrain", 5000),
    "fewer labels": ("dataset.sizes.train", 500),
    "more test images": ("dataset.sizes.test", 20_000),
    "classes": ("dataset.classes", 20),
    "channel mean": ("dataset.mean.0", 0.5),
    "encoder": ("encoder.name", "resnet50"),
    "a smaller encoder": ("encoder.parameters", 1_000_000),
    "width": ("encoder.width", 2048),
    "stem": ("encoder.stem", "7x7"),
    "floors removed": ("floors", []),
    "floors of other data": ("floors", [ELSEWHERE]),
    "size of the checkpoint": ("checkpoint.bytes", 1_000_000),
    "no checkpoint": ("checkpoint", None),
    "collapsed": ("training.collapsed", True),
    "rank": ("training.effective_rank", 4000.0),
    "a loss that is not finite": ("training.loss", None),
    "a point of the curve at another step": ("training.curve.points.3.step", 1171),
    "queries": ("training.curve.queries", 2000),
    "no GPU": ("environment.gpu", None),
    "precision": ("environment.precision", "float32"),
    "TF32": ("environment.tf32", True),
    "tuned without trials": ("division", "tuned"),
    "diverged": ("status", "diverged"),
    "overtime": ("status", "overtime"),
    "the future": ("created_utc", "2126-01-01T00:00:00Z"),
    "a day that is none": ("created_utc", "2026-02-31T00:00:00Z"),
    "code of the future": ("code.versions.pretraining", "9.0"),
    "a method without version": ("code.versions", without("SimCLR")),
    "pretraining without version": ("code.versions", without("pretraining")),
    "an evaluation without version": ("code.versions", without("Linear")),
    "a package of the future": ("code.version", "99.0.0"),
    "no commit": ("code.commit", "the best one"),
    "changed code": ("code.dirty", True),
    "size of the predictions": ("published.predictions.bytes", 1),
    "a start from trained weights": (
        "start",
        {"name": "timm:resnet18", "digest": "0" * 64, "layout": "timm", "positions": None},
    ),
    "a teacher": ("teacher", {"key": "0" * 64, "share": 0.5, "digest": "0" * 64}),
}
CONTRADICTED = {  # fields whose change shows in another, which the sentence names
    "metrics": "metrics:",
    "metrics.knn.choices.k": "metrics.knn.choices: k",
    "metrics.knn.details.k=10": "metrics.knn.details: k=10",
    "config.text": "config.key",
    "cost.teacher_flops": "cost.flops",
    "dataset.sizes.pretrain": "dataset.sizes",
    "dataset.sizes.train": "dataset.sizes",
    "training.curve.points.3.step": "training.curve.points: step",
    "training.curve.queries": "training.curve: a bank",
    "division": "record.tuning",
    "code.versions": "is missing",
    "method": "method.supervised",
    "teacher": "cost.teacher_flops",
}
OF_OTHERS: dict[str, tuple[Path, str, Any]] = {
    "factor of a tuned rate": (TUNED, "tuning.factor", 2.0),
    "recipe of a tuned rate": (SUPERVISED, "tuning.recipe", "0" * 64),
    "share of a teacher": (TAUGHT, "teacher.share", 0.1),
    "FLOPs of a teacher": (TAUGHT, "cost.teacher_flops", 1e9),
    "views with a teacher": (TAUGHT, "cost.views", plus(256)),
    "key of a floor": (FLOOR, "config.key", "0" * 64),
    "seed of a floor": (FLOOR, "seed", 5),
    "learnt from labels, and not said": (SUPERVISED, "method", without("supervised")),
}
BY_PREDICTIONS = (  # cases that nothing else decides
    "five points of the linear probe",
    "five points of kNN",
    "macro-F1",
    "balanced accuracy",
    "balanced accuracy over draws",
)
UNDECIDED: dict[str, tuple[str, Any]] = {
    "macro-F1 over draws that are not all published": ("metrics.semi_probe_1.macro_f1", FIVE),
    "a detail": ("metrics.knn.details.k=10", 0.6653),
    "what was chosen on the hold-out": ("metrics.linear.choices.strength", 1.0),
    "a value that the text calls a default": ("config.text", reworded("flip = 0.5", "flip = 0.1")),
    "deviations from the paper": ("method.deviations", []),
    "a slower run": ("cost.train_seconds", 400.0),
    "a little less memory": ("cost.peak_memory_bytes", 2**30),
    "resumptions": ("cost.resumes", 7),
    "hash of the checkpoint": ("checkpoint.sha256", "0" * 64),
    "hash of all predictions": ("predictions.sha256", "0" * 64),
    "digest of the weights": ("training.digest", "0" * 64),
    "loss": ("training.loss", 0.1),
    "a higher curve": ("training.curve.points.7.knn", 0.6),
    "another GPU": ("environment.gpu", "NVIDIA H100"),
    "threads": ("environment.threads", 16),
    "another torch": ("environment.torch", "2.12.0"),
    "open in place of closed": ("division", "open"),
    "another commit": ("code.commit", "0" * 40),
    "an hour later": ("created_utc", "2026-11-26T22:30:07Z"),
}


def problems_of(path: Path, field: str, value: Any, folder: Path, **more: Any) -> list[str]:
    """Return what is found on a copy of a board in which one record is forged; a refusal to write it counts too."""
    board = folder / "results" / path.parent.name
    shutil.copytree(path.parent, board)
    forged = seal({**altered(read(path), field, value), **more})
    (board / path.name).unlink()
    (board / file_name(forged)).write_text(  # without the checks of `write`, which a forger need not use
        "{\n"
        + ",\n".join(f'  "{name}": {json.dumps(forged[name], sort_keys=True)}' for name in sorted(forged))
        + "\n}\n"
    )
    return audit(folder / "results")


def named(field: str) -> str:
    """Return the name that a sentence about a field begins with, or has beside that of another field."""
    return CONTRADICTED.get(field, ".".join(part for part in field.split(".") if not part.isdigit()))


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_field_is_found(case: str, tmp_path: Path) -> None:
    """Oracle: a sentence that names the field."""
    field, value = FORGED[case]
    problems = problems_of(RUN, field, value, tmp_path)
    assert any(named(field) in problem for problem in problems), problems


@pytest.mark.parametrize("case", OF_OTHERS)
def test_a_forged_field_of_other_records_is_found(case: str, tmp_path: Path) -> None:
    """Oracle: a sentence that names the field, for tuned runs, runs with a teacher and floors."""
    path, field, value = OF_OTHERS[case]
    problems = problems_of(path, field, value, tmp_path)
    assert any(named(field) in problem for problem in problems), problems


@pytest.mark.parametrize("case", BY_PREDICTIONS)
def test_scores_need_predictions(case: str, tmp_path: Path) -> None:
    """Oracle: nothing is found where the same record names no predictions."""
    field, value = FORGED[case]
    alone = altered(altered(read(RUN), "published", {}), field, value)
    assert problems_of(RUN, "metrics", alone["metrics"], tmp_path, published={}) == []


@pytest.mark.parametrize("case", UNDECIDED)
def test_what_nothing_contradicts(case: str, tmp_path: Path) -> None:
    """Oracle: nothing is found; a case that is found belongs to `FORGED`, and out of the list in the documentation."""
    field, value = UNDECIDED[case]
    assert problems_of(RUN, field, value, tmp_path) == []


def test_one_record_is_checked_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: what holds and what is self-reported of a published record, whose copy lies outside the boards; exit code
    4, the sentence, and no word that the field holds, for a forged one; 2 for no file; 4 for another one."""
    shutil.copytree(RUN.parent / "predictions", tmp_path / "predictions")
    path = Path(shutil.copy(RUN, tmp_path))
    assert main(["--results", str(RESULTS), "--record", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "holds, by its predictions: metrics.knn.top1, metrics.knn.macro_f1" in printed
    assert "self-reported, unless its predictions are published: metrics.semi_probe_1.top1" in printed
    assert "Nothing contradicts the record." in printed
    for field, value in (("seed", 1), ("metrics.knn.top1", 0.65)):
        forged = write(altered(read(RUN), field, value), tmp_path)
        assert main(["--results", str(RESULTS), "--record", str(forged)]) == 4
        printed, problems = capsys.readouterr()
        assert f"{forged}: {field}: " in problems
        assert not re.search(rf"holds.*[ ,]{field}[,\n]", printed)
        assert f"{RUN}:" not in problems
    alone = write(altered(read(RUN), "published", {}), tmp_path)
    assert main(["--results", str(tmp_path / "none"), "--record", str(alone)]) == 4
    printed, problems = capsys.readouterr()
    assert "its floor 101528fd8aa81a71 is not among the records" in problems
    assert "its predictions: " not in printed
    assert main(["--record", str(tmp_path / "none.json")]) == 2
    assert main(["--record", str(path), "--base", "HEAD"]) == 2
    alone.write_text(alone.read_text()[:-9])
    assert main(["--record", str(alone)]) == 4
    assert "cannot be read as a record" in capsys.readouterr().err


HOSTILE = {
    "a budget of no number": ("config.text", reworded("4000000000000000.0", "@Budget")),
    "a budget that no float holds": ("config.text", reworded("4000000000000000.0", "9" * 400)),
    "a share of no number": ("config.text", reworded("fraction = 0.01", "fraction = 'all'")),
    "a value without end": ("config.text", reworded("KNN.k = 20", f"KNN.k = {'(' * 5000}")),
    "a number without end": ("config.text", reworded("KNN.k = 20", f"KNN.k = {'9' * 5000}")),
    "a thousand million points": ("config.text", reworded("points = 8", "points = 1000000001")),
    "a class within itself": (
        "config.text",
        reworded("experiment.budget = @Budget", "experiment.budget = @experiment"),
    ),
    "a batch of none": ("budget.batch_size", 0),
    "no images": ("cost.images", 0),
    "no test images": ("dataset.sizes.test", 0),
    "no classes": ("dataset.classes", 0),
    "a version of many digits": ("code.version", "9" * 5000),
    "a choice as long as a file": ("metrics.knn.choices.k", [1] * 100_000),
    "a class of many digits": ("code.versions.KNN", "9" * 5000 + ".0"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_values_are_found_and_no_crash(case: str, tmp_path: Path) -> None:
    """Oracle: a problem, within the time of a test, in place of an exception."""
    problems = problems_of(RUN, *HOSTILE[case], tmp_path)
    assert problems
    assert max(map(len, problems)) < 5000
