"""A stage of pretraining: what identifies it, its budget planned in steps, and its training."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from benchmark.data.dataset import Dataset
from benchmark.data.streaming import batches
from benchmark.errors import ConfigError, method_errors
from benchmark.evals.online import OnlineKNN, online_knn
from benchmark.experiment import describe
from benchmark.experiment.environment import environment
from benchmark.experiment.folders import digest_of, hash_of, name_of
from benchmark.experiment.recipe import Recipe
from benchmark.method import Method
from benchmark.nets.attention import choose_attention
from benchmark.nets.encoders import Encoder
from benchmark.nets.memory_format import choose_memory_format
from benchmark.randomness import derive
from benchmark.report.cells import PRETRAINING, major, tuning_key
from benchmark.report.identity import digest
from benchmark.runtime import sharing
from benchmark.storage import tensors
from benchmark.training import calibration
from benchmark.training.budget import Budget, Price
from benchmark.training.flops import count_forward
from benchmark.training.loop import Training
from benchmark.training.monitor import affordable
from benchmark.training.recompute import blocks_of, recompute_blocks

TEACHERS = tuple(
    f"experiment.{name}" for name in ("teacher", "encoder", "limits", "rate_factor", "init", "init_layout")
)


@dataclass(frozen=True)
class Stage(Recipe):
    """One stage of pretraining: a recipe with a budget and a folder."""

    @cached_property
    def key(self) -> str:
        """Identifies the stage, whatever its seed."""
        weights = self.experiment.teacher_weights
        origins = [] if weights is None else [digest_of(weights)]
        return self.config.key(self.dataset.fingerprint, *origins, *([self.start.digest] if self.start else []))

    @property
    def tuning_key(self) -> str:
        """Identifies what a run and the trials of its learning rate share; a step of all of them takes as long."""
        return tuning_key(self.config.text)

    @cached_property
    def checkpoint_key(self) -> str:
        """Identifies the checkpoints that this stage may resume: same stage and seed, same code of training."""
        return f"{hash_of((self.key, self.training_versions, self.files_outside))}-s{self.experiment.seed}"

    @cached_property
    def folder(self) -> Path:
        """Where this stage writes; a trial by another Major version of the code is made again, in another folder."""
        key = self.key
        if self.experiment.is_trial:
            versions = self.versions | self.training_versions
            majors = {name: major(version) for name, version in versions.items()}
            key = hash_of((key, majors, self.files_outside))
        return self.out / name_of(self.pretraining.name, self.dataset.name, self.experiment.seed, key)

    @cached_property
    def training_versions(self) -> dict[str, str]:
        """The versions of the code on which the weights depend: pretraining, method and teacher."""
        return {PRETRAINING: self.versions[PRETRAINING]} | describe.versions(*self._outlines)

    @cached_property
    def files_outside(self) -> str | None:
        """The hash of those files of method and teacher that lie outside this project; None where there are none."""
        return describe.method(self.pretraining.name, *self._outlines)["module_sha256"]

    @cached_property
    def _outline_of_method(self) -> Method:
        """The method without values, and built without a look at the data."""
        with torch.device("meta"):
            return self.method(classes=1)[0]

    @property
    def _outlines(self) -> list[Method]:
        """The method and its teacher's, without values."""
        stages: list[Stage] = [self, *([self.teacher] if self.teacher else [])]
        return [stage._outline_of_method for stage in stages]

    @cached_property
    def teacher(self) -> "TeacherStage | None":
        """The stage of the teacher, with its part of the budget and another seed; None where none is trained."""
        root = self.experiment
        if root.teacher is None or root.teacher_weights is not None:
            return None
        budget = self.whole_budget.part(root.teacher_share)
        experiment = replace(
            root,
            pretraining=root.teacher,
            seed=derive(root.seed, "teacher"),
            teacher=None,
            budget=lambda: budget,
            budget_share=1.0,
            evaluations=(),
            curve_points=0,
            keep_encoders=False,
        )
        return TeacherStage(self.config, experiment, self.images, self.device, self.out, self)

    @property
    def _undivided_budget(self) -> Budget:
        """The budget of the experiment, of which trials spend a share."""
        if self.experiment.budget is None:
            raise ConfigError("experiment.budget is None: say what the run may spend, for instance @Budget.")
        return self.experiment.budget()

    @property
    def whole_budget(self) -> Budget:
        """What all stages together may spend."""
        return self._undivided_budget.part(self.experiment.budget_share)

    @property
    def budget(self) -> Budget:
        """What this stage may spend: the whole budget without what its teacher spends."""
        whole = self.whole_budget
        return whole.without(self.teacher.steps, self.teacher.price) if self.teacher else whole

    def check(self) -> None:
        """Refuse, before an image is decoded, data, methods, optimisers and budgets that cannot work."""
        if self.teacher is not None:
            self.teacher.check()
        if self.experiment.encoder_size is not None:
            raise ConfigError(
                f"experiment.encoder_size = {self.experiment.encoder_size}: an encoder is pretrained on images of "
                f"Images.size. Bind that, and leave encoder_size to the evaluation of an encoder that exists."
            )
        method = self._outline_of_method
        if method.encoder.is_trained:
            raise ConfigError(
                f"The encoder {method.encoder.name} comes with trained weights, and a run from random weights is not "
                f"to be ranked with one from these. Leave Timm.pretrained False and continue from them: "
                f"--set experiment.init=timm:{method.encoder.name}"
            )
        with method_errors(f"{self.pretraining.name} cannot be trained", type(method)):
            method.param_groups()
            method.projection_head()
        if self.pretraining.checkpoint_activations:
            blocks_of(method)
        self.pretraining.optimiser()
        self._check_ranks()
        if self.pretraining.needs_labels and self.outline.train.labels is None:
            raise ConfigError(
                f"{self.pretraining.name} learns from labels, and {self.outline.name} has none. Name their column with "
                f"--set Images.label=..., or choose a method without labels."
            )
        if self.pretraining.needs_labels and self.outline.is_multilabel:
            raise ConfigError(
                f"{self.pretraining.name} learns from one label an image, and images of {self.outline.name} may have "
                f"several. Choose a method without labels."
            )
        batches(self.source(self.outline), self.pretraining.batch_size, self.experiment.seed, "cpu")
        # a calibration would decode images
        self.flops if self.whole_budget.kind == "device_seconds" else self.steps  # noqa: B018

    def _check_ranks(self) -> None:
        """Refuse what several processes of one run cannot do."""
        count = sharing.processes()
        if count > 1 and self.whole_budget.kind == "device_seconds":
            raise ConfigError(
                f"Budget.kind = 'device_seconds': a step is not calibrated on {count} processes. Give a budget in "
                f"FLOPs or samples, or start one process."
            )
        if count > 1 and self.pretraining.compiled:
            raise ConfigError(
                f"Pretraining.compiled = True: a graph cannot hold what {count} processes tell each other. Leave it at "
                f"False, or start one process."
            )

    @cached_property
    def price(self) -> Price:
        """What a step costs: FLOPs and, for a budget in seconds, the seconds that it takes on this device."""
        batch, flops = self.pretraining.batch_size, self.flops
        if self.whole_budget.kind != "device_seconds":
            return Price(batch, flops)
        machine = environment(self.device, self.pretraining.precision)
        names = [machine[name] for name in ("gpu", "driver", "processor", "threads", "torch", "timm", "deterministic")]
        names += [self.pretraining.name, self.tuning_key, self.files_outside, self.dataset.fingerprint]
        names += [repr(self.training_versions), type(self.dataset.pretrain).__name__]  # resident or streamed
        names += [f"{sharing.at_once()} at once"] * (sharing.at_once() > 1)
        path = self.out / "calibrations" / f"{hash_of(names)[:32]}.json"
        measured = calibration.stored(path, lambda: self.scratch(flops), self._undivided_budget.amount)
        return Price(batch, flops, measured.seconds)

    @cached_property
    def steps(self) -> int:
        """The steps that the budget buys."""
        steps, planned = self.budget.plan(self.price), self.pretraining.schedule_steps
        if planned is not None and planned < steps:
            raise ConfigError(
                f"Pretraining.schedule_steps = {planned:,}, but the budget buys {steps:,} steps, and the schedule ends "
                f"before them. Give at least as many, or None for a schedule as long as the run."
            )
        return steps

    @cached_property
    def probe(self) -> OnlineKNN | None:
        """What measures the encoder during training; None without labels of train, or where these are learnt."""
        if self.pretraining.needs_labels:
            return None
        return online_knn(self.dataset, self.experiment.seed, self.device, self.pretraining.precision)

    @property
    def points(self) -> int:
        """How often that is done, or the encoder kept: as often as asked, or less where it would cost much."""
        if self.experiment.is_trial or not (self.probe or self.experiment.keep_encoders):
            return 0
        with torch.device("meta"):
            forward = count_forward(self.experiment.encoder(self.images.size), self.images.size)
        images = self.probe.bank + self.probe.queries if self.probe else 0
        return affordable(self.experiment.curve_points, images * forward, self.steps * self.flops)

    def training(self, checkpoint_seconds: float, teacher: Encoder | None = None) -> Training:
        """Build the training of this stage, on its device.

        Under a budget in seconds, steps of a scratch training come first, so that no run is charged for what a process
        does once, such as loading kernels. They are left out while the teacher is still to come.
        """
        is_complete = teacher is not None or not self.pretraining.needs_teacher
        if is_complete and self.whole_budget.kind == "device_seconds":
            self.scratch(self.price.flops).advance(calibration.WARMUP)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        training = self._training(self.steps, self.price.flops, checkpoint_seconds, self.budget.most_seconds, teacher)
        training.points, training.probe = self.points, self.probe
        if self.experiment.keep_encoders:
            training.keep = self.export
        return training

    def scratch(self, flops: int) -> Training:
        """Build a training whose steps are timed, or inspected, and discarded."""
        return self._training(calibration.WHOLE, flops, math.inf, math.inf, None)

    def _training(
        self, steps: int, flops: int, checkpoint_seconds: float, most_seconds: float, teacher: Encoder | None
    ) -> Training:
        method, views = self.method(teacher)
        source, labels = self.source(self.dataset), self.dataset.train.labels
        images = self.dataset.pretrain_on(self.device) if source is self.dataset.pretrain else source.to(self.device)
        data = batches(images, self.pretraining.batch_size, self.experiment.seed, self.device)
        method.to(self.device)
        choose_attention(method, self.device, self.pretraining.precision)
        if method.encoder.n_tokens is None:
            choose_memory_format(method, self.device)
        if self.pretraining.checkpoint_activations:
            recompute_blocks(method)
        optimiser = self.pretraining.optimiser().build(method.param_groups(), self.pretraining.batch_size)
        optimiser.scale(self.experiment.rate_factor)
        mean, std = self.statistics
        return Training(
            method=method,
            optimiser=optimiser,
            views=views,
            data=data,
            mean=mean,
            std=std,
            steps=steps,
            schedule_steps=max(steps, self.pretraining.schedule_steps or 0),
            flops_per_step=flops,
            seed=self.experiment.seed,
            precision=self.pretraining.precision,
            device=self.device,
            folder=self.folder,
            key=self.checkpoint_key,
            checkpoint_seconds=checkpoint_seconds,
            most_seconds=most_seconds,
            compiled=self.pretraining.compiled,
            labels=labels.to(self.device) if labels is not None and self.pretraining.needs_labels else None,
        )

    def export(self, encoder: Encoder, step: int | None = None) -> Path:
        """Write the weights of the encoder, at a step or in the end, under timm's names, and return the path."""
        path = self.weights if step is None else self.folder / f"encoder-step-{step:08d}.safetensors"
        tensors.write(path, encoder.net.state_dict())
        return path

    @property
    def weights(self) -> Path:
        """The file of the encoder's weights, which is written when the stage is done."""
        return self.folder / "encoder.safetensors"


@dataclass(frozen=True)
class TeacherStage(Stage):
    """The stage of a teacher, which experiments share: its folder is named by all that its weights depend on."""

    student: Stage

    @cached_property
    def dataset(self) -> Dataset:
        """The data of the student, so that they are decoded once."""
        return self.student.dataset

    @cached_property
    def key(self) -> str:
        """Identifies all that the weights depend on."""
        return digest(
            self.config.canonical.part(TEACHERS),
            (self.whole_budget, self.student.experiment.seed, self.dataset.fingerprint),
            (self.training_versions, self.files_outside, *([self.start.digest] if self.start else [])),
            (torch.__version__, torch.get_num_threads(), str(self.device)),
        )

    @property
    def tuning_key(self) -> str:
        """Identifies what a step's seconds depend on; a teacher has no trials."""
        return self.key

    @cached_property
    def folder(self) -> Path:
        """Where the teacher is written."""
        return (
            self.out
            / "teachers"
            / name_of(self.pretraining.name, self.dataset.name, self.student.experiment.seed, self.key)
        )
