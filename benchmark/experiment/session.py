"""What is examined: a configuration, the data it found, its encoder and evaluations, trained here or elsewhere."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

import torch

from benchmark import PRETRAINING_VERSION
from benchmark.config import load as configuration
from benchmark.config.load import Config
from benchmark.data.images import Dataset, Images, Outline, Split
from benchmark.data.streaming import subset
from benchmark.data.subsets import holdout
from benchmark.errors import ConfigError
from benchmark.evals import harness
from benchmark.evals.harness import Evaluation
from benchmark.experiment.environment import use_device
from benchmark.experiment.setup import Experiment
from benchmark.nets.encoders import Encoder
from benchmark.randomness import derive
from benchmark.report.cells import PRETRAINING
from benchmark.report.tuning import fingerprint_without_test

Data = TypeVar("Data", bound=Outline)


@dataclass(frozen=True)
class Session:
    """An encoder and what it is scored on: the configuration, the data, and where results go."""

    config: Config
    experiment: Experiment
    images: Images
    device: torch.device
    out: Path

    @classmethod
    def open(cls, config: Config, out: Path) -> Self:
        """Build the experiment's factories, find the data, and refuse what cannot be evaluated."""
        device = use_device()
        experiment: Experiment = configuration.build(config)
        made = cls(config, experiment, experiment.data(), device, out)
        harness.check(made.outline, made.evaluations)
        return made

    @cached_property
    def _found(self) -> Outline:
        return self.images.outline()

    @cached_property
    def outline(self) -> Outline:
        """The data as far as its tables tell: whatever can be refused is refused by this, while nothing is decoded."""
        return without_test(self._found) if self.experiment.is_trial else self._found

    @cached_property
    def dataset(self) -> Dataset:
        """The data with its pixels, which are decoded when this is first asked for."""
        whole = self.images.decoded(self._found)
        return without_test(whole) if self.experiment.is_trial else whole

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations of the experiment."""
        return tuple(evaluation() for evaluation in self.experiment.evaluations)

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions of the code that is used, by name: of pretraining as a whole, and of each evaluation."""
        evaluations = {type(evaluation).__name__: evaluation.version for evaluation in self.evaluations}
        return {PRETRAINING: PRETRAINING_VERSION} | evaluations

    def encoder(self) -> Encoder:
        """Build the encoder from the seed: the same initial weights for every method and for the floor."""
        torch.manual_seed(derive(self.experiment.seed, "encoder"))
        return self.experiment.encoder(self.images.size)


def without_test(data: Data) -> Data:
    """Return the data for choices: a tenth of train is the test split, and nothing is trained on it."""
    labels = data.train.labels
    if labels is None:
        raise ConfigError(f"{data.name} has no labels to choose by. Name their column: --set Images.label=...")
    fit, held = holdout(labels, data.name)
    train = Split(subset(data.train.images, fit), labels[fit])
    made = replace(
        data,
        pretrain=train.images if data.pretrain is data.train.images else data.pretrain,
        train=train,
        test=Split(subset(data.train.images, held), labels[held]),
    )
    if isinstance(made, Dataset):
        return replace(made, fingerprint=fingerprint_without_test(made.fingerprint))
    return made
