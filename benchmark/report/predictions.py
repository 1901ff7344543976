"""Published predictions: what paired tests and confusion matrices need of a run, in a small file on its board.

The file is an .npz with the array `classes`, which has a row for each test image in the order of the data set. Its
fields are the evaluations: the class that each ranked first, beside the right one in the field `label`.

    classes = numpy.load(path)["classes"]
    accuracy = (classes["linear"] == classes["label"]).mean()

An evaluation with several draws of its training data has a field for each: `semi_probe_1 draw 0`.
"""

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.report.record import Record
from benchmark.report.section import LEADING

MOST_BYTES = 20_000  # of a file: 10,000 images of CIFAR-10 take 17,800 with the first draw of four evaluations
ARRAY = "classes"
LABEL = "label"


def fields_of(rankings: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the first class of each image by field: draw 0 of all evaluations in the order of tables, then draw 1.

    Rankings are `(n, k)`, or `(draws, n, k)`. An evaluation with a single draw has one field, as one without draws.
    """
    names = sorted(rankings, key=lambda name: (list(LEADING).index(name) if name in LEADING else len(LEADING), name))
    rankings = {name: each[0] if each.ndim == 3 and len(each) == 1 else each for name, each in rankings.items()}
    fields = {}
    for draw in range(max((len(each) for each in rankings.values() if each.ndim == 3), default=1)):
        for name in names:
            ranking = rankings[name]
            if ranking.ndim == 2 and draw == 0:
                fields[name] = ranking[:, 0]
            elif ranking.ndim == 3 and draw < len(ranking):
                fields[of_draw(name, draw)] = ranking[draw, :, 0]
    return fields


def of_draw(evaluation: str, draw: int) -> str:
    """Return the field of an evaluation on one draw of its training data."""
    return f"{evaluation} draw {draw}"


def pack(labels: NDArray[Any], fields: Mapping[str, NDArray[Any]]) -> tuple[bytes, int]:
    """Return the content of a file and how many of the fields it has: as many of the first ones as fit.

    Rows are images, since the evaluations mostly agree on an image: this takes a quarter less than a row for each
    evaluation. bzip2 gives the same bytes by all versions of its library, and less than the deflate of
    `numpy.savez_compressed`. Both can be read by `numpy.load`.
    """
    for count in range(len(fields), 0, -1):
        columns = {LABEL: labels, **dict(list(fields.items())[:count])}
        kind = np.uint8 if max(int(column.max()) for column in columns.values()) < 256 else np.uint16
        table = np.empty(len(labels), [(name, kind) for name in columns])
        for name, column in columns.items():
            table[name] = column
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_BZIP2) as archive:
            array = io.BytesIO()
            np.save(array, table, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{ARRAY}.npy"), array.getvalue(), zipfile.ZIP_BZIP2)
        if content.tell() <= MOST_BYTES:
            return content.getvalue(), count
    return b"", 0


def read(path: Path) -> NDArray[Any]:
    """Read the array of a file. Raises BenchmarkError for a file that has none."""
    try:
        with np.load(path) as archive:
            classes: NDArray[Any] = archive[ARRAY]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BenchmarkError(
            f"{path} cannot be read as predictions: {error}. Restore it from version control."
        ) from error
    if LABEL not in (classes.dtype.names or ()):
        raise BenchmarkError(f"{path} has no field {LABEL!r}. Restore it from version control.")
    return classes


def correct(folder: Path, record: Record, evaluation: str) -> NDArray[np.bool_] | None:
    """Return which test images an evaluation of a run got right; None where that is not among the published files."""
    classes = _published(folder, record, evaluation)
    return None if classes is None else classes[evaluation] == classes[LABEL]


def confusion(folder: Path, record: Record, evaluation: str) -> Counter[tuple[int, int]] | None:
    """Return the test images of each class by the class that a run predicts; None where that is not published."""
    classes = _published(folder, record, evaluation)
    return None if classes is None else Counter(classes[[LABEL, evaluation]].tolist())


def _published(folder: Path, record: Record, evaluation: str) -> NDArray[Any] | None:
    """Return the array of a published file that has the evaluation."""
    stated = record.get("published", {}).get("predictions")
    path = folder / str(record["board"]) / stated["file"] if stated else None
    if path is None or not path.is_file():
        return None
    classes = read(path)
    return classes if evaluation in (classes.dtype.names or ()) else None
