"""The hall: seed, build, plan the budget, pretrain, evaluate, record. The only module that sees the whole."""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import gin
import torch
from safetensors.torch import save_file

from benchmark import config as configuration
from benchmark import describe
from benchmark.config import Config
from benchmark.data.resident import Resident
from benchmark.data.sources import Dataset, Images
from benchmark.environment import code, environment, use_device
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.evals import harness
from benchmark.evals.harness import Evaluation, Results
from benchmark.evals.knn import KNN
from benchmark.evals.linear import Linear
from benchmark.method import Method
from benchmark.nets.attention import choose_attention
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder
from benchmark.randomness import derive
from benchmark.report import record as records
from benchmark.report.record import Record
from benchmark.report.tables import row
from benchmark.training.budget import Budget, Ledger
from benchmark.training.flops import count_step
from benchmark.training.loop import Pretraining, Training
from benchmark.views.recipes import View, ViewLimits

__all__ = ["KNN", "Experiment", "Linear", "PixelDecoder", "Session", "dry_run", "run"]  # what gin files may name

SMOKE = {"digits": "The digits are a smoke set: raw pixels reach 97 %, so these numbers rank nothing."}


@gin.register("experiment")
@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The root of a configuration, as factories: nothing is built before the seed is set."""

    data: Callable[[], Images]
    encoder: Callable[[int], Encoder]
    pretraining: Callable[[], Pretraining]
    limits: Callable[[], ViewLimits]
    budget: Callable[[], Budget]
    evaluations: tuple[Callable[[], Evaluation], ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"experiment.seed = {self.seed}: a seed is a whole number from 0 to 2^63 - 1.")


@dataclass(frozen=True)
class Session:
    """One experiment on its way: what was configured, the data it found, and where it writes."""

    config: Config
    experiment: Experiment
    stage: Pretraining
    dataset: Dataset
    device: torch.device
    key: str
    out: Path

    @classmethod
    def open(cls, config: Config, out: Path) -> "Session":
        """Build the experiment's factories, load the data, and refuse what cannot be evaluated."""
        device = use_device()
        experiment: Experiment = configuration.build(config)
        stage = experiment.pretraining()
        dataset = experiment.data()()
        session = cls(config, experiment, stage, dataset, device, config.key(dataset.fingerprint), out)
        harness.check(dataset, session.evaluations)
        return session

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations of the experiment."""
        return tuple(evaluation() for evaluation in self.experiment.evaluations)

    @property
    def folder(self) -> Path:
        """Where this run keeps its state and its record."""
        parts = (self.stage.name, self.dataset.name, f"s{self.experiment.seed}", self.key[:8])
        return self.out / "-".join(re.sub(r"[^a-z0-9_]+", "_", part.lower()) for part in parts)

    def encoder(self) -> Encoder:
        """Build the encoder from the seed: the same initial weights for every method and for the floor."""
        torch.manual_seed(derive(self.experiment.seed, "encoder"))
        return self.experiment.encoder(self.dataset.size)

    def method(self) -> tuple[Method, tuple[View, ...]]:
        """Build the method on a fresh encoder, and the recipe of its views."""
        encoder = self.encoder()
        torch.manual_seed(derive(self.experiment.seed, "method"))
        method = self.stage.method(encoder)
        return method, self.stage.recipe(self.experiment.limits(), method)

    @cached_property
    def plan(self) -> tuple[int, int]:
        """The counted FLOPs of a step, and the steps that the budget buys."""
        flops = count_step(lambda: self.method()[0], self.stage.batch_size, self.dataset.size)
        return flops, self.experiment.budget().plan(batch_size=self.stage.batch_size, flops_per_step=flops)


def dry_run(config: Config) -> str:
    """Return what a run would do: resolved configuration, data found, parameters, and what the budget buys."""
    session = Session.open(config, Path())
    flops, steps = session.plan
    with torch.device("meta"):
        method, _ = session.method()
    data, batch = session.dataset, session.stage.batch_size
    images = steps * batch
    Resident(data.pretrain, batch, 0, "cpu")
    session.stage.optimiser()
    facts = {
        "data": f"{data.name}, {len(data.pretrain):,} images to pretrain on, {len(data.train.images):,} train, "
        f"{len(data.test.images):,} test, {data.size} px, {len(data.classes)} classes, "
        f"fingerprint {data.fingerprint[:16]}",
        "encoder": f"{method.encoder.name}, {describe.parameters(method.encoder):,} parameters, "
        f"{method.encoder.width} features",
        "method": f"{session.stage.name}, {describe.parameters(method):,} parameters, {method.n_views} view(s)",
        "step": f"{batch} images, {flops:,} FLOPs",
        "budget": f"{session.experiment.budget().amount:g} {session.experiment.budget().kind} buys {steps:,} steps, "
        f"{images:,} images, {images / len(data.pretrain):.1f} epochs, {steps * flops / 1e12:.3f} TFLOPs",
        "device": f"{session.device}, {torch.get_num_threads()} threads, {session.stage.precision}",
        "key": session.key,
    }
    width = max(map(len, facts))
    return config.text + "\n" + "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def run(
    config: Config,
    *,
    out: Path,
    resume: bool = False,
    fresh: bool = False,
    checkpoint_seconds: float = 600.0,
    publish: Path | None = None,
) -> Record:
    """Pretrain, evaluate and record one experiment; print its row and return its record.

    Raises ConfigError where an unfinished run of the same configuration and seed lies in the way.
    """
    if resume and fresh:
        raise ConfigError("--resume continues a run and --fresh starts it over; give one of them.")
    session = Session.open(config, out)
    folder = session.folder
    finished = [records.read(path) for path in folder.glob("*-s*-*-*.json")]
    if resume and finished:
        print("This run is finished; it is not repeated.")
        record = max(finished, key=lambda run: run["created_utc"])
        return _closing(record, _floors(session), folder, publish)
    _clear(folder, resume=resume, fresh=fresh, finished=bool(finished))
    flops, steps = session.plan
    method, views = session.method()
    data = Resident(session.dataset.pretrain, session.stage.batch_size, session.experiment.seed, session.device)
    recipe = session.stage.optimiser()
    for place in (*([publish] if publish else []), folder):
        _make(place)
    print(_opening(session, flops, steps))
    (folder / "config.gin").write_text(config.text)
    method.to(session.device)
    choose_attention(method, session.device, session.stage.precision)
    if method.encoder.n_tokens is None:
        method.to(memory_format=torch.channels_last)
    training = Training(
        method=method,
        optimiser=recipe.build(method.param_groups(), session.stage.batch_size),
        views=views,
        data=data,
        mean=session.dataset.mean,
        std=session.dataset.std,
        steps=steps,
        flops_per_step=flops,
        seed=session.experiment.seed,
        precision=session.stage.precision,
        device=session.device,
        folder=folder,
        key=f"{session.key}-s{session.experiment.seed}",
        checkpoint_seconds=checkpoint_seconds,
    )
    outcome = training.run(resume)
    begin = time.perf_counter()
    results = harness.evaluate_encoder(method.encoder, session.dataset, session.evaluations, session.device)
    seconds = time.perf_counter() - begin
    weights = folder / "encoder.safetensors"
    save_file({k: v.contiguous().cpu() for k, v in method.encoder.net.state_dict().items()}, weights)
    floors = _floors(session)
    record = records.seal(
        _shared(session, method.encoder)
        | {
            "status": outcome.status,
            "division": "closed",
            "board": None,
            "method": describe.method(session.stage.name, method),
            "config": {"key": session.key, "text": config.text},
            "budget": {
                "kind": session.experiment.budget().kind,
                "amount": float(session.experiment.budget().amount),
                "steps": steps,
                "batch_size": session.stage.batch_size,
            },
            "cost": describe.cost(training.ledger, flops, seconds),
            "training": describe.training(outcome),
            "metrics": results.metrics,
            "predictions": results.save(folder / "predictions.safetensors"),
            "floors": [floor["id"] for floor in floors],
            "checkpoint": describe.weights(weights),
        }
    )
    return _closing(record, floors, folder, publish)


def _closing(record: Record, floors: list[Record], folder: Path, publish: Path | None) -> Record:
    """Write the record, publish it with its floors if asked, and print its row.

    Raises BenchmarkError for a run that diverged, whose record exists all the same.
    """
    path = records.write(record, folder)
    if publish:
        record = records.seal(record | {"board": publish.name})
        for published in (*floors, record):
            path = records.write(published, publish)
    print(f"\n{row(record, floors)}")
    if record["dataset"]["name"] in SMOKE:
        print(SMOKE[record["dataset"]["name"]])
    print(f"record: {path}")
    if record["status"] == "diverged":
        assert record["budget"] is not None
        taken, planned = record["cost"]["images"] // record["budget"]["batch_size"], record["budget"]["steps"]
        raise BenchmarkError(
            f"The loss was not finite before step {taken} of {planned}; the record says 'diverged'. Lower the "
            f"rate (for instance --set AdamW.base_rate=...) or look at {folder / 'metrics.jsonl'}."
        )
    return record


def _opening(session: Session, flops: int, steps: int) -> str:
    images = steps * session.stage.batch_size
    return (
        f"{session.stage.name} on {session.dataset.name}, seed {session.experiment.seed}: the budget buys {steps:,} "
        f"steps of {session.stage.batch_size} images, {images / len(session.dataset.pretrain):.1f} epochs, "
        f"{steps * flops / 1e12:.3f} TFLOPs; writing to {session.folder}"
    )


def _make(folder: Path) -> None:
    """Make a folder to write to, before anything is trained."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(
            f"{folder} cannot be made a folder: {problem}. Give another place by --out or --publish."
        ) from problem


