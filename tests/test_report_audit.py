"""The audit of records: sound boards pass, and every corruption of a catalogue is found."""

import copy
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_records import altered, make, metrics, reworded
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from benchmark.evals import online
from benchmark.method import Method
from benchmark.report import predictions
from benchmark.report.audit import audit
from benchmark.report.audit_numbers import COLLAPSED, ONLINE, TOLERANCE, equal_shares
from benchmark.report.audit_text import DEFAULT_VIEWS
from benchmark.report.cells import key_of_text, tuning_key
from benchmark.report.record import Record, file_name, seal, write
from benchmark.report.tuning import FIRST_FACTORS, contests, fingerprint_without_test
from benchmark.results import main
from benchmark.training import budget
from benchmark.training.monitor import Health, points_of

TEXT = """\
import baselines.alpha

AdamW.base_rate = 0.002
Alpha.base = @Inner
Images.size = 16
Images.source = 'folder:here@Inner'
Inner.width = 64
KNN.k = 20
Pretraining.batch_size = 128
Pretraining.method = @Alpha
Pretraining.name = 'alpha'
Pretraining.optimiser = @AdamW
Pretraining.views = @two_crops
experiment.data = @Images
experiment.evaluations = (@KNN,)
experiment.pretraining = @Pretraining
experiment.rate_factor = 1.0
experiment.seed = 0
experiment.teacher = None
two_crops.blur = 0.5
"""


def keyed(record: Record) -> Record:
    """Return the record with the key that its text gives, and with the recipe of its tuning."""
    changed: Any = copy.deepcopy(record)
    changed["config"]["key"] = key_of_text(record)
    if record["tuning"]:
        changed["tuning"]["recipe"] = tuning_key(record["config"]["text"])
    return seal(changed)


def text_of(factor: float = 1.0, seed: int = 0) -> str:
    """The text of a run at a multiple of the recipe's rate."""
    return TEXT.replace("factor = 1.0", f"factor = {factor!r}").replace("seed = 0", f"seed = {seed}")


FLOOR, FLOOR_OF_1 = (
    keyed(
        make(
            method={"name": "random init", "files": [], "module_sha256": None, "deviations": []},
            division="floor",
            budget=None,
            board=None,
            teacher=None,
            seed=seed,
            config__text=text_of(seed=seed),
            cost__images=0,
            cost__views=0,
            cost__flops=0.0,
            cost__flops_per_step=0.0,
        )
    )
    for seed in (0, 1)
)
SOUND = keyed(make(teacher=None, floors=[FLOOR["id"]], config__text=TEXT))
REPEATED = keyed(make(teacher=None, floors=[FLOOR_OF_1["id"]], seed=1, config__text=text_of(seed=1)))
TAUGHT = keyed(
    make(
        method__name="taught",
        cost__flops=2e12,
        cost__teacher_flops=1e12,
        budget__steps=100,
        cost__images=25_600,
        floors=[FLOOR["id"]],
        config__text=TEXT.replace("teacher = None", "teacher = @teacher/Pretraining")
        .replace("width = 64", "width = 32")
        .replace("'alpha'", "'taught'")
        + "teacher/AdamW.base_rate = 0.1\nteacher/Pretraining.optimiser = @teacher/AdamW\n",
    )
)

TIMED, AGAIN = (
    keyed(
        make(
            division="open",
            teacher=None,
            floors=[FLOOR["id"]],
            config__text=TEXT,
            budget__kind="device_seconds",
            budget__amount=100.0,
            cost__train_seconds=seconds,
            metrics={"linear": metrics(0.9, details={"seconds_to_99": seconds / 64}), "knn": metrics(0.8)},
        )
    )
    for seconds in (100.0, 102.9)
)

