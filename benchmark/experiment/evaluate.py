"""Evaluate an encoder that exists: that of a run, or weights from elsewhere."""

import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmark.config.load import Config
from benchmark.errors import ConfigError
from benchmark.experiment import describe, floors
from benchmark.experiment.session import Session
from benchmark.experiment.start import statistics_of
from benchmark.experiment.trained import TrainedEncoder
from benchmark.nets import pretrained
from benchmark.report.cells import FIRST_VERSION, PRETRAINING, by_age, files_outside, key_of, platform, versions_of
from benchmark.report.fields import Predictions
from benchmark.report.identity import canonical, digest, references
from benchmark.report.record import Record, file_name, pretrained_on, read, seal
from benchmark.runtime import progress
from benchmark.runtime.ending import OTHERS
from benchmark.storage.digest import digest as digest_of
from benchmark.storage.files import check_folders, make_folder, sha256_of
from benchmark.training.budget import Ledger

OF_EVALUATION = ("id", "created_utc", "metrics", "predictions", "floors")  # fields that come with its end
OF_TRAINING = ("status", "budget", "training", "teacher", "start")  # fields that are copied from the record of the run


def evaluate(
    config: Config, trained: TrainedEncoder, *, out: Path, publish: Path | None = None, fresh: bool = False
) -> Record:
    """Evaluate, record in the division `open`, print the row beside its floors, and return the record.

    What was evaluated before, by the same code, is not repeated but shown, and published if asked; `fresh` repeats it.
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
    run, name = trained.run, trained.title(encoder.name)
    of_training: dict[str, Any] = {field: value for field, value in run.items() if field in OF_TRAINING} if run else {}
    if run and pretrained_on(run)["fingerprint"] != session.dataset.fingerprint:
        of_training["pretrained_on"] = pretrained_on(run)
        encoder.statistics = statistics_of(run, run["dataset"])  # it expects the inputs that it was trained on
    weights = describe.weights(trained.weights) if trained.weights else None
    outside = files_outside(run) if run else None
    origin = key_of(run) if run else weights["sha256"] if weights else ""  # the same for all seeds of a run
    key = config.key(session.dataset.fingerprint, origin)
    network = sha256(repr((key, digest_of(encoder.state_dict()), encoder, encoder.statistics)).encode()).hexdigest()
    predictions = folder / f"{network[:16]}-s{session.experiment.seed}.safetensors"
    encoder.to(session.device)
    floor_records = floors.measure(session)  # first, since they tell how long the encoder will take

    def described(seconds: float, **found: Any) -> Record:
        return describe.record(
            session,
            encoder,
            session.versions | (_trained_by(run) if run else {}),
            division="open",
            method={**(run["method"] if run else describe.method(name)), "name": name, "module_sha256": outside},
            key=key,
            varied=run["config"]["varied"] if run else (),
            cost={**(run["cost"] if run else describe.cost(Ledger(), 0, 0.0)), "evaluation_seconds": seconds},
            floors=[floor["id"] for floor in floor_records],
            checkpoint=weights,
            **of_training,
            **found,
        )

    if not (fresh or OTHERS):  # of modules of others nothing tells whether they have changed
        of_key = by_age(map(read, folder.glob(f"*-s{session.experiment.seed}-{key[:8]}-*.json")))
        planned = described(0.0)
        if former := [record for record in of_key if _same(record, planned) and _has(record, predictions)]:
            place = folder / file_name(former[-1])
            print(f"This evaluation is finished, in {place}; it is not repeated. --fresh repeats it.")
            shown = seal({**former[-1], "floors": planned["floors"]})
            return describe.finish(shown, floor_records, folder, publish, session.dataset.test.labels)
    if floor_records:
        print(f"about {progress.duration(floor_records[0]['cost']['evaluation_seconds'])} of evaluation")
    begin = time.perf_counter()
    with progress.doing(f"evaluating {name}"):
        results = session.evaluate(
            encoder,
            cache=out / "features" / architecture,
            folder=folder / architecture,
            diverged=diverged,
        )
    seconds = time.perf_counter() - begin
    record = described(seconds, metrics=results.metrics, predictions=results.save(predictions))
    return describe.finish(record, floor_records, folder, publish, session.dataset.test.labels)


def _same(record: Record, planned: Record) -> bool:
    """Return whether a record is of an evaluation that is planned, by the same code on the same machine."""

    def of_plan(each: Record) -> dict[str, object]:
        fields = {name: value for name, value in each.items() if name not in OF_EVALUATION}
        cost = {**each["cost"], "evaluation_seconds": 0.0}
        return {**fields, "cost": cost, "environment": platform(each), "code": versions_of(each)}

    return of_plan(record) == of_plan(planned)


def _has(record: Record, predictions: Path) -> bool:
    """Return whether the predictions of a record are this file, as it was written."""
    return predictions.is_file() and record["predictions"] == Predictions(
        file=predictions.name, sha256=sha256_of(predictions)
    )


def _trained_by(run: Record) -> dict[str, str]:
    """Return the versions of the code that trained the encoder of a run, without those of its evaluations."""
    lines = canonical(run["config"]["text"]).lines
    evaluations = {name.rpartition("/")[2] for name in references(lines, ["experiment.evaluations"])}
    versions = {PRETRAINING: FIRST_VERSION} | versions_of(run)
    return {name: version for name, version in versions.items() if name not in evaluations}
