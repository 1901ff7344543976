"""Evaluate an encoder that exists: that of a run, or weights from elsewhere."""

import sys
import time
from pathlib import Path
from typing import Any

from benchmark.config.load import Config
from benchmark.errors import ConfigError
from benchmark.experiment import describe, floors
from benchmark.experiment.session import Session
from benchmark.experiment.start import statistics_of
from benchmark.experiment.trained import TrainedEncoder
from benchmark.nets import pretrained
from benchmark.report.cells import FIRST_VERSION, PRETRAINING, files_outside, key_of, versions_of
from benchmark.report.identity import canonical, digest, references
from benchmark.report.record import Record, pretrained_on
from benchmark.runtime import progress
from benchmark.storage.files import check_folders, make_folder
from benchmark.training.budget import Ledger

OF_TRAINING = ("status", "budget", "training", "teacher", "start")  # fields that are copied from the record of the run


def evaluate(config: Config, trained: TrainedEncoder, *, out: Path, publish: Path | None = None) -> Record:
    """Evaluate, record in the division `open`, print the row beside its floors, and return the record.

    Refusals come before an image is decoded.
    """
    check_folders(out, publish)
    session = Session.open(config, out)
    if not session.evaluations:
        raise ConfigError("experiment.evaluations is empty: name what to evaluate, for instance (@KNN, @Linear).")
    if lacking := [each.name for each in session.evaluations if getattr(each, "needs_projector", False)]:
        lack = f"{', '.join(lacking)} is left out: it needs a projector, which only benchmark.run has"
        if len(lacking) == len(session.evaluations):
            raise ConfigError(f"{lack}. Nothing is left to score: name other evaluations.")
        print(f"note: {lack}.", file=sys.stderr)
    with progress.doing("building the encoder"):  # timm may fetch its weights
        encoder = session.encoder()
    diverged = trained.run is not None and trained.run["status"] == "diverged"
    if trained.weights:
        encoder.positions = pretrained.load(
            encoder, str(trained.weights), trained.layout, interpolated=session.outline.has_regions, diverged=diverged
        )
        stated = trained.run and statistics_of(trained.run)
        encoder.statistics = stated or pretrained.statistics(trained.layout, encoder)
    session.fitted(encoder)
    if encoder.positions:
        print(f"positions interpolated: {encoder.positions}")
    folder = out / "evaluations"
    # part of the paths, since equal weights split into another number of heads give other features
    architecture = digest(config.canonical.part(["experiment.encoder"]))[:16]
    for place in (folder, publish):
        if place:
            make_folder(place)
    encoder.to(session.device)
    floor_records = floors.measure(session)  # first, since they tell how long the encoder will take
    if floor_records:
        print(f"about {progress.duration(floor_records[0]['cost']['evaluation_seconds'])} of evaluation")
    run = trained.run
    of_training: dict[str, Any] = {name: value for name, value in run.items() if name in OF_TRAINING} if run else {}
    if run and pretrained_on(run)["fingerprint"] != session.dataset.fingerprint:
        of_training["pretrained_on"] = pretrained_on(run)
        encoder.statistics = statistics_of(run, run["dataset"])  # it expects the inputs that it was trained on
    name = trained.title(encoder.name)
    begin = time.perf_counter()
    with progress.doing(f"evaluating {name}"):
        results = session.evaluate(
            encoder,
            cache=out / "features" / architecture,
            folder=folder / architecture,
            diverged=diverged,
        )
    seconds = time.perf_counter() - begin
    weights = describe.weights(trained.weights) if trained.weights else None
    outside = files_outside(run) if run else None
    origin = key_of(run) if run else weights["sha256"] if weights else ""  # the same for all seeds of a run
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
        floors=[floor["id"] for floor in floor_records],
        checkpoint=weights,
        **of_training,
    )
    return describe.finish(record, floor_records, folder, publish, session.dataset.test.labels)


def _trained_by(run: Record) -> dict[str, str]:
    """Return the versions of the code that trained the encoder of a run, without those of its evaluations."""
    lines = canonical(run["config"]["text"]).lines
    evaluations = {name.rpartition("/")[2] for name in references(lines, ["experiment.evaluations"])}
    versions = {PRETRAINING: FIRST_VERSION} | versions_of(run)
    return {name: version for name, version in versions.items() if name not in evaluations}
