"""A whole run: build from the seed, plan the budget, pretrain, evaluate, record."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmark.config.load import Config
from benchmark.errors import BenchmarkError, ConfigError, Interrupted, MethodError, by, no_room
from benchmark.experiment import describe, facts, floors, folders
from benchmark.experiment.environment import speed_warnings
from benchmark.experiment.stage import Stage
from benchmark.experiment.teacher import teach, teacher_from_file
from benchmark.report import record as records
from benchmark.report.cells import UNDONE, files_outside, load, of_run
from benchmark.report.code import changed
from benchmark.report.fields import Cost, Tuning
from benchmark.report.record import Record
from benchmark.report.tuning import Contest, contests, fingerprint_without_test
from benchmark.runtime import progress, ranks, sharing
from benchmark.storage.claim import Held
from benchmark.storage.files import check_folders, exclusive, make_folder, write_text
from benchmark.trackers.tracking import tracked


def is_done(record: Record) -> bool:
    """Return whether a run need not be repeated: it ended, kept its budget, and its code has not changed since."""
    return record["status"] not in UNDONE and not changed(record)


def run(
    config: Config,
    *,
    out: Path,
    fresh: bool = False,
    checkpoint_seconds: float = 600.0,
    publish: Path | None = None,
    varied: Sequence[str] = (),
    trials: Path | None = None,
    tracker: str | None = None,
) -> Record:
    """Pretrain, evaluate and record one experiment; print its row and return its record.

    `varied` are the bindings that tables name beside the method, since they tell this run from others of it. `trials`
    is a folder with the records of the trials that chose the learning rate: the run is then of the division `tuned`.
    A `tracker` is shown what the run logs.
    An unfinished run goes on from its last checkpoint; `fresh` starts it over. A finished run is not repeated but
    shown, and published if asked; `fresh` repeats it. One that is not done (see `is_done`) is made again, and its files
    are kept in a folder beside, which is named by the id of its record.
    Waits for another process that is at work on the same run.
    Raises ConfigError where trials are missing or chose another learning rate.
    """
    check_folders(out, publish)
    stage = Stage.open(config, out)
    stage.check()
    ranks.join(stage.device)
    teacher = teacher_from_file(stage)
    division, tuning = _division(stage, trials)
    folder = stage.folder

    def finished_before() -> Record | None:
        records_of_run = [] if fresh else of_run(folder)
        done = [record for record in records_of_run if is_done(record) and files_outside(record) == stage.files_outside]
        if not done:
            return None
        print(f"This run is finished, in {folder}; it is not repeated. --fresh repeats it.")
        floor_records = floors.measure(stage)
        changes = {
            "division": division,
            "tuning": tuning,
            "config": done[-1]["config"] | {"varied": list(varied)},  # a point of a sweep may be a run that exists
            "floors": [floor["id"] for floor in floor_records],
        }
        return _finish(stage, records.seal(done[-1] | changes), floor_records, publish)

    if record := finished_before():
        return record
    flops, steps = stage.flops, stage.steps
    training = stage.training(checkpoint_seconds)  # before anything is written, as it refuses what cannot be built
    if publish:
        make_folder(publish)
    folders_of_stages = [each.folder for each in (stage, stage.teacher) if each]
    with exclusive(folder), _explained_stop(*folders_of_stages), ExitStack() as stack:
        if record := finished_before():  # by another process, which held the lock
            return record
        former = of_run(folder)
        if former and not fresh:
            _keep_beside(folder, former[-1], stage.files_outside)
        if not (fresh or former or any(folder.glob("checkpoints/*.pt"))):
            _say_what_is_not_resumed(stage)
        folders.prepare(folder, fresh=fresh)
        print(_opening(stage, flops, steps))
        for warning in speed_warnings(stage.pretraining.precision):
            print(f"warning: {warning}", file=sys.stderr)
        write_text(folder / "config.gin", config.text)
        resumed = any(folder.glob("checkpoints/*.pt"))
        tracking = stack.enter_context(tracked(tracker, folder, facts.of(stage, division), resumed=resumed))
        floor_records: list[Record] | None = None
        with suppress(Held):  # another process is measuring them: train meanwhile
            # first, since what fails here would fail after hours of training too
            floor_records = floors.measure(stage, waits=False)
        teacher = teacher or teach(stage, fresh=fresh, checkpoint_seconds=checkpoint_seconds)
        if teacher:
            training = stage.training(checkpoint_seconds, teacher.encoder)
        training.tracking = tracking
        encoder, budget = training.method.encoder, stage.whole_budget
        methods = [training.method, *([teacher.method] if teacher and teacher.method else [])]
        run_record = partial(
            describe.record,
            stage,
            encoder,
            stage.versions | stage.training_versions,
            division=division,
            method=describe.method(stage.pretraining.name, *methods),
            key=stage.key,
            varied=varied,
            precision=stage.pretraining.precision,
            budget={
                "kind": budget.kind,
                "amount": float(budget.amount),
                "steps": steps,
                "batch_size": stage.pretraining.batch_size,
            },
            tuning=tuning,
            teacher=teacher.record if teacher else None,
            **stage.began,
        )

        def spent(evaluation_seconds: float) -> Cost:  # resuming replaces the ledger
            ledger = teacher.ledger if teacher else None
            return describe.cost(training.ledger, flops, evaluation_seconds, ledger, sharing.processes())

        try:
            if floor_records:
                training.evaluation_seconds = floor_records[0]["cost"]["evaluation_seconds"]
            ranks.told("student")
            outcome = training.run(resume=not fresh)
            ranks.told("evaluation")
            begin = time.perf_counter()
            with progress.doing(f"evaluating {stage.pretraining.name}"):
                results = stage.evaluate(
                    encoder,
                    projector=training.method.projection_head(),
                    folder=folder / "evaluations",
                    diverged=outcome.status == "diverged",
                    divided=ranks.size() > 1,
                )
            dismiss()
            seconds = time.perf_counter() - begin
            if floor_records is None:
                floor_records = floors.measure(stage)
        except Exception as problem:
            is_explained = isinstance(problem, BenchmarkError) and not isinstance(problem, MethodError)
            is_explained |= no_room(problem) is not None
            if publish and not is_explained:  # neither stopped on request nor refused
                # only the board gets this record: without one, the folder of the run can be resumed
                failure = describe.public(run_record(status="failed", cost=spent(0.0)), publish)
                print(f"The run failed; record: {records.write(failure, publish)}")
            raise
        weights = stage.export(encoder)
        cost = spent(seconds)
        record = run_record(
            status=budget.verdict(cost["train_seconds"]) if outcome.status == "ok" else outcome.status,
            cost=cost,
            training=describe.training(outcome, training.probe),
            metrics=results.metrics,
            predictions=results.save(folder / "predictions.safetensors"),
            floors=[floor["id"] for floor in floor_records],
            checkpoint=describe.weights(weights),
        )
        if tracking:
            tracking.log(training.step, facts.final(record))
        return _finish(stage, record, floor_records, publish)


def follow(config: Config, out: Path) -> None:
    """Train and extract features with rank 0, in a process of another rank; nothing is written or printed."""
    stage = Stage.open(config, out)
    stage.check()
    ranks.join(stage.device)
    teacher = teacher_from_file(stage)
    encoder = teacher.encoder if teacher else None
    projector = None
    while part := ranks.told(None):
        if part == "evaluation":
            assert encoder is not None
            stage.follow(encoder, projector)
        else:
            chosen = stage.teacher if part == "teacher" else stage
            assert chosen is not None
            training = chosen.training(math.inf, encoder)
            training.follow()
            encoder, projector = training.method.encoder, training.method.projection_head()
    ranks.part()


def dismiss() -> None:
    """Let the other ranks end, as nothing is left for them to do."""
    if ranks.size() > 1:
        ranks.told(None)
        ranks.part()


def _say_what_is_not_resumed(stage: Stage) -> None:
    """Warn of unfinished runs of the same method and seed that do not go on here, as they are other runs."""
    others = folders.unfinished_beside(stage.folder, stage.config.text)
    if others:
        print(
            f"warning: {stage.folder} begins at step 0: with these settings it is another run than what is unfinished "
            f"beside it, {'; '.join(others)}. To continue one of these, give its settings.",
            file=sys.stderr,
        )


@contextmanager
def _explained_stop(*folders: Path) -> Iterator[None]:
    """Raise, for a stop outside of training, an error that says where the same command goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        is_begun = any(path for folder in folders for path in folder.glob("checkpoints/*.pt"))
        place = "from the last checkpoint" if is_begun else "with what is finished; the training begins anew"
        raise Interrupted(f"Stopped{by(stop)}. The same command goes on {place}.") from None


