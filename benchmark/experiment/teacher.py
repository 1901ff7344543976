"""The stage before: a teacher that is pretrained under the same budget, or weights that come from elsewhere."""

import sys
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmark.errors import ConfigError
from benchmark.experiment.stage import Session, digest_of
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


def teach(session: Session, *, resume: bool, fresh: bool, checkpoint_seconds: float) -> Teacher | None:
    """Pretrain the teacher of a session; None where none is trained.

    A teacher that is finished is used again, which saves its time but not its charge.
    """
    stage = session.teacher
    if stage is None:
        return None
    with alone(stage.folder), progress.doing("teacher"):
        return _taught(session, stage, resume=resume, fresh=fresh, checkpoint_seconds=checkpoint_seconds)


def _taught(session: Session, stage: Session, *, resume: bool, fresh: bool, checkpoint_seconds: float) -> Teacher:
    finished = stage.weights.is_file()
    stage.claim(resume=resume or finished, fresh=fresh, finished=finished)
    flops, steps = stage.price.flops, stage.steps
    print(f"teacher: {stage.stage.name}, {steps:,} steps, {steps * flops / 1e12:.3f} TFLOPs; writing to {stage.folder}")
    training = stage.training(checkpoint_seconds)
    outcome = training.run(resume or finished)
    if outcome.status != "ok":
        print(
            f"warning: the teacher ended at step {training.step} of {steps} with the status {outcome.status!r}, and "
            f"the student learns from what it was then; look at {stage.folder / 'metrics.jsonl'}.",
            file=sys.stderr,
        )
    weights = stage.export(training.method.encoder)
    facts: fields.Teacher = {
        "key": stage.key,
        "share": session.experiment.teacher_share,
        "digest": sha256_of(weights),
    }
    return Teacher(training.method.encoder, training.method, training.ledger, facts)


def foreign(session: Session) -> Teacher | None:
    """Read the teacher's weights from elsewhere into an encoder of the experiment's; None where none are given."""
    file = session.experiment.teacher_weights
    if file is None:
        return None
    digest = digest_of(file)
    encoder = session.encoder().to(session.device)
    try:
        encoder.net.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as problem:
        raise ConfigError(
            f"experiment.teacher_weights = {file!r} are not the weights of {encoder.name}: {problem} "
            f"Give the encoder.safetensors of a run with this encoder and image size."
        ) from problem
    return Teacher(encoder, None, Ledger(), {"key": None, "share": 0.0, "digest": digest})
