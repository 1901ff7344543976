"""Records for the tests of the report: one complete example and ways to vary it."""

import copy
from collections.abc import Callable
from typing import Any

from benchmark.report.record import Record, seal

GIB = 2**30
RECIPE = "ab" * 32


def metrics(top1: float, **changes: Any) -> dict[str, Any]:
    """One evaluation's result with the given top-1 accuracy."""
    result = {"version": 1, "top1": top1, "top5": None, "macro_f1": top1 - 0.01, "balanced_accuracy": top1}
    result |= {"draws": [], "details": {}, "curve": []}
    return result | {"n": 500, "choices": {"l2": 1e-3, "features": "cls"}, "flags": []} | changes


EXAMPLE: dict[str, Any] = {
    "schema": 2,
    "created_utc": "2026-01-31T12:00:00Z",
    "status": "ok",
    "division": "closed",
    "board": "small",
    "method": {"name": "alpha", "files": ["baselines/alpha.py"], "module_sha256": None, "deviations": []},
    "dataset": {
        "name": "digits",
        "fingerprint": "feedc0de00",
        "classes": 10,
        "sizes": {"pretrain": 1297, "train": 1297, "test": 500},
        "size": 16,
        "mean": [0.3, 0.3, 0.3],
        "std": [0.4, 0.4, 0.4],
        "unreadable": 0,
    },
    "encoder": {"name": "vit_micro", "parameters": 345_678, "image_size": 16, "patch": 4, "stem": None, "width": 64},
    "seed": 0,
    "config": {"key": "0123456789abcdef", "text": "experiment.seed = 0\n", "varied": []},
    "tuning": None,
    "code": {
        "version": "0.1.0",
        "commit": "b" * 40,
        "dirty": False,
        "diff_sha256": None,
        "versions": {"pretraining": "1.0", "Alpha": "1.0", "KNN": "1.0", "Linear": "1.0"},
    },
    "budget": {"kind": "flops", "amount": 2e12, "steps": 200, "batch_size": 128},
    "cost": {
        "images": 25_600,
        "views": 51_200,
        "flops_per_step": 1e10,
        "flops": 2e12,
        "teacher_flops": 0.0,
        "train_seconds": 90.0,
        "data_wait_seconds": 0.5,
        "compile_seconds": 0.0,
        "evaluation_seconds": 3.0,
        "joules": None,
        "peak_memory_bytes": GIB,
        "devices": 1,
        "resumes": 0,
    },
    "environment": {
        "python": "3.11.9",
        "torch": "2.15.0",
        "torchvision": "0.30.0",
        "timm": "1.0.31",
        "cuda": None,
        "cudnn": None,
        "driver": None,
        "gpu": None,
        "processor": "Example CPU",
        "processor_flags": ["avx2"],
        "cores": 2,
        "threads": 1,
        "os": "Linux",
        "precision": "float32",
        "deterministic": True,
        "tf32": False,
    },
    "training": {
        "loss": -0.5,
        "logs": {"loss": -0.5},
        "digest": "e" * 64,
        "collapsed": False,
        "effective_rank": 20.5,
        "feature_std": 0.1,
    },
    "metrics": {"linear": metrics(0.9), "knn": metrics(0.8)},
    "predictions": {"file": "predictions.npz", "sha256": "f" * 64},
    "floors": [],
    "teacher": {"key": "00ff", "share": 0.5, "digest": None},
    "checkpoint": {"file": "encoder.safetensors", "sha256": "1" * 64, "bytes": 1_400_000},
}


def remade(record: Record, **changes: Any) -> Record:
    """A record with dotted fields changed, `remade(record, method__name="beta")`, and sealed."""
    changed = copy.deepcopy(record)
    for path, value in changes.items():
        *parents, name = path.split("__")
        place: Any = changed
        for parent in parents:
            place = place[parent]
        place[name] = value
    return seal(changed)


def make(**changes: Any) -> Record:
    """The example, changed in the same way."""
    return remade(EXAMPLE, **changes)


def run(method: str, seed: int, linear: float, knn: float = 0.5, **changes: Any) -> Record:
    """A run with its own configuration key and two evaluations."""
    key = method.encode().hex().ljust(8, "0")[:64]
    scores = {"linear": metrics(linear), "knn": metrics(knn)}
    return make(**{"method__name": method, "config__key": key, "seed": seed, "metrics": scores} | changes)


def floor(seed: int, linear: float) -> Record:
    """A record of the encoder without pretraining."""
    return run("random init", seed, linear, division="floor", board=None, budget=None)


def tuning(
    factor: float, *trials: str, recipe: str = RECIPE, flops: float = 0.0, share: float | None = None
) -> dict[str, Any]:
    """How a learning rate was chosen, by the first rule without a share; a trial names no trials."""
    chosen = {"recipe": recipe, "factor": factor, "trials": list(trials), "flops": flops, "seconds": flops / 2e10}
    return chosen if share is None else chosen | {"share": share}


def trial(factor: float, linear: float, recipe: str = RECIPE, share: float | None = None, **changes: Any) -> Record:
    """A trial by the method alpha, of the first rule without a share."""
    seed, terms = changes.pop("seed", 1000), tuning(factor, recipe=recipe, share=share)
    return run("alpha", seed, linear, **{"division": "trial", "tuning": terms} | changes)


def reworded(old: str, new: str) -> Callable[[str], str]:
    """Return what exchanges one text, which must be there, for another."""

    def exchange(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return exchange


def altered(record: Record, field: str, value: Any) -> Record:
    """Return the record with one field changed or added, and sealed anew, as by a careful forger."""
    changed: Any = copy.deepcopy(record)
    place: Any = changed
    *parents, name = field.split(".")
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    key: Any = int(name) if isinstance(place, list) else name
    new = value(place[key]) if callable(value) else value
    assert key not in (place if isinstance(place, dict) else {}) or place[key] != new
    place[key] = new
    return seal(changed)


def heads(page: str, prefix: str = "### ") -> list[str]:
    """The headings of a Markdown page that begin with a prefix."""
    return [line for line in page.splitlines() if line.startswith(prefix)]
