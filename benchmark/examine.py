"""Evaluate an encoder that exists: one of our runs, or weights from elsewhere."""

import time
from pathlib import Path

from benchmark import describe, floors, progress
from benchmark.conclude import conclude
from benchmark.config import Config
from benchmark.errors import ConfigError
from benchmark.evals import harness, layouts
from benchmark.examination import Examination
from benchmark.folders import check_folders, make_folder
from benchmark.report import record as records
from benchmark.report.identity import canonical, digest, references
from benchmark.report.record import Record
from benchmark.report.store import FIRST_VERSION, PRETRAINING, key_of, versions_of
from benchmark.subject import Subject
from benchmark.training.budget import Ledger


def examine(config: Config, subject: Subject, *, out: Path, publish: Path | None = None) -> Record:
    """Evaluate, record in the division `open`, print the row beside its floors, and return the record.

    What can be refused is refused before an image is decoded.
    """
    check_folders(out, publish)
    examination = Examination.open(config, out)
    if not examination.evaluations:
        raise ConfigError("experiment.evaluations is empty: name what to evaluate, for instance (@KNN, @Linear).")
    with progress.doing("building the encoder"):  # timm may fetch its weights
        encoder = examination.encoder()
    if subject.weights:
        layouts.load(encoder, str(subject.weights), subject.layout)
    folder = out / "evaluations"
    # equal weights are not equal features: an encoder may split them into another number of heads
    built = digest(config.canonical.part(["experiment.encoder"]))[:16]
    for place in (folder, publish):
        if place:
            make_folder(place)
    encoder.to(examination.device)
    below = floors.measure(examination)  # first, since random weights take as long as those of the subject
    if below:
        print(f"about {progress.duration(below[0]['cost']['evaluation_seconds'])} of evaluation")
    begin = time.perf_counter()
    with progress.doing(f"evaluating {subject.named(encoder)['name']}"):
        results = harness.evaluate_encoder(
            encoder,
            examination.dataset,
            examination.evaluations,
            examination.device,
            limits=examination.experiment.limits(),
            statistics=layouts.statistics(subject.layout) if subject.weights else encoder.statistics,
            cache=out / "features" / built,
            folder=folder / built,
            diverged=subject.run is not None and subject.run["status"] == "diverged",
        )
    seconds = time.perf_counter() - begin
    weights = describe.weights(subject.weights) if subject.weights else None
    run = subject.run
    origin = key_of(run) if run else weights["sha256"] if weights else ""  # seeds of a run share a line
    key = config.key(examination.dataset.fingerprint, origin)
    record = records.seal(
        examination.shared(encoder, examination.versions | (_trained_by(run) if run else {}))
        | {
            "status": run["status"] if run else "ok",
            "division": "open",
            "board": None,
            "method": subject.named(encoder),
            "config": {"key": key, "text": config.text, "varied": run["config"]["varied"] if run else []},
            "budget": run["budget"] if run else None,
            "cost": (run["cost"] if run else describe.cost(Ledger(), 0, 0.0)) | {"evaluation_seconds": seconds},
            "training": run["training"] if run else describe.UNTRAINED,
            "teacher": run["teacher"] if run else None,
            "metrics": results.metrics,
            "predictions": results.save(folder / f"{key[:16]}-s{examination.experiment.seed}.safetensors"),
            "floors": [floor["id"] for floor in below],
            "checkpoint": weights,
        }
    )
    return conclude(record, below, folder, publish)


def _trained_by(run: Record) -> dict[str, str]:
    """Return the versions of the code that trained the encoder of a run; those that scored it are left out."""
    lines = canonical(run["config"]["text"]).lines
    scored = {name.rpartition("/")[2] for name in references(lines, ["experiment.evaluations"])}
    known = {PRETRAINING: FIRST_VERSION} | versions_of(run)
    return {name: version for name, version in known.items() if name not in scored}
