"""The hall: seed, build, plan the budget, pretrain, evaluate, record. The only module that sees the whole."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmark.config.load import Config
from benchmark.errors import BenchmarkError, ConfigError, Interrupted, MethodError, Stopped, by
from benchmark.evals import harness
from benchmark.experiment import describe, floors
from benchmark.experiment.environment import warning_of_emulation, warning_of_load
from benchmark.experiment.stage import Stage
from benchmark.experiment.teacher import foreign, teach
from benchmark.report import record as records
from benchmark.report.cells import UNDONE, files_outside, load, of_run
from benchmark.report.code import changed
from benchmark.report.fields import Cost, Tuning
from benchmark.report.record import Record
from benchmark.report.tuning import Contest, contests, fingerprint_without_test
from benchmark.runtime import progress
from benchmark.storage.files import alone, check_folders, make_folder


def dry_run(config: Config, out: Path) -> str:
    """Return what a run would do: resolved configuration, data found, parameters, and what the budget buys.

    For a budget in device seconds the step is calibrated, and the result kept in `out` for the run.
    """
    stage = Stage.open(config, out)
    stage.check()
    foreign(stage)
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
        "method": f"{stage.pretraining.name}, {describe.parameters(method):,} parameters, {method.n_views} view(s)",
        "teacher": _teacher_stage(stage),
        "step": f"{batch} images, {flops:,} FLOPs",
        "budget": f"{stage.budget.amount:g} {stage.budget.kind} buys {steps:,} steps, "
        f"{images:,} images, {images / len(data.pretrain):.1f} epochs, {steps * flops / 1e12:.3f} TFLOPs",
        "device": f"{stage.device}, {torch.get_num_threads()} threads, {stage.pretraining.precision}",
        "key": stage.key,
    }
    facts = {name: fact for name, fact in facts.items() if fact}
    width = max(map(len, facts))
    return config.text + "\n" + "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def _teacher_stage(stage: Stage) -> str:
    """Say what comes before the stage of the method; empty where nothing does."""
    if stage.experiment.teacher_weights is not None:
        return f"weights of {stage.experiment.teacher_weights}"
    if stage.teacher is None:
        return ""
    flops, steps = stage.teacher.flops, stage.teacher.steps
    return f"{stage.teacher.pretraining.name}, {steps:,} steps first, {steps * flops / 1e12:.3f} TFLOPs of the budget"


def stands(record: Record) -> bool:
    """Return whether a run need not be made again: it came to its end, on its own budget, and by the code of now."""
    return record["status"] not in UNDONE and not changed(record)


def run(
    config: Config,
    *,
    out: Path,
    resume: bool = False,
    fresh: bool = False,
    checkpoint_seconds: float = 600.0,
    publish: Path | None = None,
    varied: Sequence[str] = (),
    trials: Path | None = None,
) -> Record:
    """Pretrain, evaluate and record one experiment; print its row and return its record.

    `varied` are those bindings of the configuration that a table shall name, since they tell this run from others of
    its method. `trials` is a folder with the records of those that the rate was chosen from, which puts the run into
    the division `tuned`.
    A finished run is not repeated but shown, and published if asked; `fresh` repeats it. Where its record does not
    stand, it is made again, and what it left is kept in a folder beside, named by its id.
    Waits for another process that is at work on the same run.
    Raises ConfigError where an unfinished run of the same configuration and seed lies in the way, or where the trials
    are not all there or chose another rate.
    """
    if resume and fresh:
        raise ConfigError("--resume continues a run and --fresh starts it over; give one of them.")
    check_folders(out, publish)
    stage = Stage.open(config, out)
    stage.check()
    teacher = foreign(stage)
    division, tuning = _entered(stage, trials)
    folder = stage.folder

    def repeated() -> Record | None:
        finished = [] if fresh else of_run(folder)
        standing = [record for record in finished if stands(record) and files_outside(record) == stage.made_by]
        if not standing:
            return None
        print(f"This run is finished, in {folder}; it is not repeated. --fresh repeats it.")
        newest = standing[-1]
        named = newest["config"] | {"varied": list(varied)}  # a sweep may pass through a recipe
        below = floors.measure(stage)
        own = {"division": division, "tuning": tuning, "config": named, "floors": [floor["id"] for floor in below]}
        return _closing(records.seal(newest | own), below, folder, publish)

    if record := repeated():
        return record
    flops, steps = stage.flops, stage.steps
    training = stage.training(checkpoint_seconds)  # before anything is written, as it refuses what cannot be built
    if publish:
        make_folder(publish)
    with alone(folder), _told(*[each.folder for each in (stage, stage.teacher) if each]):
        if record := repeated():  # by a process that was at work on it
            return record
        finished = of_run(folder)
        if finished and not fresh:
            _set_aside(folder, finished[-1], stage.made_by)
        stage.claim(resume=resume, fresh=fresh, finished=bool(finished))
        print(_opening(stage, flops, steps))
        for warning in filter(None, (warning_of_emulation(stage.precision), warning_of_load())):
            print(f"warning: {warning}", file=sys.stderr)
        (folder / "config.gin").write_text(config.text)
        below = floors.measure(stage)  # first, since what fails here fails after hours of training too
        teacher = teacher or teach(stage, resume=resume, fresh=fresh, checkpoint_seconds=checkpoint_seconds)
        if teacher:
            training = stage.training(checkpoint_seconds, teacher.encoder)
        encoder, budget = training.method.encoder, stage.whole_budget
        stages = [training.method, *([teacher.method] if teacher and teacher.method else [])]
        run_record = partial(
            describe.record,
            stage,
            encoder,
            stage.all_versions,
            division=division,
            method=describe.method(stage.pretraining.name, *stages),
            key=stage.key,
            varied=varied,
            precision=stage.precision,
            budget={
                "kind": budget.kind,
                "amount": float(budget.amount),
                "steps": steps,
                "batch_size": stage.pretraining.batch_size,
            },
            tuning=tuning,
            teacher=teacher.record if teacher else None,
        )

        def spent(evaluation_seconds: float) -> Cost:
            return describe.cost(training.ledger, flops, evaluation_seconds, teacher.ledger if teacher else None)

        try:
            training.evaluation_seconds = below[0]["cost"]["evaluation_seconds"] if below else None
            outcome = training.run(resume)
            begin = time.perf_counter()
            with progress.doing(f"evaluating {stage.pretraining.name}"):
                results = harness.evaluate_encoder(
                    encoder,
                    stage.dataset,
                    stage.evaluations,
                    stage.device,
                    limits=stage.experiment.limits(),
                    projector=training.method.projection_head(),
                    folder=folder / "evaluations",
                    diverged=outcome.status == "diverged",
                )
            seconds = time.perf_counter() - begin
        except Exception as problem:
            is_answer = isinstance(problem, BenchmarkError) and not isinstance(problem, MethodError)
            if publish and not is_answer:  # neither stopped on request nor refused
                # the folder of the run gets no record, so that it can be resumed
                failure = describe.public(run_record(status="failed", cost=spent(0.0)), publish)
                print(f"The run failed; record: {records.write(failure, publish)}")
            raise
        weights = stage.export(encoder)
        cost = spent(seconds)
        record = run_record(
            status=budget.verdict(cost["train_seconds"]) if outcome.status == "ok" else outcome.status,
            cost=cost,
            training=describe.training(outcome),
            metrics=results.metrics,
            predictions=results.save(folder / "predictions.safetensors"),
            floors=[floor["id"] for floor in below],
            checkpoint=describe.weights(weights),
        )
        return _closing(record, below, folder, publish)


@contextmanager
def _told(*stages: Path) -> Iterator[None]:
    """Say of a run that is stopped outside its training whether there is something to resume."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if any(path for stage in stages for path in stage.glob("checkpoints/*.pt")):
            raise Interrupted(
                f"Stopped{by(stop)}. The training goes on from its last checkpoint: continue with the same command and "
                f"--resume."
            ) from None
        raise Stopped(
            f"Stopped{by(stop)} before the first checkpoint, so there is nothing to resume. Give the same command "
            f"again."
        ) from None


def _set_aside(folder: Path, record: Record, now: str | None) -> None:
    """Rename the folder of a finished run, so that its successor neither takes nor replaces what is in it."""
    parts = [*changed(record), *([] if files_outside(record) == now else ["the file of the method"])]
    why = f"by code that has changed since ({', '.join(parts)})" if parts else f"with the status {record['status']!r}"
    aside = folder.with_name(f"{folder.name}-{record['id'][:8]}")
    folder.rename(aside)
    print(f"This run was finished {why}: it is made again, and {aside} keeps what it left.")


def _entered(stage: Stage, trials: Path | None) -> tuple[str, Tuning | None]:
    """Return the division that a run enters, and how its rate was chosen."""
    experiment = stage.experiment
    if experiment.is_trial:
        if trials:
            raise ConfigError("experiment.is_trial: a trial does not follow from other trials; leave --trials out.")
        return "trial", {
            "recipe": stage.tuning_key,
            "factor": experiment.rate_factor,
            "trials": [],
            "flops": 0.0,
            "seconds": 0.0,
        }
    if trials is None:
        return ("open" if experiment.teacher_weights else "closed"), None
    if experiment.teacher_weights:
        raise ConfigError("--trials: with teacher_weights a run is of the division open, whatever its rate.")
    seen = fingerprint_without_test(stage.dataset.fingerprint)
    of_now = (record for record in load(trials) if stands(record) and files_outside(record) == stage.made_by)
    found = contests(record for record in of_now if record["dataset"]["fingerprint"] == seen)
    contest = found.get(stage.tuning_key, Contest(()))
    chosen = contest.tuning
    if chosen["factor"] != experiment.rate_factor:
        raise ConfigError(
            f"experiment.rate_factor = {experiment.rate_factor:g}, but the trials in {trials} chose "
            f"{chosen['factor']:g}. Bind that, or leave --trials out."
        )
    if contest.is_tied:
        print(
            f"warning: all trials of {stage.pretraining.name} have the same score, so that they chose nothing and the "
            f"rate is the recipe's. Give a budget on which trials are long enough to differ.",
            file=sys.stderr,
        )
    return "tuned", chosen


def _closing(record: Record, floors: list[Record], folder: Path, publish: Path | None) -> Record:
    """Conclude the record; raises BenchmarkError for a run that did not end as planned, whose record exists anyway."""
    record = describe.conclude(record, floors, folder, publish)
    if record["status"] == "ok":
        return record
    assert record["budget"] is not None
    cost, planned = record["cost"], record["budget"]["steps"]
    if record["status"] == "diverged":
        taken = int((cost["flops"] - cost["teacher_flops"]) // cost["flops_per_step"])
        if taken == 1:
            raise BenchmarkError(
                f"The very first of {planned} losses was not finite; the record says 'diverged'. No rate changes that: "
                f"look at the method, its teacher and its data."
            )
        raise BenchmarkError(
            f"The loss was not finite before step {taken} of {planned}; the record says 'diverged'. Lower the "
            f"base_rate of the optimiser, or look at {folder / 'metrics.jsonl'}."
        )
    raise BenchmarkError(
        f"The run took {cost['train_seconds']:.1f} s of a budget of {record['budget']['amount']:g} s; the record says "
        f"{record['status']!r} and is not ranked. The device was busier, or freer, than when the step was calibrated: "
        f"remove {folder.parent / 'calibrations'} and run with --fresh while nothing else runs."
    )


def _opening(stage: Stage, flops: int, steps: int) -> str:
    images = steps * stage.pretraining.batch_size
    return (
        f"{stage.pretraining.name} on {stage.dataset.name}, seed {stage.experiment.seed}: the budget buys {steps:,} "
        f"steps of {stage.pretraining.batch_size} images, {images / len(stage.dataset.pretrain):.1f} epochs, "
        f"{steps * flops / 1e12:.3f} TFLOPs, in {stage.precision}; writing to {stage.folder}"
    )
