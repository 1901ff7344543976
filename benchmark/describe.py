"""Live objects in the terms of a record."""

import hashlib
import inspect
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from torch import nn

from benchmark.checkout import HERE
from benchmark.data.images import Dataset
from benchmark.method import Method
from benchmark.nets.encoders import Encoder
from benchmark.report import record
from benchmark.report.store import FIRST_VERSION
from benchmark.training.budget import Ledger
from benchmark.training.loop import Outcome


def dataset(data: Dataset) -> record.Dataset:
    """Describe a data set by name, content and sizes."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": len(data.classes),
        "sizes": {"pretrain": len(data.pretrain), "train": len(data.train.images), "test": len(data.test.images)},
        "size": data.size,
        "mean": list(data.mean),
        "std": list(data.std),
        "unreadable": 0,  # loading refuses a data set with an unreadable image
    }


def encoder(net: Encoder) -> record.Encoder:
    """Describe the encoder that is evaluated."""
    return {
        "name": net.name,
        "parameters": parameters(net),
        "image_size": net.image_size,
        "patch": net.patch,
        "stem": net.stem,
        "width": net.width,
    }


def method(name: str, *stages: Method) -> record.Method:
    """Describe a method by what its own source files say: which they are, and how they differ from their papers.

    `stages` are the method and, where it has one, the method of its teacher. The hash is that of the files outside this
    project, which no version stands for; None where there are none.
    """
    files: set[Path] = set()
    deviations = []
    for kind in _kinds(stages):
        files |= _sources(sys.modules[kind.__module__], files)
        deviations += deviations_of(kind)
    names = [str(file.relative_to(HERE.parent) if file.is_relative_to(HERE.parent) else file.name) for file in files]
    outside = sorted(file for file in files if not file.is_relative_to(HERE.parent))
    contents = "".join(f"{file.name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in outside)
    own = hashlib.sha256(contents.encode()).hexdigest() if outside else None
    return {"name": name, "files": sorted(names), "module_sha256": own, "deviations": deviations}


def versions(*stages: Method) -> dict[str, str]:
    """Return the versions of the classes of a method and of its teacher's, each as its own body states it."""
    return {kind.__name__: vars(kind).get("version", FIRST_VERSION) for kind in _kinds(stages)}


def _kinds(stages: Iterable[Method]) -> list[type[Method]]:
    """Return the classes that make up methods, those they extend and those they contain, without our own frame."""
    parts = [part for stage in stages for part in stage.modules() if isinstance(part, Method)]
    kinds = dict.fromkeys(kind for part in parts for kind in type(part).__mro__ if issubclass(kind, Method))
    return [kind for kind in kinds if not Path(inspect.getfile(kind)).is_relative_to(HERE)]


def _sources(module: ModuleType, known: set[Path]) -> set[Path]:
    """Return the files that a method's module runs: its own, and those beside it that it takes something from."""
    source = Path(str(module.__file__))
    found = known | {source}
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        other = sys.modules.get(str(name))
        file = Path(getattr(other, "__file__", None) or "")
        if other and file.parent == source.parent and file not in found:
            found |= _sources(other, found)
    return found


def deviations_of(kind: type[Method]) -> list[str]:
    """Return the paragraph "Differs from the paper: ..." of a method's docstring, as one sentence per clause."""
    found = re.search(r"Differs from the paper: (.+?)(?:\n\n|$)", inspect.getdoc(kind) or "", re.DOTALL)
    text = " ".join(found.group(1).split()) if found else ""
    return [
        f"{kind.__name__}: {part[0].upper()}{part[1:].rstrip('.')}."
        for part in re.split(r"; |(?<=\.) (?=[A-Z])", text)
        if part
    ]


def cost(ledger: Ledger, flops_per_step: int, evaluation_seconds: float, teacher: Ledger | None = None) -> record.Cost:
    """Describe what was spent, the teacher's part included; `flops_per_step` is that of the method itself."""
    stages = [ledger, *([teacher] if teacher else [])]
    measured = [stage.joules for stage in stages if stage.joules is not None]
    peak = max(stage.peak_memory_bytes for stage in stages)
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
        "joules": math.fsum(measured) if measured else None,
        "peak_memory_bytes": peak or None,
        "devices": 1,
        "resumes": sum(stage.resumes for stage in stages),
    }


def training(outcome: Outcome) -> record.Training:
    """Describe how pretraining ended."""
    return {
        "loss": outcome.loss,
        "logs": outcome.logs,
        "digest": outcome.digest,
        "collapsed": outcome.health.collapsed,
        "effective_rank": outcome.health.effective_rank,
        "feature_std": outcome.health.feature_std,
    }


UNTRAINED: record.Training = {
    "loss": None,
    "logs": {},
    "digest": None,
    "collapsed": None,
    "effective_rank": None,
    "feature_std": None,
}
"""What a record says of the training of an encoder that was not trained here."""


def weights(path: Path) -> record.Checkpoint:
    """Describe a file of exported weights."""
    content = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def parameters(module: nn.Module) -> int:
    """Count parameters, fixed ones included."""
    return sum(p.numel() for p in module.parameters())
