"""An experiment on its way: what was configured, built from the seed, and what its budget buys."""

import hashlib
import math
import re
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmark.data.images import Dataset
from benchmark.data.streaming import batches
from benchmark.errors import ConfigError, blamed
from benchmark.experiment import describe
from benchmark.experiment.environment import environment
from benchmark.experiment.session import Session
from benchmark.experiment.setup import Pretraining
from benchmark.method import Method
from benchmark.nets.attention import choose_attention
from benchmark.nets.encoders import Encoder
from benchmark.randomness import derive
from benchmark.report.cells import PRETRAINING, major, tuning_key
from benchmark.report.identity import digest
from benchmark.storage.files import make_folder, sha256_of
from benchmark.training import calibration
from benchmark.training.budget import Budget, Price
from benchmark.training.flops import count_step
from benchmark.training.loop import Training
from benchmark.views.recipes import View

TEACHERS = ("experiment.teacher", "experiment.encoder", "experiment.limits", "experiment.rate_factor")


@dataclass(frozen=True)
class Stage(Session):
    """One stage of pretraining, priced and planned, and the evaluation at its end."""

    @cached_property
    def pretraining(self) -> Pretraining:
        """What this stage trains, and how."""
        if self.experiment.pretraining is None:
            raise ConfigError("experiment.pretraining is None: there is nothing to train. Give the file of a method.")
        return self.experiment.pretraining()

    @property
    def precision(self) -> str:
        """The precision in which the encoder is trained."""
        return self.pretraining.precision

    @cached_property
    def key(self) -> str:
        """What tells this stage from every other but those of other seeds."""
        taught = self.experiment.teacher_weights
        return self.config.key(self.dataset.fingerprint, *([] if taught is None else [digest_of(taught)]))

    @cached_property
    def tuning_key(self) -> str:
        """What this run has in common with the trials from which its rate is chosen."""
        return tuning_key(self.config.text)

    @cached_property
    def checkpoint_key(self) -> str:
        """Identifies the checkpoints that this stage may resume: same stage and seed, same code of training."""
        return f"{_hash(self.key, self.training_versions, self.made_by)}-s{self.experiment.seed}"

    @cached_property
    def folder(self) -> Path:
        """Where this stage writes; a trial by code of another Major version is another trial, and is made again."""
        key = self.key
        if self.experiment.is_trial:
            key = _hash(key, {name: major(version) for name, version in self.all_versions.items()}, self.made_by)
        return self.out / _name(self.pretraining, self.dataset, self.experiment.seed, key)

    @cached_property
    def all_versions(self) -> dict[str, str]:
        """The versions of the code that this stage runs, its evaluations among it."""
        return self.versions | self.training_versions

    @cached_property
    def training_versions(self) -> dict[str, str]:
        """The versions of the code that decides the weights: pretraining, method and teacher."""
        return {PRETRAINING: self.versions[PRETRAINING]} | describe.versions(*self._methods)

    @cached_property
    def made_by(self) -> str | None:
        """The hash of the files of method and teacher that lie outside this project; None where there are none."""
        return describe.method(self.pretraining.name, *self._methods)["module_sha256"]

    @property
    def _methods(self) -> list[Method]:
        """The method and its teacher's, as they are built, without values."""
        stages: list[Stage] = [self, *([self.teacher] if self.teacher else [])]
        with torch.device("meta"):
            return [each.method()[0] for each in stages]

    @cached_property
    def teacher(self) -> "TeacherStage | None":
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
            budget_share=1.0,
            evaluations=(),
        )
        return TeacherStage(self.config, own, self.images, self.device, self.out, self)

    @property
    def whole_budget(self) -> Budget:
        """What all stages together may spend."""
        return self._undivided.part(self.experiment.budget_share)

    @property
    def _undivided(self) -> Budget:
        """What the experiment may spend where it is not on a share of the budget, as trials are."""
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

    def check(self) -> None:
        """Refuse what can be refused before an image is decoded: data, method, recipe, and what the budget buys."""
        if self.teacher is not None:
            self.teacher.check()
        with torch.device("meta"):
            method, _ = self.method()
        with blamed(f"{self.pretraining.name} cannot be trained", type(method)):
            method.param_groups()
            method.projection_head()
        self.pretraining.optimiser()
        batches(self.outline.pretrain, self.pretraining.batch_size, self.experiment.seed, "cpu")
        if self.whole_budget.kind == "device_seconds":  # to calibrate a step takes images
            self.flops  # noqa: B018
        else:
            self.steps  # noqa: B018

    @cached_property
    def flops(self) -> int:
        """The FLOPs of a step, counted."""
        return count_step(lambda: self.method()[0], self.pretraining.batch_size, self.images.size)

    @cached_property
    def price(self) -> Price:
        """What a step costs: its FLOPs counted and, for a budget in seconds, its seconds calibrated on this device."""
        batch, flops = self.pretraining.batch_size, self.flops
        if self.whole_budget.kind != "device_seconds":
            return Price(batch, flops)
        machine = environment(self.device, self.precision)
        names = [machine[name] for name in ("gpu", "driver", "processor", "threads", "torch", "timm", "deterministic")]
        names += [
            self.pretraining.name,
            self._step,
            self.made_by,
            self.dataset.fingerprint,
            repr(self.training_versions),
        ]
        names += [type(self.dataset.pretrain).__name__]  # resident or streamed
        file = hashlib.sha256(repr(names).encode()).hexdigest()[:32]
        path = self.out / "calibrations" / f"{file}.json"
        found = calibration.stored(path, lambda: self.scratch(flops), self._undivided.amount)
        return Price(batch, flops, found.seconds)

    @property
    def _step(self) -> str:
        """What a step's seconds depend on in the configuration: neither the rate nor the size of the budget."""
        return self.tuning_key

    @cached_property
    def steps(self) -> int:
        """The steps that the budget of this stage buys."""
        return self.budget.plan(self.price)

    def method(self, teacher: Encoder | None = None) -> tuple[Method, tuple[View, ...]]:
        """Build the method on a fresh encoder, and the recipe of its views; an untrained teacher if none is given."""
        given = self.experiment.teacher is not None or self.experiment.teacher_weights is not None
        if given != self.pretraining.is_taught:
            need, remedy = ("no", "Leave both None.") if given else ("a", "Bind experiment.teacher to a Pretraining.")
            raise ConfigError(
                f"{self.pretraining.name} learns from {need} teacher, but experiment.teacher and "
                f"experiment.teacher_weights give {'one' if given else 'none'}. {remedy}"
            )
        with blamed(f"{self.pretraining.name} cannot be built", self.pretraining.method):
            encoder = self.encoder()
            teachers = [teacher or self.experiment.encoder(self.images.size)] if given else []
            torch.manual_seed(derive(self.experiment.seed, "method"))
            method = self.pretraining.method(encoder, *teachers)
            if not isinstance(getattr(method, "encoder", None), Encoder):
                raise ConfigError(f"{type(method).__name__} has no encoder: have __init__ set self.encoder = encoder.")
            return method, self.pretraining.recipe(self.experiment.limits(), method)

    def training(self, checkpoint_seconds: float, teacher: Encoder | None = None) -> Training:
        """Build the whole state of this stage, on its device.

        Under a budget in seconds, steps that are discarded come first: what a process pays once, such as loading
        kernels, is then paid off the clock by each run, and not only by the one that calibrates. A state that still
        waits for its teacher takes none.
        """
        is_complete = teacher is not None or not self.pretraining.is_taught
        if is_complete and self.whole_budget.kind == "device_seconds":
            self.scratch(self.price.flops).advance(calibration.WARMUP)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return self._training(self.steps, self.price.flops, checkpoint_seconds, self.budget.most_seconds, teacher)

    def scratch(self, flops: int) -> Training:
        """Build a state for steps that are timed, or looked at, and discarded."""
        return self._training(calibration.WHOLE, flops, math.inf, math.inf, None)

    def _training(
        self, steps: int, flops: int, checkpoint_seconds: float, most_seconds: float, teacher: Encoder | None
    ) -> Training:
        method, views = self.method(teacher)
        data = batches(
            self.dataset.pretrain_on(self.device), self.pretraining.batch_size, self.experiment.seed, self.device
        )
        recipe = self.pretraining.optimiser()
        method.to(self.device)
        choose_attention(method, self.device, self.pretraining.precision)
        if method.encoder.n_tokens is None:
            method.to(memory_format=torch.channels_last)
        optimiser = recipe.build(method.param_groups(), self.pretraining.batch_size)
        optimiser.scale(self.experiment.rate_factor)
        return Training(
            method=method,
            optimiser=optimiser,
            views=views,
            data=data,
            mean=self.dataset.mean,
            std=self.dataset.std,
            steps=steps,
            flops_per_step=flops,
            seed=self.experiment.seed,
            precision=self.pretraining.precision,
            device=self.device,
            folder=self.folder,
            key=self.checkpoint_key,
            checkpoint_seconds=checkpoint_seconds,
            most_seconds=most_seconds,
            compiled=self.pretraining.compiled,
        )

    def claim(self, *, resume: bool, fresh: bool, finished: bool) -> None:
        """Make room for this stage without losing one: an unfinished run is resumed or discarded by name only."""
        begun = any(self.folder.glob("checkpoints/*.pt"))
        if begun and not finished and not (resume or fresh):
            raise ConfigError(
                f"{self.folder} holds an unfinished run of this configuration and seed. Continue it with --resume, or "
                f"start over with --fresh."
            )
        make_folder(self.folder)
        if not resume:
            for old in [*self.folder.glob("checkpoints/*.pt"), self.folder / "metrics.jsonl"]:
                old.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "evaluations", ignore_errors=True)

    def export(self, encoder: Encoder) -> Path:
        """Write the weights of the encoder, under timm's names, and return their path."""
        save_file({k: v.contiguous().cpu() for k, v in encoder.net.state_dict().items()}, self.weights)
        return self.weights

    @property
    def weights(self) -> Path:
        """Where the encoder's weights are written when the stage is done."""
        return self.folder / "encoder.safetensors"


