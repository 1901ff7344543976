"""An opened experiment: its configuration, data, encoder and evaluations."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn

from benchmark import PRETRAINING_VERSION
from benchmark.config import load as configuration
from benchmark.config.load import Config
from benchmark.data.dataset import Dataset, Outline, Split
from benchmark.data.images import Images
from benchmark.data.streaming import subset
from benchmark.data.subsets import holdout
from benchmark.errors import ConfigError
from benchmark.evals import extraction, harness
from benchmark.evals.detector import Pyramid
from benchmark.evals.evaluation import Evaluation, Results, check, check_layers
from benchmark.experiment.environment import use_device
from benchmark.experiment.setup import Experiment
from benchmark.experiment.start import Start
from benchmark.nets.encoders import Encoder, Statistics
from benchmark.randomness import seed_torch
from benchmark.report.cells import PRETRAINING
from benchmark.report.tuning import fingerprint_without_test

Data = TypeVar("Data", bound=Outline)


@dataclass(frozen=True)
class Session:
    """An experiment with its data and device; `out` is the folder of all results."""

    config: Config
    experiment: Experiment
    images: Images
    device: torch.device
    out: Path

    @classmethod
    def open(cls, config: Config, out: Path) -> Self:
        """Build the experiment, find its data, and refuse what cannot be evaluated."""
        device = use_device()
        experiment: Experiment = configuration.build(config)
        session = cls(config, experiment, experiment.data(), device, out)
        check(session.outline, session.evaluations)
        with torch.device("meta"):
            check_layers(session.encoder, session.evaluations)
            if session.outline.has_boxes:
                Pyramid(session.fitted(session.encoder()), 1, session.images.size)
            elif session.outline.has_masks:
                view = torch.zeros(1, 3, session.images.size, session.images.size)
                session.fitted(session.encoder()).eval().maps(view)
        return session

    @cached_property
    def _outline(self) -> Outline:
        with torch.device("cpu"):  # whatever the device on which a method is built
            return self.images.outline()

    @cached_property
    def outline(self) -> Outline:
        """The data without pixels: enough to refuse what cannot work before an image is decoded."""
        return without_test(self._outline) if self.experiment.is_trial else self._outline

    @cached_property
    def dataset(self) -> Dataset:
        """The data with its pixels, which are decoded at the first use."""
        data = self.images.decoded(self._outline)
        return without_test(data) if self.experiment.is_trial else data

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations of the experiment, built."""
        return tuple(evaluation() for evaluation in self.experiment.evaluations)

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions of pretraining as a whole and of each evaluation, by name."""
        evaluations = {type(evaluation).__name__: evaluation.version for evaluation in self.evaluations}
        return {PRETRAINING: PRETRAINING_VERSION} | evaluations

    def encoder(self) -> Encoder:
        """Build the encoder from the seed: every method and the floor start from the same weights."""
        seed_torch(self.experiment.seed, "encoder")
        return self.experiment.encoder(self.experiment.encoder_size or self.images.size)

    def fitted(self, encoder: Encoder) -> Encoder:
        """Return the encoder, which takes images of the data set's size from now on."""
        encoder.resize(self.images.size)
        return encoder

    @cached_property
    def start(self) -> Start | None:
        """The trained weights from which pretraining goes on; None where it begins from random ones."""
        init = self.experiment.init
        with torch.device("cpu"):  # whatever the device on which a method is built
            return None if init is None else Start.find(init, self.experiment.init_layout)

    def initial(self) -> tuple[Encoder, str | None]:
        """Return the encoder with which pretraining begins, and how its positions were interpolated, if they were."""
        encoder = self.encoder()
        return encoder, self.start.load(encoder) if self.start else None

    @cached_property
    def statistics(self) -> Statistics:
        """The mean and deviation by which images are normalised: those that the encoder states, or of the data."""
        with torch.device("meta"):
            encoder, _ = self.initial()
        return encoder.statistics or (self.dataset.mean, self.dataset.std)

    def evaluate(self, encoder: Encoder, **options: Any) -> Results:
        """Score an encoder by the evaluations of the experiment; `options` are those of the harness."""
        limits = self.experiment.limits()
        return harness.evaluate_encoder(encoder, self.dataset, self.evaluations, self.device, limits=limits, **options)

    def follow(self, encoder: Encoder, projector: nn.Module | None) -> None:
        """Take part in an evaluation by rank 0 that is `divided`, in a process of another rank."""
        limits = self.experiment.limits()
        extraction.follow(encoder, self.dataset, self.device, limits=limits, projector=projector)


def without_test(data: Data) -> Data:
    """Return the data by which rates are chosen: a hold-out of a tenth of train takes the place of the test split."""
    labels = data.train.labels
    if labels is None:
        raise ConfigError(f"{data.name} has no labels to choose by. Name their column: --set Images.label=...")
    fit, held = holdout(labels, data.name)
    train = Split(subset(data.train.images, fit), labels[fit])
    changed = replace(
        data,
        pretrain=train.images if data.pretrain is data.train.images else data.pretrain,
        train=train,
        test=Split(subset(data.train.images, held), labels[held]),
    )
    if isinstance(changed, Dataset):
        return replace(changed, fingerprint=fingerprint_without_test(changed.fingerprint))
    return changed
