"""The files that are published with a record: they are there as it says, and its scores follow from its predictions."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.report import predictions
from benchmark.report.audit_numbers import SLACK
from benchmark.report.fields import Metrics
from benchmark.report.record import Record
from benchmark.storage.files import sha256_of


def wrong_files(board: Path, record: Record) -> Iterator[str]:
    """Yield what is wrong with the files that were published with a record, and with the predictions in them."""
    files = record.get("published", {})
    for name, stated in (("predictions", files.get("predictions")), ("encoder", files.get("encoder"))):
        if stated is None:
            continue
        path, field = board / stated["file"], f"published.{name}"
        if not path.is_file():
            yield f"{field}: its file {stated['file']} is missing. Restore it from version control."
        elif path.stat().st_size != stated["bytes"]:
            yield f"{field}.bytes: its file {stated['file']} was changed. Restore it from version control."
        elif sha256_of(path) != stated["sha256"]:
            yield f"{field}.sha256: its file {stated['file']} was changed. Restore it from version control."
        elif name == "predictions":
            yield from _wrong_predictions(path, record)


def predicted(classes: NDArray[Any], name: str, result: Metrics) -> list[str]:
    """Return the fields of all draws of an evaluation; none where some are not among the published predictions."""
    fields = [predictions.of_draw(name, draw) for draw in range(len(result["draws"]))] or [name]
    return fields if set(fields) <= set(classes.dtype.names or ()) else []


def _wrong_predictions(path: Path, record: Record) -> Iterator[str]:
    """Yield the scores that are not those of the predictions."""
    try:
        classes = predictions.read(path)
    except BenchmarkError as problem:
        yield str(problem)
        return
    kinds = {classes.dtype[name].kind for name in classes.dtype.names or ()}
    if classes.shape != (record["dataset"]["sizes"]["test"],) or kinds != {"u"}:
        yield f"dataset.sizes.test: {path.name} has no class for each of {record['dataset']['sizes']['test']:,} images."
        return
    labels, count = classes[predictions.LABEL].astype(np.intp), record["dataset"]["classes"]
    highest = max((int(classes[name].max(initial=0)) for name in classes.dtype.names or ()), default=0)
    if highest >= count:
        yield f"dataset.classes: {count}, but {path.name} has the class {highest}."
        return
    expected: dict[str, tuple[str, float]] = {}
    for name, result in record["metrics"].items():
        draws = {predictions.of_draw(name, draw): ("draws", top1) for draw, top1 in enumerate(result["draws"])}
        expected |= {field: (f"metrics.{name}.{score}", top1) for field, (score, top1) in draws.items()}
        expected.setdefault(name, (f"metrics.{name}.top1", result["top1"]))
    for name in classes.dtype.names or ():
        if name == predictions.LABEL:
            continue
        field, top1 = expected.get(name, (f"metrics.{name}", math.inf))
        correct = float((classes[name] == labels).mean())
        if abs(correct - top1) > SLACK:
            yield f"{field}: {path.name}: {name} has the accuracy {correct:g}, which is not that of the record."
    sizes = np.bincount(labels, minlength=count)
    is_even = len(set(sizes.tolist())) == 1
    for name, result in record["metrics"].items():
        fields = predicted(classes, name, result)
        scores = [_scores(labels, classes[field].astype(np.intp), count) for field in fields]
        for place, score in enumerate(("macro_f1", "balanced_accuracy")):
            value = {"macro_f1": result["macro_f1"], "balanced_accuracy": result["balanced_accuracy"]}[score]
            if scores and abs(value - math.fsum(each[place] for each in scores) / len(scores)) > SLACK:
                yield f"metrics.{name}.{score}: {value:g} does not follow from {path.name}."
        if is_even and not scores and abs(result["balanced_accuracy"] - result["top1"]) > SLACK:
            yield f"metrics.{name}.balanced_accuracy: is not top1, but all classes have as many test images."


def _scores(labels: NDArray[Any], classes: NDArray[Any], count: int) -> tuple[float, float]:
    """Return macro-F1, over the classes that occur, and the mean recall of the classes of the test images."""
    confusion = np.bincount(labels * count + classes, minlength=count * count).reshape(count, count)
    correct, actual, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    occurs = actual + guessed > 0
    f1 = 2 * correct[occurs] / (actual + guessed)[occurs]
    return float(f1.mean()), float((correct[actual > 0] / actual[actual > 0]).mean())