@dataclass(frozen=True)
class TeacherStage(Stage):
    """The stage of a teacher; its folder is named by all that its weights depend on, so that experiments share it."""

    student: Stage

    @cached_property
    def dataset(self) -> Dataset:
        """The data of both stages, which are decoded once."""
        return self.student.dataset

    @cached_property
    def key(self) -> str:
        """What its weights depend on, but for the seed."""
        return digest(
            self.config.canonical.part(TEACHERS),
            (self.whole_budget, self.student.experiment.seed, self.dataset.fingerprint),
            (self.training_versions, self.made_by),
            (torch.__version__, torch.get_num_threads(), str(self.device)),
        )

    @property
    def _step(self) -> str:
        return self.key

    @cached_property
    def folder(self) -> Path:
        """Where the teacher is kept."""
        return self.out / "teachers" / _name(self.pretraining, self.dataset, self.student.experiment.seed, self.key)


def _hash(*names: object) -> str:
    return hashlib.sha256(repr(names).encode()).hexdigest()


def _name(pretraining: Pretraining, dataset: Dataset, seed: int, key: str) -> str:
    parts = (pretraining.name, dataset.name, f"s{seed}", key[:8])
    return "-".join(re.sub(r"[^a-z0-9_]+", "_", part.lower()) for part in parts)


def digest_of(file: str) -> str:
    """Return the SHA-256 of a teacher's weights."""
    try:
        return sha256_of(Path(file))
    except OSError as problem:
        raise ConfigError(
            f"experiment.teacher_weights = {file!r} cannot be read: {problem}. Give the encoder.safetensors of a run."
        ) from problem
