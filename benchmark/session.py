"""An experiment on its way: what was configured, built from the seed, and what its budget buys."""

import hashlib
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import gin
import torch
from safetensors.torch import save_file

from benchmark import config as configuration
from benchmark import describe
from benchmark.annotations import Location
from benchmark.config import Config
from benchmark.data.resident import Resident
from benchmark.data.sources import Dataset, Images
from benchmark.environment import code, environment, use_device
from benchmark.errors import ConfigError
from benchmark.evals import harness
from benchmark.evals.finetune import ConvNetTuning, FineTune, ViTTuning
from benchmark.evals.harness import Evaluation
from benchmark.evals.knn import KNN, KNNProjection
from benchmark.evals.linear import Linear
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.evals.retrieval import Retrieval
from benchmark.evals.semi import SemiProbe
from benchmark.evals.semi_finetune import SemiFineTune
from benchmark.method import Method
from benchmark.nets.attention import choose_attention
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder
from benchmark.nets.timm_net import Timm
from benchmark.randomness import derive
from benchmark.training import calibration
from benchmark.training.budget import Budget, Price
from benchmark.training.flops import count_step
from benchmark.training.loop import Pretraining, Training
from benchmark.views.recipes import View, ViewLimits

__all__ = [  # with what gin files may name
    "KNN",
    "ConvNetTuning",
    "Examination",
    "Experiment",
    "FineTune",
    "KNNProjection",
    "Linear",
    "LinearSGD",
    "PixelDecoder",
    "Retrieval",
    "SemiFineTune",
    "SemiProbe",
    "Session",
    "Timm",
    "ViTTuning",
]


