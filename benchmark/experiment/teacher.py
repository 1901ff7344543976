"""The first before: a teacher that is pretrained under the same budget, or weights that come from elsewhere."""

import sys
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmark.errors import ConfigError
from benchmark.experiment.stage import Stage, digest_of
from benchmark.method import Method
from benchmark.nets.encoders import Encoder
from benchmark.report import fields
from benchmark.runtime import progress
from benchmark.storage.files import alone, sha256_of
from benchmark.training.budget import Ledger


@dataclass(frozen=True)
class Teacher:
    """A trained encoder, the method that trained it, what that cost, and what records say of it."""

    encoder: Encoder
    method: Method | None
    ledger: Ledger
    record: fields.Teacher


def teach(student: Stage, *, resume: bool, fresh: bool, checkpoint_seconds: float) -> Teacher | None:
    """Pretrain the teacher of a stage; None where none is trained.

    A teacher that is finished is used again, which saves its time but not its charge.
    """
    first = student.teacher
    if first is None:
        return None
    with alone(first.folder), progress.doing("teacher"):
        return _taught(student, first, resume=resume, fresh=fresh, checkpoint_seconds=checkpoint_seconds)


def _taught(student: Stage, first: Stage, *, resume: bool, fresh: bool, checkpoint_seconds: float) -> Teacher:
    finished = first.weights.is_file()
    first.claim(resume=resume or finished, fresh=fresh, finished=finished)
    flops, steps = first.price.flops, first.steps
    name, tera = first.pretraining.name, steps * flops / 1e12
    print(f"teacher: {name}, {steps:,} steps, {tera:.3f} TFLOPs; writing to {first.folder}")
    training = first.training(checkpoint_seconds)
    outcome = training.run(resume or finished)
    if outcome.status != "ok":
        print(
            f"warning: the teacher ended at step {training.step} of {steps} with the status {outcome.status!r}, and "
            f"the student learns from what it was then; look at {first.folder / 'metrics.jsonl'}.",
            file=sys.stderr,
        )
    weights = first.export(training.method.encoder)
    facts: fields.Teacher = {
        "key": first.key,
        "share": student.experiment.teacher_share,
        "digest": sha256_of(weights),
    }
    return Teacher(training.method.encoder, training.method, training.ledger, facts)


def foreign(student: Stage) -> Teacher | None:
    """Read the teacher's weights from elsewhere into an encoder of the experiment's; None where none are given."""
    file = student.experiment.teacher_weights
    if file is None:
        return None
    digest = digest_of(file)
    encoder = student.encoder().to(student.device)
    try:
        encoder.net.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as problem:
        raise ConfigError(
            f"experiment.teacher_weights = {file!r} are not the weights of {encoder.name}: {problem} "
            f"Give the encoder.safetensors of a run with this encoder and image size."
        ) from problem
    return Teacher(encoder, None, Ledger(), {"key": None, "share": 0.0, "digest": digest})
