"""What a run leaves on its board beside the record: its predictions, and the encoder of seed 0.

Trials leave nothing: they choose a learning rate, and no table compares them image by image. An encoder that was only
evaluated leaves its predictions.
"""

import hashlib
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from benchmark.report import predictions
from benchmark.report.fields import Checkpoint, Predictions, Published, PublishedFile
from benchmark.report.record import Record, pretrained, stem
from benchmark.storage.files import sha256_of, write_once

MOST_BYTES = 1_000_000  # of an encoder in float16: half a million parameters, as on the boards of a processor


def publish(record: Record, labels: Tensor | None, folder: Path, board: Path) -> Published:
    """Write the files of a run from its folder to the board; print a line for each that is left out or cut.

    `labels` are those of the test images, in the order of the data set. Predictions for images with several labels are
    not published: they would not show the mean average precision.
    """
    files: Published = {}
    if record["division"] == "trial":
        return files
    if labels is not None and labels.ndim == 1 and (file := _predictions(record, labels, folder, board)):
        files["predictions"] = file
    is_first = record["seed"] == 0 and record["status"] == "ok" and pretrained(record)
    if is_first and (file := _encoder(record, folder, board)):
        files["encoder"] = file
    return files


def _predictions(record: Record, labels: Tensor, folder: Path, board: Path) -> PublishedFile | None:
    path = _sound(record["predictions"], folder, "predictions")
    if path is None:
        return None
    fields = predictions.fields_of({name: ranking.numpy() for name, ranking in load_file(path).items()})
    content, count = predictions.pack(labels.numpy(), fields)
    if count < len(fields):
        kept, left_out = (", ".join(names) or "none" for names in (list(fields)[:count], list(fields)[count:]))
        print(f"published predictions: {kept}; left out, to stay within {predictions.MOST_BYTES:,} bytes: {left_out}")
    return _write(record, content, board, "predictions", "npz") if count else None


def _encoder(record: Record, folder: Path, board: Path) -> PublishedFile | None:
    path = _sound(record["checkpoint"], folder, "encoder")
    if path is None:
        return None
    content = save({name: _halved(part) for name, part in load_file(path).items()})
    if len(content) > MOST_BYTES:
        print(f"encoder not published: {len(content):,} bytes in float16; the most is {MOST_BYTES:,}")
        return None
    return _write(record, content, board, "encoders", "safetensors")


def _halved(part: Tensor) -> Tensor:
    """Return a tensor in float16, or as it is where it holds integers or values that float16 cannot hold."""
    half = part.half() if part.is_floating_point() else part
    return half if bool(half.isfinite().all()) else part


def _sound(stated: Predictions | Checkpoint | None, folder: Path, what: str) -> Path | None:
    """Return the file that a record states if the folder has it, as it was recorded."""
    if stated is None:
        return None
    path = folder / stated["file"]
    if path.is_file() and sha256_of(path) == stated["sha256"]:
        return path
    print(f"{what} not published: {path} is not there as it was recorded")
    return None


def _write(record: Record, content: bytes, board: Path, place: str, suffix: str) -> PublishedFile:
    """Write a file that is named as the record is, with its own hash in place of the record's id."""
    digest = hashlib.sha256(content).hexdigest()
    path = write_once(board / place / f"{stem(record)}-{digest[:8]}.{suffix}", content)
    return {"file": f"{place}/{path.name}", "sha256": digest, "bytes": len(content)}
