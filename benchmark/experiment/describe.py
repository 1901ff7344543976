"""Builds the records of runs, evaluations and floors, and writes them when a run ends."""

import hashlib
import inspect
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from benchmark.experiment import publication
from benchmark.experiment.environment import environment
from benchmark.experiment.session import Session
from benchmark.method import Labelled, Method
from benchmark.nets.encoders import Encoder
from benchmark.report import fields
from benchmark.report import record as records
from benchmark.report.cells import FIRST_VERSION
from benchmark.report.code import HERE, code
from benchmark.report.identity import without_paths
from benchmark.report.leaderboard import SMOKE
from benchmark.report.markdown import row
from benchmark.report.record import Record
from benchmark.report.statistics import half_width_by_images
from benchmark.storage.files import sha256_of
from benchmark.training.budget import Ledger
from benchmark.training.loop import Outcome
from benchmark.training.monitor import Probe

FEW = 200  # test images: with fewer, the interval of an accuracy is wider than 6.8 points on either side
UNTRAINED: fields.Training = {
    "loss": None,
    "logs": {},
    "digest": None,
    "collapsed": None,
    "effective_rank": None,
    "feature_std": None,
}
"""The training part of a record whose encoder was not trained here."""


def record(
    session: Session,
    net: Encoder,
    versions: Mapping[str, str],
    *,
    division: str,
    key: str,
    varied: Sequence[str] = (),
    precision: str = "float32",
    **values: Any,
) -> Record:
    """Return the sealed record of a run, an evaluation or a floor that has just ended.

    `versions` are those of the code that was used, `precision` is that of pretraining. `values` must have `method` and
    `cost`, and may replace or add any other field. Floors are recorded without paths, since they are published as they
    are.
    """
    data, text = session.dataset, session.config.text
    content = {
        "schema": records.SCHEMA,
        "created_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "status": "ok",
        "division": division,
        "board": None,
        "dataset": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": len(data.classes),
            "sizes": {"pretrain": len(data.pretrain), "train": len(data.train.images), "test": len(data.test.images)},
            "size": data.size,
            "mean": list(data.mean),
            "std": list(data.std),
            "unreadable": 0,  # loading refuses a data set with an unreadable image
        },
        "encoder": {
            "name": net.name,
            "parameters": parameters(net),
            "image_size": net.image_size,
            "patch": net.patch,
            "stem": net.stem,
            "width": net.width,
        }
        | ({"inputs": dict(zip(("mean", "std"), map(list, net.statistics), strict=True))} if net.statistics else {})
        | ({"positions": net.positions} if net.positions else {}),
        "seed": session.experiment.seed,
        "config": {"key": key, "text": without_paths(text) if division == "floor" else text, "varied": list(varied)},
        "tuning": None,
        "code": code(versions),
        "budget": None,
        "environment": environment(session.device, precision),
        "training": UNTRAINED,
        "metrics": {},
        "predictions": None,
        "floors": [],
        "teacher": None,
        "checkpoint": None,
    }
    return records.seal(content | values)


def method(name: str, *stages: Method) -> fields.Method:
    """Describe a method: its source files, and how it differs from its paper.

    `stages` are the method and, where it has one, the method of its teacher. The hash is that of the files outside this
    project, which have no version; None where there are none.
    """
    files: set[Path] = set()
    deviations = []
    for kind in _kinds(stages):
        _add_sources(sys.modules[kind.__module__], files)
        deviations += _deviations(kind)
    names = [str(file.relative_to(HERE.parent) if file.is_relative_to(HERE.parent) else file.name) for file in files]
    outside = sorted(file for file in files if not file.is_relative_to(HERE.parent))
    contents = "".join(f"{file.name}\n{sha256_of(file)}\n" for file in outside)
    digest = hashlib.sha256(contents.encode()).hexdigest() if outside else None
    described: fields.Method = {
        "name": name,
        "files": sorted(names),
        "module_sha256": digest,
        "deviations": deviations,
    }
    if any(isinstance(stage, Labelled) for stage in stages):
        described["supervised"] = True
    return described


def versions(*stages: Method) -> dict[str, str]:
    """Return the version that each class of a method and of its teacher states."""
    return {kind.__name__: vars(kind).get("version", FIRST_VERSION) for kind in _kinds(stages)}


def _kinds(stages: Iterable[Method]) -> list[type[Method]]:
    """Return the classes of methods: their own, those they extend and those they contain, but none of `benchmark`."""
    parts = [part for stage in stages for part in stage.modules() if isinstance(part, Method)]
    kinds = dict.fromkeys(kind for part in parts for kind in type(part).__mro__ if issubclass(kind, Method))
    return [kind for kind in kinds if not Path(inspect.getfile(kind)).is_relative_to(HERE)]