def _keep_beside(folder: Path, record: Record, outside: str | None) -> None:
    """Rename the folder of a finished run that is made again: the new run neither uses nor replaces its files."""
    parts = [*changed(record), *([] if files_outside(record) == outside else ["the file of the method"])]
    why = f"by code that has changed since ({', '.join(parts)})" if parts else f"with the status {record['status']!r}"
    beside = folder.with_name(f"{folder.name}-{record['id'][:8]}")
    folder.rename(beside)
    print(f"This run was finished {why}: it is made again, and {beside} keeps what it left.")


def _division(stage: Stage, trials: Path | None) -> tuple[str, Tuning | None]:
    """Return the division of a run, and how its learning rate was chosen."""
    experiment = stage.experiment
    if experiment.is_trial:
        if trials:
            raise ConfigError("experiment.is_trial: a trial does not follow from other trials; leave --trials out.")
        factor = experiment.rate_factor
        terms: Tuning = {"recipe": stage.tuning_key, "factor": factor, "trials": [], "flops": 0.0, "seconds": 0.0}
        return "trial", {**terms, "share": experiment.budget_share}
    outside = "teacher_weights" if experiment.teacher_weights else "init" if experiment.init else None
    if trials is None:
        return ("open" if outside else "closed"), None
    if outside:
        raise ConfigError(f"--trials: with {outside} a run is of the division open, whatever its rate.")
    fingerprint = fingerprint_without_test(stage.dataset.fingerprint)
    contest = contests(
        record
        for record in load(trials)
        if is_done(record)
        and files_outside(record) == stage.files_outside
        and record["dataset"]["fingerprint"] == fingerprint
    ).get(stage.tuning_key, Contest(()))
    tuning = contest.tuning
    if tuning["factor"] != experiment.rate_factor:
        raise ConfigError(
            f"experiment.rate_factor = {experiment.rate_factor:g}, but the trials in {trials} chose "
            f"{tuning['factor']:g}. Bind that, or leave --trials out."
        )
    if contest.is_tied:
        print(
            f"warning: all trials of {stage.pretraining.name} have the same score, so that they chose nothing and the "
            f"rate is the recipe's. Give a budget on which trials are long enough to differ.",
            file=sys.stderr,
        )
    return "tuned", tuning


def _finish(stage: Stage, record: Record, floors: list[Record], publish: Path | None) -> Record:
    """Write and show the record; then raise BenchmarkError if the run did not end as planned."""
    folder = stage.folder
    record = describe.finish(record, floors, folder, publish, stage.dataset.test.labels)
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
        f"{steps * flops / 1e12:.3f} TFLOPs, in {stage.pretraining.precision}; writing to {stage.folder}"
    )