@gin.register("experiment")
@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The root of a configuration, as factories: nothing is built before the seed is set.

    Without `pretraining` and `budget` it describes the evaluation of an encoder that exists.

    A method that learns from a teacher is built as `method(encoder, teacher)`, both of the same architecture. The
    `teacher` stage is pretrained first, on `teacher_share` of the budget; the student gets what is left. A file of
    weights (`teacher_weights`, the encoder.safetensors of another run) takes its place, leaves the whole budget to the
    student, and puts the run into the division `open`, since what the teacher cost is not counted.
    """

    data: Callable[[], Images]
    encoder: Callable[[int], Encoder]
    limits: Callable[[], ViewLimits]
    evaluations: tuple[Callable[[], Evaluation], ...]
    pretraining: Callable[[], Pretraining] | None = None
    budget: Callable[[], Budget] | None = None
    teacher: Callable[[], Pretraining] | None = None
    teacher_share: float = 0.5
    teacher_weights: Location | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"experiment.seed = {self.seed}: a seed is a whole number from 0 to 2^63 - 1.")
        if not 0 < self.teacher_share < 1:
            raise ConfigError(
                f"experiment.teacher_share = {self.teacher_share}: the teacher's part of the budget is above 0 and "
                f"below 1, so that something is left for the student."
            )


@dataclass(frozen=True)
class Examination:
    """An encoder and what it is scored on: the configuration, the data that was found, and where results go."""

    config: Config
    experiment: Experiment
    dataset: Dataset
    device: torch.device
    out: Path

    @classmethod
    def open(cls, config: Config, out: Path) -> Self:
        """Build the experiment's factories, load the data, and refuse what cannot be evaluated."""
        device = use_device()
        experiment: Experiment = configuration.build(config)
        made = cls(config, experiment, experiment.data()(), device, out)
        harness.check(made.dataset, made.evaluations)
        return made

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations of the experiment."""
        return tuple(evaluation() for evaluation in self.experiment.evaluations)

    @property
    def precision(self) -> str:
        """The precision in which the encoder was trained, as far as this is known."""
        return "float32"

    def encoder(self) -> Encoder:
        """Build the encoder from the seed: the same initial weights for every method and for the floor."""
        torch.manual_seed(derive(self.experiment.seed, "encoder"))
        return self.experiment.encoder(self.dataset.size)

    def shared(self, encoder: Encoder) -> dict[str, Any]:
        """Describe what the record of a run and those of its floors have in common."""
        return {
            "schema": 1,
            "created_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "dataset": describe.dataset(self.dataset),
            "encoder": describe.encoder(encoder),
            "seed": self.experiment.seed,
            "code": code(),
            "environment": environment(self.device, self.precision),
            "teacher": None,
        }


@dataclass(frozen=True)
class Session(Examination):
    """One stage of pretraining on its way, and the examination at its end."""

    @cached_property
    def stage(self) -> Pretraining:
        """What this stage trains, and how."""
        if self.experiment.pretraining is None:
            raise ConfigError("experiment.pretraining is None: there is nothing to train. Give the file of a method.")
        return self.experiment.pretraining()

    @property
    def precision(self) -> str:
        return self.stage.precision

    @cached_property
    def key(self) -> str:
        """What tells this stage from every other but those of other seeds."""
        taught = self.experiment.teacher_weights
        return self.config.key(self.dataset.fingerprint + ("" if taught is None else _digest_of(taught)))

    @cached_property
    def folder(self) -> Path:
        """Where this stage writes."""
        return self.out / _name(self.stage, self.dataset, self.experiment.seed, self.key)

    @cached_property
    def teacher(self) -> "TeacherSession | None":
        """The stage that comes first, with its part of the budget and a seed of its own; None where there is none."""
        root = self.experiment
        if root.teacher is None or root.teacher_weights is not None:
            return None
        budget = self.whole_budget.part(root.teacher_share)
        own = replace(
            root,
            pretraining=root.teacher,
            seed=derive(root.seed, "teacher"),
            teacher=None,
            budget=lambda: budget,
            evaluations=(),
        )
        return TeacherSession(self.config, own, self.dataset, self.device, self.out, root.seed)

    @property
    def whole_budget(self) -> Budget:
        """What all stages together may spend."""
        if self.experiment.budget is None:
            raise ConfigError("experiment.budget is None: say what the run may spend, for instance @Budget.")
        return self.experiment.budget()

    @property
    def budget(self) -> Budget:
        """What this stage may spend: the experiment's budget without what its teacher spends."""
        whole = self.whole_budget
        if self.teacher is None:
            return whole
        return whole.without(self.teacher.steps, self.teacher.price)

    @cached_property
    def price(self) -> Price:
        """What a step costs: its FLOPs counted and, for a budget in seconds, its seconds calibrated on this device."""
        batch = self.stage.batch_size
        flops = count_step(lambda: self.method()[0], batch, self.dataset.size)
        if self.whole_budget.kind != "device_seconds":
            return Price(batch, flops)
        machine = environment(self.device, self.precision)
        names = (self.key, *(machine[name] for name in ("gpu", "driver", "processor", "threads", "torch", "timm")))
        file = hashlib.sha256(repr((*names, code()["protocol_sha256"])).encode()).hexdigest()[:32]

        def build() -> Training:
            return self._training(calibration.WHOLE, flops, math.inf, math.inf, None)

        found = calibration.stored(self.out / "calibrations" / f"{file}.json", build)
        return Price(batch, flops, found.seconds)

    @cached_property
    def steps(self) -> int:
        """The steps that the budget of this stage buys."""
        return self.budget.plan(self.price)

    def method(self, teacher: Encoder | None = None) -> tuple[Method, tuple[View, ...]]:
        """Build the method on a fresh encoder, and the recipe of its views; an untrained teacher if none is given."""
        given = self.experiment.teacher is not None or self.experiment.teacher_weights is not None
        if given != self.stage.is_taught:
            need, remedy = ("no", "Leave both None.") if given else ("a", "Bind experiment.teacher to a Pretraining.")
            raise ConfigError(
                f"{self.stage.name} learns from {need} teacher, but experiment.teacher and "
                f"experiment.teacher_weights give {'one' if given else 'none'}. {remedy}"
            )
        encoder = self.encoder()
        teachers = [teacher or self.experiment.encoder(self.dataset.size)] if given else []
        torch.manual_seed(derive(self.experiment.seed, "method"))
        method = self.stage.method(encoder, *teachers)
        return method, self.stage.recipe(self.experiment.limits(), method)

    def training(self, checkpoint_seconds: float, teacher: Encoder | None = None) -> Training:
        """Build the whole state of this stage, on its device."""
        return self._training(self.steps, self.price.flops, checkpoint_seconds, self.budget.most_seconds, teacher)

    def _training(
        self, steps: int, flops: int, checkpoint_seconds: float, most_seconds: float, teacher: Encoder | None
    ) -> Training:
        method, views = self.method(teacher)
        data = Resident(self.dataset.pretrain, self.stage.batch_size, self.experiment.seed, self.device)
        optimiser = self.stage.optimiser()
        method.to(self.device)
        choose_attention(method, self.device, self.stage.precision)
        if method.encoder.n_tokens is None:
            method.to(memory_format=torch.channels_last)
        return Training(
            method=method,
            optimiser=optimiser.build(method.param_groups(), self.stage.batch_size),
            views=views,
            data=data,
            mean=self.dataset.mean,
            std=self.dataset.std,
            steps=steps,
            flops_per_step=flops,
            seed=self.experiment.seed,
            precision=self.stage.precision,
            device=self.device,
            folder=self.folder,
            key=f"{self.key}-s{self.experiment.seed}",
            checkpoint_seconds=checkpoint_seconds,
            most_seconds=most_seconds,
        )

    def claim(self, *, resume: bool, fresh: bool, finished: bool) -> None:
        """Make room for this stage without losing one: an unfinished run is resumed or discarded by name only."""
        begun = any(self.folder.glob("checkpoints/*.pt"))
        if begun and not finished and not (resume or fresh):
            raise ConfigError(
                f"{self.folder} holds an unfinished run of this configuration and seed. Continue it with --resume, or "
                f"start over with --fresh."
            )
        if not resume:
            for old in [*self.folder.glob("checkpoints/*.pt"), self.folder / "metrics.jsonl"]:
                old.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "evaluations", ignore_errors=True)
        make_folder(self.folder)

    def export(self, encoder: Encoder) -> Path:
        """Write the weights of the encoder, under timm's names, and return their path."""
        save_file({k: v.contiguous().cpu() for k, v in encoder.net.state_dict().items()}, self.weights)
        return self.weights

    @property
    def weights(self) -> Path:
        """Where the encoder's weights are written when the stage is done."""
        return self.folder / "encoder.safetensors"


