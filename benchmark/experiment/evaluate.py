"""Evaluate an encoder that exists: one of our runs, or weights from elsewhere."""

import time
from pathlib import Path
from typing import Any

from benchmark.config.load import Config
from benchmark.errors import ConfigError
from benchmark.evals import harness
from benchmark.experiment import describe, floors
from benchmark.experiment.session import Session
from benchmark.experiment.trained import TrainedEncoder
from benchmark.nets import pretrained
from benchmark.report.cells import FIRST_VERSION, PRETRAINING, files_outside, key_of, versions_of
from benchmark.report.identity import canonical, digest, references
from benchmark.report.record import Record
from benchmark.runtime import progress
from benchmark.storage.files import check_folders, make_folder
from benchmark.training.budget import Ledger

OF_TRAINING = ("status", "budget", "training", "teacher")  # what a record of evaluation takes from that of its run


def evaluate(config: Config, trained: TrainedEncoder, *, out: Path, publish: Path | None = None) -> Record:
    """Evaluate, record in the division `open`, print the row beside its floors, and return the record.

    What can be refused is refused before an image is decoded.
    """
    check_folders(out, publish)
    session = Session.open(config, out)
    if not session.evaluations:
        raise ConfigError("experiment.evaluations is empty: name what to evaluate, for instance (@KNN, @Linear).")
    with progress.doing("building the encoder"):  # timm may fetch its weights
        encoder = session.encoder()
    if trained.weights:
        pretrained.load(encoder, str(trained.weights), trained.layout)
    folder = out / "evaluations"
    # equal weights are not equal features: an encoder may split them into another number of heads
    built = digest(config.canonical.part(["experiment.encoder"]))[:16]
    for place in (folder, publish):
        if place:
            make_folder(place)
    encoder.to(session.device)
    below = floors.measure(session)  # first, since random weights take as long as those of the encoder
    if below:
        print(f"about {progress.duration(below[0]['cost']['evaluation_seconds'])} of evaluation")
    name = trained.title(encoder.name)
    begin = time.perf_counter()
    with progress.doing(f"evaluating {name}"):
        results = harness.evaluate_encoder(
            encoder,
            session.dataset,
            session.evaluations,
            session.device,
            limits=session.experiment.limits(),
            statistics=pretrained.statistics(trained.layout) if trained.weights else encoder.statistics,
            cache=out / "features" / built,
            folder=folder / built,
            diverged=trained.run is not None and trained.run["status"] == "diverged",
        )
    seconds = time.perf_counter() - begin
    weights = describe.weights(trained.weights) if trained.weights else None
    run = trained.run
    of_training: dict[str, Any] = {name: value for name, value in run.items() if name in OF_TRAINING} if run else {}
    outside = files_outside(run) if run else None
    origin = key_of(run) if run else weights["sha256"] if weights else ""  # seeds of a run share a line
    key = config.key(session.dataset.fingerprint, origin)
    record = describe.record(
        session,
        encoder,
        session.versions | (_trained_by(run) if run else {}),
        division="open",
        method={**(run["method"] if run else describe.method(name)), "name": name, "module_sha256": outside},
        key=key,
        varied=run["config"]["varied"] if run else (),
        cost={**(run["cost"] if run else describe.cost(Ledger(), 0, 0.0)), "evaluation_seconds": seconds},
        metrics=results.metrics,
        predictions=results.save(folder / f"{key[:16]}-s{session.experiment.seed}.safetensors"),
        floors=[floor["id"] for floor in below],
        checkpoint=weights,
        **of_training,
    )
    return describe.conclude(record, below, folder, publish)


def _trained_by(run: Record) -> dict[str, str]:
    """Return the versions of the code that trained the encoder of a run; those that scored it are left out."""
    lines = canonical(run["config"]["text"]).lines
    scored = {name.rpartition("/")[2] for name in references(lines, ["experiment.evaluations"])}
    known = {PRETRAINING: FIRST_VERSION} | versions_of(run)
    return {name: version for name, version in known.items() if name not in scored}