TRIALS = [
    keyed(
        make(
            division="trial",
            teacher=None,
            seed=1000,
            config__text=text_of(factor, 1000),
            tuning={"recipe": "ab" * 32, "factor": factor, "trials": [], "flops": 0.0, "seconds": 0.0},
            dataset__fingerprint=fingerprint_without_test("feedc0de00"),
            budget__amount=2e12 / 16,
            budget__steps=12,
            cost__images=12 * 128,
            cost__views=2 * 12 * 128,
            cost__flops=12e10,
        )
    )
    for factor in FIRST_FACTORS
]
TUNED = keyed(
    make(
        division="tuned",
        teacher=None,
        floors=[FLOOR["id"]],
        config__text=TEXT,
        tuning=contests(TRIALS)[tuning_key(TEXT)].tuning,
    )
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with a sound board."""
    folder = tmp_path / "results"
    for record in (FLOOR, FLOOR_OF_1, SOUND, REPEATED, TAUGHT, TUNED, TIMED, AGAIN, *TRIALS):
        write(record, folder / "small")
    return folder


def test_a_sound_board_passes(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: no problem, exit code 0, and the count."""
    assert audit(results) == []
    assert main(["--results", str(results)]) == 0
    assert "13 records are sound." in capsys.readouterr().out


def test_a_record_is_held_to_what_made_it() -> None:
    """Oracle: the numbers of the code that makes records; the report cannot import them."""
    assert TOLERANCE == budget.TOLERANCE
    assert ONLINE == online.IMAGES
    assert (Method.n_views, Method.takes_more_views) == (DEFAULT_VIEWS, False)
    spread, rank = COLLAPSED
    assert [Health(*each).collapsed for each in ((spread, rank), (spread * 0.99, rank), (spread, rank * 0.99))] == [
        False,
        True,
        True,
    ]
    for steps, points in ((2339, 8), (16, 8), (7, 2), (1, 1)):
        assert equal_shares(steps, points) == points_of(steps, points)


def curve(step: int, knn: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what adds a curve of one point, measured on 1,000 queries."""
    return lambda training: (
        training | {"curve": {"bank": 4000, "queries": 1000, "points": [{"step": step, "knn": knn}]}}
    )


ON_A_GPU = altered(SOUND, "environment.gpu", "Example GPU")
UNTRAINED = altered(SOUND, "training.digest", None)
DIVERGED = altered(altered(SOUND, "status", "diverged"), "training.loss", None)
FORGED: dict[str, tuple[Record, str, Any, str]] = {
    "top-1 between two images": (SOUND, "metrics.linear.top1", 0.9011, "is no share of 500 images"),
    "fewer test images": (SOUND, "metrics.linear.n", 499, "the test set has 500"),
    "top-5 with ten classes": (SOUND, "metrics.linear.top5", 0.95, "from 50 classes up"),
    "top-5 missing with a hundred classes": (SOUND, "dataset.classes", 100, "from 50 classes up"),
    "top-5 below top-1": (altered(SOUND, "dataset.classes", 100), "metrics.linear.top5", 0.5, "top5: is below top1"),
    "mean apart from its draws": (SOUND, "metrics.linear.draws", [0.5, 0.6], "not the mean of its draws"),
    "a draw between two images": (SOUND, "metrics.linear.draws", [0.90001, 0.89999], "is no share"),
    "a curve between two images": (SOUND, "training", curve(200, 0.5005), "0.5005 after step 200 is no share of its"),
    "a curve past the end": (SOUND, "training", curve(201, 0.5), "a point after step 201 of 200"),
    "more FLOPs than the budget": (SOUND, "cost.flops", 2.1e12, "cost.flops"),
    "fewer FLOPs than the steps": (SOUND, "cost.flops", 1.9e12, "expected 2e+12 from steps"),
    "more images than the steps": (SOUND, "cost.images", 30_000, "expected 25,600 from steps"),
    "a larger budget claimed": (SOUND, "budget.amount", 3e12, "enough for another step"),
    "a smaller budget claimed": (SOUND, "budget.amount", 1e12, "more than the budget"),
    "more steps than charged": (SOUND, "budget.steps", 400, "from steps"),
    "a teacher forgotten": (TAUGHT, "teacher", None, "was not trained here"),
    "a teacher for nothing": (TAUGHT, "cost.teacher_flops", 0.0, "from steps and teacher"),
    "a floor not published": (SOUND, "floors", ["0" * 16], "its floor 0000000000000000 is not among"),
    "a floor that trained": (FLOOR, "cost.images", 5, "a floor costs nothing"),
    "a trial not published": (TUNED, "tuning.trials", ["0" * 16], "its trials 0000000000000000 are not among"),
    "trials left out": (TUNED, "tuning.trials", lambda ids: ids[:4], "does not follow from its trials"),
    "another rate than the trials chose": (TUNED, "tuning.factor", 4.0, "does not follow from its trials"),
    "trials that cost nothing": (TUNED, "tuning.flops", 0.0, "does not follow from its trials"),
    "a rate that was not trained at": (
        TUNED,
        "config.text",
        text_of(4.0),
        "tuning.factor: 1.0, but config.text says 4.0",
    ),
    "a trial at another rate": (
        TRIALS[0],
        "config.text",
        text_of(1.0, 1000),
        "tuning.factor: 0.25, but config.text says 1.0",
    ),
    "trials of another method": (TUNED, "method.name", "beta", "made with another method."),
    "trials of another encoder": (TUNED, "encoder.parameters", 1, "made with another encoder."),
    "trials that saw other data": (TUNED, "dataset.fingerprint", "beef", "made with another data set."),
    "trials of another budget": (TUNED, "budget.amount", 2.005e12, "another budget than 0.0625 of the run's."),
    "trials of other code": (TUNED, "code.versions", {"pretraining": "2.0"}, "made with another code."),
    "more energy than power": (ON_A_GPU, "cost.joules", 1e9, "cost.joules: 1e+09 in 90 s are more than 5000 W"),
    "a floor that failed": (FLOOR, "status", "failed", "status: failed, but nothing was trained"),
    "a failure that was trained": (SOUND, "status", "failed", "status: failed, but its training ended"),
    "a failure that was evaluated": (UNTRAINED, "status", "failed", "status: failed, but it was evaluated"),
    "no weights": (SOUND, "training.digest", None, "training.digest: is missing"),
    "no predictions": (SOUND, "predictions", None, "predictions: are missing"),
    "a short run that spent too much": (DIVERGED, "cost.flops", 3e12, "cost.flops: a run that ended early"),
    "a trial in a table": (
        SOUND,
        "config.text",
        lambda text: text + "experiment.is_trial = True\n",
        "division: closed",
    ),
    "a teacher from elsewhere": (
        SOUND,
        "config.text",
        lambda text: text + "experiment.teacher_weights = 'w'\n",
        "its weights come from elsewhere",
    ),
    "a floor of another seed": (SOUND, "floors", [FLOOR_OF_1["id"]], "has the seed 1, but seed is 0"),
    "a floor of other images": (SOUND, "dataset.fingerprint", "beef", "is of other images than dataset.fingerprint"),
    "a floor of other evaluations": (SOUND, "config.text", reworded("k = 20", "k = 1"), "another encoder, other eval"),
    "half a view": (SOUND, "cost.views", 51_201, "cost.views: 51,201 are not a whole number for each of 25,600"),
    "a teacher that the text has not": (SOUND, "teacher", TAUGHT["teacher"], "teacher: config.text says experiment"),
    "another image size": (SOUND, "dataset.size", 32, "dataset.size: 32, but config.text says 16"),
    "an encoder for another size": (SOUND, "encoder.image_size", 32, "image_size: 32, but config.text says 16"),
    "more waiting than training": (SOUND, "cost.data_wait_seconds", 90.5, "are part of cost.train_seconds"),
    "a missed budget in seconds": (TIMED, "cost.train_seconds", 103.1, "by more than 3 %"),
    "a budget in seconds not spent": (TIMED, "budget.amount", 104.0, "by more than 3 %"),
    "other scores of the same weights": (TIMED, "metrics.knn.top1", 0.802, "have different results of knn"),
    "other choices for the same weights": (TIMED, "metrics.linear.choices", {}, "have different results of linear"),
    "another k": (SOUND, "config.text", reworded("k = 20", "k = 1"), "has KNN.k = 1, where "),
    "another batch": (SOUND, "config.text", reworded("size = 128", "size = 8"), "has Pretraining.batch_size = 8"),
    "another rate": (SOUND, "config.text", reworded("rate = 0.002", "rate = 0.1"), "has AdamW.base_rate = 0.1"),
    "another optimiser": (SOUND, "config.text", reworded("AdamW", "SGD"), "has no line AdamW.base_rate, where "),
    "another line": (
        SOUND,
        "config.text",
        reworded("KNN.k", "KNN.temperature = 1\nKNN.k"),
        "has KNN.temperature",
    ),
    "other views of one name": (SOUND, "config.text", reworded("blur = 0.5", "blur = 0"), "has two_crops.blur = 0"),
    "a method that claims an evaluation": (
        SOUND,
        "config.text",
        lambda text: text.replace("k = 20", "k = 1").replace("base = @Inner", "base = @KNN"),
        "has KNN.k = 1",
    ),
    "another board": (SOUND, "board", "large", "was published to 'large'"),
    "another data set of the name": (SOUND, "dataset.fingerprint", "beef", "2 different data sets are called digits"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_numbers_are_found(case: str, results: Path) -> None:
    """Oracle: a record that is valid by itself and in which one number was changed."""
    record, field, value, problem = FORGED[case]
    (results / "small" / file_name(record)).unlink(missing_ok=True)  # some are altered twice
    write(altered(record, field, value), results / "small")
    problems = audit(results)
    assert any(problem in text for text in problems), problems


ON_EQUAL_TERMS: dict[str, tuple[str, Any]] = {
    "the method's parameters": ("config.text", reworded("Inner.width = 64", "Inner.width = 16")),
    "the rate's factor": ("config.text", reworded("factor = 1.0", "factor = 4.0")),
    "where the data lie": ("config.text", reworded("folder:here", "folder:there")),
    "other views": ("config.text", reworded("two_crops", "one_crop")),
    "newer code": ("code.versions", {"pretraining": "2.0", "KNN": "1.0"}),
    "another board of its own": ("board", "other"),
    "a point of a sweep": ("config.varied", ["benchmark.evals.KNN.k = 1", "Pretraining.optimiser = @SGD"]),
}


@pytest.mark.parametrize("case", ON_EQUAL_TERMS)
def test_what_may_differ_in_a_table(case: str, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the rule: the method's lines, its views, rate factor, places; code, boards and points."""
    monkeypatch.setattr("benchmark.report.audit_text.versions", dict)  # code as new as that of a case
    field, value = ON_EQUAL_TERMS[case]
    record = altered(SOUND, field, value)
    if field != "config.text":
        for old, new in (("k = 20", "k = 1"), ("AdamW", "SGD"), ("rate = 0.002", "rate = 0.1")):
            record = altered(record, "config.text", reworded(old, new))
    floor = keyed(altered(FLOOR, "config.text", record["config"]["text"]))
    other = keyed(altered(altered(record, "floors", [floor["id"]]), "created_utc", "2026-02-28T12:00:00Z"))
    for each in (floor, other):
        write(each, results / (other["board"] or ""))
    assert audit(results) == []


def test_boards_may_have_different_data_of_one_name(results: Path) -> None:
    """Oracle: a run with its floor on another board, by other images under the same name."""
    other = keyed(altered(FLOOR, "dataset.fingerprint", "beef"))
    run = altered(altered(SOUND, "dataset.fingerprint", "beef"), "floors", [other["id"]])
    for record in (other, keyed(altered(run, "board", "large"))):
        write(record, results / "large")
    assert audit(results) == []


@pytest.mark.parametrize(("name", "problem"), [("digits", "2 different data sets are called digits"), ("a", "beef")])
def test_data_of_pretraining(name: str, problem: str, results: Path) -> None:
    """Oracle: the data of the run with the same digest, and the names of the board; without the run none is known, also
    where a trial, which has another test split, has that digest."""
    origin = {"name": name, "fingerprint": "beef", "size": 16, "images": 9}
    text = TEXT.replace("pretraining = @Pretraining", "pretraining = None")
    common = {"division": "open", "teacher": None, "floors": [FLOOR["id"]], "config__text": text}
    again = make(**common, pretrained_on=origin)
    write(again, results / "small")
    assert any(problem in each for each in audit(results))
    (results / "small" / file_name(again)).unlink()
    write(make(**common, pretrained_on=origin | {"name": "a"}, training__digest="1" * 64), results / "small")
    write(altered(TRIALS[0], "training.digest", "1" * 64), results / "small")
    assert not any("pretrained_on" in each or "are called" in each for each in audit(results))


def test_raw_pixels_that_a_run_of_another_encoder_measured_are_a_floor(results: Path) -> None:
    """Oracle: raw pixels pass no encoder, so the first run on the images measures them for all."""
    pixels = altered(altered(FLOOR, "method.name", "raw pixels"), "encoder.width", 512)
    pixels = keyed(altered(pixels, "config.text", TEXT.replace("width = 64", "width = 512")))
    run = altered(SOUND, "floors", [FLOOR["id"], pixels["id"]])
    for record in (pixels, keyed(run)):
        write(record, results / "small")
    assert audit(results) == []


def test_a_repeated_run_with_other_weights_is_found(results: Path) -> None:
    """Oracle: the same run an hour later with another digest; with the same digest, other versions,
    or kernels that do not repeat their bits, all is well."""
    later = "2026-01-31T13:00:00Z"
    write(altered(SOUND, "created_utc", later), results / "small")
    for place, (part, value) in enumerate((("torch", "2.16.0"), ("timm", "2.0.0"), ("processor", "Other CPU"))):
        elsewhere = altered(altered(SOUND, "training.digest", f"{place}" * 64), f"environment.{part}", value)
        write(elsewhere, results / "small")
    free = altered(altered(SOUND, "training.digest", "8" * 64), "environment.deterministic", False)
    write(free, results / "small")
    assert audit(results) == []
    write(altered(altered(SOUND, "training.digest", "9" * 64), "created_utc", later), results / "small")
    assert "ended in different weights" in " ".join(audit(results))


def touched(path: Path) -> None:
    path.write_text(path.read_text().replace('"top1": 0.9', '"top1": 0.99'))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "edited by hand": touched,
    "formatted anew": lambda path: path.write_text(json.dumps(json.loads(path.read_text()), indent=4) + "\n"),
    "renamed": lambda path: path.rename(path.with_name("best.json")),
    "moved": lambda path: path.rename(path.parents[1] / path.name),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_found(damage: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code 4 and the name of the file."""
    path = results / "small" / file_name(SOUND)
    DAMAGE[damage](path)
    assert main(["--results", str(results)]) == 4
    printed = capsys.readouterr().err
    assert path.name in printed
    assert "problems." in printed


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("change", ["changed", "removed"])
def test_records_are_never_rewritten(change: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a repository whose first commit has the records; new ones, here or on another branch, are no problem."""
    git(results.parent, "init", "-q")
    for branch, day in (("first", 4), ("ahead", 3)):
        git(results.parent, "switch", "-qc", branch)
        write(altered(SOUND, "created_utc", f"2026-02-0{day}T12:00:00Z"), results / "small")
        git(results.parent, "add", ".")
        git(results.parent, "commit", "-qm", "Publish")
    git(results.parent, "switch", "-q", "first")
    write(altered(SOUND, "created_utc", "2026-02-02T12:00:00Z"), results / "small")
    git(results.parent, "add", ".")
    assert main(["--results", str(results), "--base", "ahead"]) == 0
    path = results / "small" / file_name(SOUND)
    path.unlink()
    if change == "changed":
        touched(write(SOUND, results / "small"))
    assert main(["--results", str(results), "--base", "ahead"]) == 4
    assert f"{path}: was {change} since ahead" in capsys.readouterr().err


def test_wrong_arguments_are_answered(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code 2 and what is missing."""
    assert main(["--results", str(results / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    git(results.parent, "init", "-q")
    assert main(["--results", str(results), "--base", "nowhere"]) == 2
    assert "--base nowhere" in capsys.readouterr().err


def test_published_files_are_there_as_the_record_says(tmp_path: Path) -> None:
    """Oracle: nothing for sound files, with the scores of scikit-learn; then the file or the score that is wrong."""
    labels = np.arange(500) % 10
    columns = {
        name: np.where(np.arange(500) < right, labels, labels * 3 % 10)
        for name, right in (("linear", 450), ("knn", 400))
    }
    scores = {
        name: metrics(
            accuracy_score(labels, column),
            macro_f1=f1_score(labels, column, average="macro"),
            balanced_accuracy=balanced_accuracy_score(labels, column),
        )
        for name, column in columns.items()
    }
    content, _ = predictions.pack(labels, columns)
    wrong, _ = predictions.pack(labels, columns | {"knn": labels})
    broken = b"no archive"
    short, _ = predictions.pack(labels[:400], {name: column[:400] for name, column in columns.items()})
    many, _ = predictions.pack(labels, columns | {"knn": labels + 1})
    board = tmp_path / "results" / "small"
    write(FLOOR, board)
    for name, written, problem in (
        ("sound", content, ""),
        ("wrong", wrong, "knn has the accuracy 1, which is not that of the record"),
        ("short", short, "dataset.sizes.test: short.npz has no class for each of 500 images"),
        ("many", many, "dataset.classes: 10, but many.npz has the class 10"),
        ("broken", broken, "broken.npz cannot be read as predictions"),
        ("cut", content[:-1], "its file predictions/cut.npz was changed"),
        ("flipped", content[:-1] + b"\1", "its file predictions/flipped.npz was changed"),
        ("gone", None, "its file predictions/gone.npz is missing"),
    ):
        stated = {"wrong": wrong, "short": short, "many": many, "broken": broken}.get(name, content)
        file = {"file": f"predictions/{name}.npz", "sha256": hashlib.sha256(stated).hexdigest(), "bytes": len(stated)}
        path = write(seal({**SOUND, "metrics": scores, "published": {"predictions": file}}), board)
        if written is not None:
            (board / "predictions").mkdir(exist_ok=True)
            (board / file["file"]).write_bytes(written)
        problems = audit(tmp_path / "results")
        assert bool(problems) == bool(problem), problems
        assert problem in " ".join(problems)
        path.unlink()
