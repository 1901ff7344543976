"""The recipe of a stage: its settings, its images, its method, and what a step costs."""

from dataclasses import dataclass
from functools import cached_property

import torch

from benchmark.data.dataset import Outline
from benchmark.data.pixels import Pixels
from benchmark.errors import ConfigError, method_errors
from benchmark.experiment.session import Session
from benchmark.experiment.setup import Pretraining
from benchmark.method import Method
from benchmark.nets.encoders import Encoder
from benchmark.randomness import seed_torch
from benchmark.report import fields
from benchmark.training.flops import count_step
from benchmark.views.recipes import View


@dataclass(frozen=True)
class Recipe(Session):
    """What a stage trains, whatever its budget and its place."""

    @cached_property
    def pretraining(self) -> Pretraining:
        """The method and its settings, built."""
        if self.experiment.pretraining is None:
            raise ConfigError("experiment.pretraining is None: there is nothing to train. Give the file of a method.")
        return self.experiment.pretraining()

    def source(self, data: Outline) -> Pixels:
        """Return the images to train on: those to pretrain on, or for a method with labels those of train."""
        return data.train.images if self.pretraining.needs_labels else data.pretrain

    @property
    def began(self) -> dict[str, fields.Start]:
        """The part of a record that says from which weights pretraining went on; empty where from random ones."""
        if self.start is None:
            return {}
        with torch.device("meta"):
            _, positions = self.initial()
        return {"start": self.start.described(positions)}

    def method(self, teacher: Encoder | None = None, *, classes: int | None = None) -> tuple[Method, tuple[View, ...]]:
        """Build the method on a fresh encoder, and its views; without a `teacher`, an untrained one takes its place.

        A method that learns from labels has as many `classes`, by default those of the data.
        """
        has_teacher = self.experiment.teacher is not None or self.experiment.teacher_weights is not None
        if has_teacher != self.pretraining.needs_teacher:
            need, remedy = (
                ("no", "Leave both None.") if has_teacher else ("a", "Bind experiment.teacher to a Pretraining.")
            )
            raise ConfigError(
                f"{self.pretraining.name} learns from {need} teacher, but experiment.teacher and "
                f"experiment.teacher_weights give {'one' if has_teacher else 'none'}. {remedy}"
            )
        with method_errors(f"{self.pretraining.name} cannot be built", self.pretraining.method):
            encoder, _ = self.initial()
            teachers = [teacher or self.experiment.encoder(self.images.size)] if has_teacher else []
            seed_torch(self.experiment.seed, "method")
            outputs = [classes or len(self.outline.classes)] if self.pretraining.needs_labels else []
            method = self.pretraining.method(encoder, *teachers, *outputs)
            if not isinstance(getattr(method, "encoder", None), Encoder):
                raise ConfigError(f"{type(method).__name__} has no encoder: have __init__ set self.encoder = encoder.")
            return method, self.pretraining.recipe(self.experiment.limits(), method)

    @property
    def sides(self) -> list[int]:
        """The sides of the views, in pixels."""
        return [view.side(self.images.size) for view in self.pretraining.views(self.experiment.limits())]

    @cached_property
    def flops(self) -> int:
        """The FLOPs of a step."""
        return count_step(lambda: self.method()[0], self.pretraining.batch_size, self.sides)