@dataclass(frozen=True)
class TeacherSession(Session):
    """The stage of a teacher; its folder is named by all that its weights depend on, so that experiments share it."""

    students_seed: int

    @cached_property
    def key(self) -> str:
        """What its weights depend on, but for the seed."""
        with torch.device("meta"):
            method, _ = self.method()
        parameters = self.config.identity["params"]
        names = (
            [parameters[name] for name in ("teacher", "encoder", "limits")],
            (self.whole_budget, self.students_seed, self.dataset.fingerprint),
            (code()["protocol_sha256"], describe.method(self.stage.name, method)["module_sha256"]),
            (torch.__version__, torch.get_num_threads(), str(self.device)),
        )
        return hashlib.sha256(repr(names).encode()).hexdigest()

    @cached_property
    def folder(self) -> Path:
        """Where the teacher is kept."""
        return self.out / "teachers" / _name(self.stage, self.dataset, self.students_seed, self.key)


def make_folder(folder: Path) -> None:
    """Make a folder to write to, before anything is trained."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(
            f"{folder} cannot be made a folder: {problem}. Give another place by --out or --publish."
        ) from problem


def _name(stage: Pretraining, dataset: Dataset, seed: int, key: str) -> str:
    parts = (stage.name, dataset.name, f"s{seed}", key[:8])
    return "-".join(re.sub(r"[^a-z0-9_]+", "_", part.lower()) for part in parts)


def _digest_of(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as problem:
        raise ConfigError(
            f"experiment.teacher_weights = {file!r} cannot be read: {problem}. Give the encoder.safetensors of a run."
        ) from problem
