"""What a run would do, before it is made."""

from pathlib import Path

import torch
from tabulate import tabulate

from benchmark.config.load import Config
from benchmark.experiment import describe
from benchmark.experiment.stage import Stage
from benchmark.experiment.teacher import teacher_from_file


def dry_run(config: Config, out: Path) -> str:
    """Return what a run would do: its resolved configuration, data, parameters, and what the budget buys.

    For a budget in device seconds a step is calibrated, and the result is kept in `out` for the run.
    """
    stage = Stage.open(config, out)
    stage.check()
    teacher_from_file(stage)
    flops, steps = stage.flops, stage.steps
    with torch.device("meta"):
        method, _ = stage.method()
    data, batch = stage.dataset, stage.pretraining.batch_size
    images = steps * batch
    facts = {
        "data": f"{data.name}, {len(data.pretrain):,} images to pretrain on, {len(data.train.images):,} train, "
        f"{len(data.test.images):,} test, {data.size} px, {len(data.classes)} classes, "
        f"fingerprint {data.fingerprint[:16]}",
        "encoder": f"{method.encoder.name}, {describe.parameters(method.encoder):,} parameters, "
        f"{method.encoder.width} features",
        "method": f"{stage.pretraining.name}, {describe.parameters(method):,} parameters, {len(stage.sides)} view(s)",
        "start": stage.start.name if stage.start else "",
        "teacher": _teacher_stage(stage),
        "step": f"{batch} images, {flops:,} FLOPs",
        "budget": f"{stage.budget.amount:g} {stage.budget.kind} buys {steps:,} steps, "
        f"{images:,} images, {images / len(data.pretrain):.1f} epochs, {steps * flops / 1e12:.3f} TFLOPs",
        "device": f"{stage.device}, {torch.get_num_threads()} threads, {stage.pretraining.precision}",
        "key": stage.key,
    }
    facts = {name: fact for name, fact in facts.items() if fact}
    return f"{config.text}\n{tabulate(facts.items(), tablefmt='plain', disable_numparse=True)}"


def _teacher_stage(stage: Stage) -> str:
    """Describe the teacher; empty where there is none."""
    if stage.experiment.teacher_weights is not None:
        return f"weights of {stage.experiment.teacher_weights}"
    if stage.teacher is None:
        return ""
    flops, steps = stage.teacher.flops, stage.teacher.steps
    return f"{stage.teacher.pretraining.name}, {steps:,} steps first, {steps * flops / 1e12:.3f} TFLOPs of the budget"