def _add_sources(module: ModuleType, files: set[Path]) -> None:
    """Add the file of a method's module, and those in the same folder that it imports something from."""
    source = Path(str(module.__file__))
    files.add(source)
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        imported = sys.modules.get(str(name))
        file = Path(getattr(imported, "__file__", None) or "")
        if imported and file.parent == source.parent and file not in files:
            _add_sources(imported, files)


def _deviations(kind: type[Method]) -> list[str]:
    """Return the paragraph "Differs from the paper: ..." of a method's docstring, as one sentence per clause."""
    paragraph = re.search(r"Differs from the paper: (.+?)(?:\n\n|$)", inspect.getdoc(kind) or "", re.DOTALL)
    clauses = re.split(r"; |(?<=\.) (?=[A-Z])", " ".join(paragraph.group(1).split())) if paragraph else []
    return [f"{kind.__name__}: {text[0].upper()}{text[1:].rstrip('.')}." for text in clauses if text]


def cost(
    ledger: Ledger, flops_per_step: int, evaluation_seconds: float, teacher: Ledger | None = None, devices: int = 1
) -> fields.Cost:
    """Describe what was spent, by the teacher too; `flops_per_step` is that of the method itself."""
    stages = [ledger, *([teacher] if teacher else [])]
    trained = [stage for stage in stages if stage.images]
    joules = [stage.joules for stage in trained if stage.joules is not None]
    return {
        "images": sum(stage.images for stage in stages),
        "views": sum(stage.views for stage in stages),
        "flops_per_step": flops_per_step,
        "flops": sum(stage.flops for stage in stages),
        "teacher_flops": teacher.flops if teacher else 0,
        "train_seconds": sum(stage.train_seconds for stage in stages),
        "data_wait_seconds": sum(stage.data_wait_seconds for stage in stages),
        "compile_seconds": sum(stage.compile_seconds for stage in stages),
        "evaluation_seconds": evaluation_seconds,
        "joules": math.fsum(joules) if joules and len(joules) == len(trained) else None,
        "peak_memory_bytes": max(stage.peak_memory_bytes for stage in stages) or None,
        "devices": devices,
        "resumes": sum(stage.resumes for stage in stages),
    }


def training(outcome: Outcome, probe: Probe | None = None) -> fields.Training:
    """Describe how pretraining ended, and what a probe measured on the way."""
    description: fields.Training = {
        "loss": outcome.loss,
        "logs": outcome.logs,
        "digest": outcome.digest,
        "collapsed": outcome.health.collapsed,
        "effective_rank": outcome.health.effective_rank,
        "feature_std": outcome.health.feature_std,
    }
    if probe and outcome.curve:
        points: list[fields.Point] = [{"step": step, "knn": knn} for step, knn in sorted(outcome.curve.items())]
        description["curve"] = {"bank": probe.bank, "queries": probe.queries, "points": points}
    return description


def weights(path: Path) -> fields.Checkpoint:
    """Describe a file of exported weights."""
    return {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size}


def parameters(module: nn.Module) -> int:
    """Count parameters, fixed ones included."""
    return sum(p.numel() for p in module.parameters())


def finish(
    record: Record, floors: list[Record], folder: Path, board: Path | None, test_labels: Tensor | None = None
) -> Record:
    """Write the record, publish it with its floors and files if asked, print its row, and return what was last written.

    `folder` has the record's own files. The labels stand beside the predictions that are published.
    """
    path = records.write(record, folder)
    if board:
        files = publication.publish(record, test_labels, folder, board)
        record = public({**record, "published": files} if files else record, board)
        for each in (*floors, record):
            path = records.write(each, board)
    health = "diverged" if record["status"] == "diverged" else "collapsed" if record["training"]["collapsed"] else ""
    shown = record.copy()
    if health:
        shown["method"] = {**record["method"], "name": f"{record['method']['name']} ({health})"}
    print(f"\n{row(shown, floors)}")
    if health == "collapsed":
        spread, rank = record["training"]["feature_std"] or 0, record["training"]["effective_rank"] or 0
        print(
            f"warning: the features of {record['method']['name']} collapsed: after pretraining their effective rank is "
            f"{rank:.1f} of {record['encoder']['width']} and their deviation {spread:.3f} (1 where all directions are "
            f"used). Scores of such features say little; look at the rate and the method.",
            file=sys.stderr,
        )
    if record["dataset"]["name"] in SMOKE:
        print(SMOKE[record["dataset"]["name"]])
    n = record["dataset"]["sizes"]["test"]
    if record["metrics"] and n < FEW:
        print(
            f"There are {n} test images: the 95 % interval (Wilson) around an accuracy of 50 % is "
            f"± {100 * half_width_by_images((0.5, n)):.0f} points, so small differences say nothing."
        )
    print(f"record: {path}")
    return record


def public(record: Mapping[str, Any], board: Path) -> Record:
    """Return the record as it is published: with its board, and without absolute paths, which are private."""
    config = {**record["config"], "text": without_paths(record["config"]["text"])}
    return records.seal({**record, "board": board.name, "config": config})