def _clear(folder: Path, *, resume: bool, fresh: bool, finished: bool) -> None:
    """Make room for a run without losing one: an unfinished run is resumed or discarded by name only."""
    begun = any(folder.glob("checkpoints/*.pt"))
    if begun and not finished and not (resume or fresh):
        raise ConfigError(
            f"{folder} holds an unfinished run of this configuration and seed. Continue it with --resume, or start "
            f"over with --fresh."
        )
    if not resume:
        for old in [*folder.glob("checkpoints/*.pt"), folder / "metrics.jsonl"]:
            old.unlink(missing_ok=True)


def _floors(session: Session) -> list[Record]:
    """Return the records of the floors under the same rules, from disk where they were measured before."""
    if not session.evaluations:
        return []
    encoder = session.encoder().to(session.device)

    def random_init() -> Results:
        return harness.evaluate_encoder(encoder, session.dataset, session.evaluations, session.device)

    def raw_pixels() -> Results:
        return harness.evaluate_pixels(session.dataset, session.evaluations)

    seed = session.experiment.seed
    tree = session.config.tree["params"]
    return [
        _floor(session, "random init", encoder, seed, tree["encoder"], random_init),
        _floor(session, "raw pixels", encoder, 0, None, raw_pixels),
    ]


def _floor(
    session: Session, name: str, encoder: Encoder, seed: int, built_from: object, evaluate: Callable[[], Results]
) -> Record:
    shared = _shared(session, encoder)
    made_by = (shared["code"]["evaluation_sha256"], shared["code"]["protocol_sha256"], shared["environment"]["torch"])
    settings = (name, built_from, session.config.tree["params"]["evaluations"], session.dataset.fingerprint, *made_by)
    key = hashlib.sha256(repr(settings).encode()).hexdigest()
    folder = session.out / "floors"
    for path in sorted(folder.glob(f"*-s{seed}-{key[:8]}-*.json")):
        return records.read(path)
    begin = time.perf_counter()
    results = evaluate()
    seconds = time.perf_counter() - begin
    floor = records.seal(
        shared
        | {
            "status": "ok",
            "division": "floor",
            "board": None,
            "method": {"name": name, "module_sha256": None, "deviations": []},
            "seed": seed,
            "config": {"key": key, "text": session.config.text},
            "budget": None,
            "cost": describe.cost(Ledger(), 0, seconds),
            "training": {
                "loss": None,
                "logs": {},
                "digest": None,
                "collapsed": None,
                "effective_rank": None,
                "feature_std": None,
            },
            "metrics": results.metrics,
            "predictions": None,
            "floors": [],
            "checkpoint": None,
        }
    )
    records.write(floor, folder)
    return floor


def _shared(session: Session, encoder: Encoder) -> dict[str, Any]:
    """Return what the record of a run and of its floors have in common."""
    return {
        "schema": 1,
        "created_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dataset": describe.dataset(session.dataset),
        "encoder": describe.encoder(encoder),
        "seed": session.experiment.seed,
        "code": code(),
        "environment": environment(session.device, session.stage.precision),
        "teacher": None,
    }
