"""The teacher of a method: pretrained under the same budget, or weights from elsewhere."""

import sys
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmark.errors import ConfigError
from benchmark.experiment import folders
from benchmark.experiment.stage import Stage
from benchmark.method import Method
from benchmark.nets.encoders import Encoder
from benchmark.nets.pretrained import check_finite
from benchmark.report import fields
from benchmark.runtime import progress, ranks
from benchmark.storage.files import exclusive, sha256_of
from benchmark.training.budget import Ledger


@dataclass(frozen=True)
class Teacher:
    """A trained encoder, the method that trained it, what that cost, and its part of the record."""

    encoder: Encoder
    method: Method | None
    ledger: Ledger
    record: fields.Teacher


def teach(student: Stage, *, fresh: bool, checkpoint_seconds: float) -> Teacher | None:
    """Pretrain the teacher of a stage; None where none is trained.

    A finished teacher is used again, whether `fresh` or not: that saves its time, but its cost is charged again.
    """
    stage = student.teacher
    if stage is None:
        return None
    with exclusive(stage.folder), progress.doing("teacher"):
        fresh = fresh and not stage.weights.is_file()
        folders.prepare(stage.folder, fresh=fresh)
        steps, tera = stage.steps, stage.steps * stage.price.flops / 1e12
        print(f"teacher: {stage.pretraining.name}, {steps:,} steps, {tera:.3f} TFLOPs; writing to {stage.folder}")
        training = stage.training(checkpoint_seconds)
        ranks.told("teacher")
        outcome = training.run(resume=not fresh)
        if outcome.status != "ok":
            print(
                f"warning: the teacher ended at step {training.step} of {steps} with the status {outcome.status!r}, "
                f"and the student learns from what it was then; look at {stage.folder / 'metrics.jsonl'}.",
                file=sys.stderr,
            )
        digest = sha256_of(stage.export(training.method.encoder))
    facts: fields.Teacher = {"key": stage.key, "share": student.experiment.teacher_share, "digest": digest}
    return Teacher(training.method.encoder, training.method, training.ledger, facts)


def teacher_from_file(student: Stage) -> Teacher | None:
    """Load `experiment.teacher_weights` into an encoder of the experiment; None where none are given."""
    file = student.experiment.teacher_weights
    if file is None:
        return None
    digest = folders.digest_of(file)
    encoder = student.encoder().to(student.device)
    try:
        encoder.net.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as problem:
        raise ConfigError(
            f"experiment.teacher_weights = {file!r} are not the weights of {encoder.name}: {problem} "
            f"Give the encoder.safetensors of a run with this encoder and image size."
        ) from problem
    check_finite(encoder.net.state_dict(), f"experiment.teacher_weights = {file!r}")
    return Teacher(encoder, None, Ledger(), {"key": None, "share": 0.0, "digest": digest})
