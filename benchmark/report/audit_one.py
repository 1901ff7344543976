"""One record from elsewhere: what can be decided of it, and what it alone says of itself."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.report import predictions
from benchmark.report.audit import alone, shortened, together
from benchmark.report.audit_files import predicted
from benchmark.report.cells import files_outside, key_of_text
from benchmark.report.record import Record, pretrained, read

OF_TEXT = ("seed", "division", "dataset.name", "dataset.size", "encoder.image_size")
OF_TEXT_OF_RUN = (
    *("method.name", "method.files", "config.varied", "environment.precision"),
    *("budget.kind", "budget.amount", "budget.batch_size", "teacher", "start"),
)
OF_SPENDING = tuple(f"cost.{name}" for name in ("images", "flops_per_step", "flops", "teacher_flops"))
OF_CODE = ("code.versions", "code.version", "method.supervised", "cost.views")
OF_ENDING = ("status", "training.collapsed", "training.effective_rank", "checkpoint.bytes")
OF_FLOORS = tuple(f"encoder.{name}" for name in ("name", "parameters", "width", "patch", "stem"))
IN_BOUNDS = ("cost.train_seconds", "cost.evaluation_seconds", "cost.peak_memory_bytes")
ORIGIN = ("pretrained_on.fingerprint",)
SCORES = ("top1", "macro_f1", "balanced_accuracy", "mean_average_precision", "mean_iou")
BY_REPRODUCTION = ("training.loss", "training.digest", "training.curve", "checkpoint.sha256", "predictions.sha256")
BY_NOTHING = (
    *("environment.gpu", "environment.processor", "environment.threads", "environment.torch", "code.commit"),
    *("created_utc", "cost.resumes", "cost.data_wait_seconds", "cost.joules", "method.deviations"),
)


@dataclass(frozen=True)
class Findings:
    """What was found of a record: sentences about problems, the fields that held, by what, and those left, and why."""

    problems: list[str]
    held: dict[str, list[str]]
    self_reported: dict[str, list[str]]


def examine(path: Path, boards: Path) -> Findings:
    """Check one record alone and beside those of its folder and of a folder of boards, as far as these can be read.

    Raises BenchmarkError for a file that is no record as it was written.
    """
    record = read(path)
    others = {}
    for other in sorted({*boards.rglob("*.json"), *path.parent.glob("*.json")}):
        with suppress(BenchmarkError):
            others[other] = read(other)
    others = {place: each for place, each in others.items() if each["id"] != record["id"]} | {path: record}
    between = (problem for problem in together(others) if str(path) in problem or record["id"] in problem)
    problems = [*(f"{path}: {problem}" for problem in alone(path, record)), *between]
    scores, unknown = _scores(path.parent, record)
    digest = record["training"]["digest"]
    is_known = not pretrained(record) and any(
        pretrained(run) and run["training"]["digest"] == digest for run in others.values()
    )
    held = {
        by: [field for field in fields if not any(field in problem for problem in problems)]
        for by, fields in (
            *_decided(record),
            ("the run that trained it", ORIGIN * is_known),
            ("its predictions", scores),
        )
    }
    left = {
        "unless its predictions are published": unknown,
        "unless the run that trained it is published": [*ORIGIN] * ("pretrained_on" in record and not is_known),
        "until --reproduce makes the run again": [field for field in BY_REPRODUCTION if pretrained(record)],
        "within bounds": [field for field in IN_BOUNDS if record["budget"]],
        "for good": [*BY_NOTHING],
    }
    return Findings(
        list(map(shortened, problems)),
        *({by: fields for by, fields in each.items() if fields} for each in (held, left)),
    )


def _decided(record: Record) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what decides some fields of this record, and which."""
    if record["schema"] > 1 and key_of_text(record):
        yield "its text and data", ("config.key",)
    yield "its text", (*OF_TEXT, *OF_TEXT_OF_RUN * pretrained(record))
    if record["budget"]:
        yield "its steps", (*OF_SPENDING, *OF_ENDING)
    if record["floors"]:
        yield "its floors", ("dataset.fingerprint", "dataset.sizes", "dataset.classes", *OF_FLOORS)
    if record["schema"] > 1 and pretrained(record) and files_outside(record) is None:
        yield "the code here", OF_CODE


def _scores(board: Path, record: Record) -> tuple[tuple[str, ...], list[str]]:
    """Return the scores that follow from published predictions, and those that do not."""
    stated = record.get("published", {}).get("predictions")
    classes = None
    if stated:
        with suppress(BenchmarkError):
            classes = predictions.read(board / stated["file"])
    decided: list[str] = []
    unknown: list[str] = []
    for name, result in record["metrics"].items():
        is_known = classes is not None and bool(predicted(classes, name, result))
        scores = [score for score in SCORES if score in result]
        (decided if is_known else unknown).extend(f"metrics.{name}.{score}" for score in scores)
    return tuple(decided), unknown
