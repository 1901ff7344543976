"""What is examined: a configuration, the data it found, its encoder and evaluations, trained here or elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

import gin
import torch

from benchmark import PRETRAINING_VERSION
from benchmark.annotations import Location
from benchmark.config import load as configuration
from benchmark.config.load import Config
from benchmark.data.images import Dataset, Images, Outline, Split
from benchmark.data.streaming import subset
from benchmark.data.subsets import holdout
from benchmark.errors import ConfigError
from benchmark.evals import harness
from benchmark.evals.finetune import ConvNetTuning, FineTune, ViTTuning
from benchmark.evals.harness import Evaluation
from benchmark.evals.knn import KNN, KNNProjection
from benchmark.evals.linear import Linear
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.evals.retrieval import Retrieval
from benchmark.evals.semi_finetune import SemiFineTune
from benchmark.evals.semi_probe import SemiProbe
from benchmark.experiment.environment import use_device
from benchmark.experiment.setup import Pretraining
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder
from benchmark.nets.timm_net import Timm
from benchmark.randomness import derive
from benchmark.report.cells import PRETRAINING
from benchmark.report.tuning import fingerprint_without_test
from benchmark.training.budget import Budget
from benchmark.views.recipes import ViewLimits

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
    "Timm",
    "ViTTuning",
]


Data = TypeVar("Data", bound=Outline)


@gin.register("experiment")
@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The root of a configuration, as factories: nothing is built before the seed is set.

    Without `pretraining` and `budget` it describes the evaluation of an encoder that exists.

    A method that learns from a teacher is built as `method(encoder, teacher)`, both of the same architecture. The
    `teacher` stage is pretrained first, on `teacher_share` of the budget; the student gets what is left. A file of
    weights (`teacher_weights`, the encoder.safetensors of another run) takes its place, leaves the whole budget to the
    student, and puts the run into the division `open`, since what the teacher cost is not counted.

    Every stage trains at `rate_factor` times the rates of its recipe, and all of them together on `budget_share` of
    the budget. A trial, from which rates are chosen, never sees the test set: a hold-out of train takes its place.
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
    rate_factor: float = 1.0
    budget_share: float = 1.0
    is_trial: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"experiment.seed = {self.seed}: a seed is a whole number from 0 to 2^63 - 1.")
        if not self.rate_factor > 0:
            raise ConfigError(f"experiment.rate_factor = {self.rate_factor}: a rate is above 0; 1.0 is the recipe's.")
        if not 0 < self.budget_share <= 1:
            raise ConfigError(
                f"experiment.budget_share = {self.budget_share}: a run spends a part of its budget above 0 and up to 1."
            )
        if not 0 < self.teacher_share < 1:
            raise ConfigError(
                f"experiment.teacher_share = {self.teacher_share}: the teacher's part of the budget is above 0 and "
                f"below 1, so that something is left for the student."
            )


@dataclass(frozen=True)
class Examination:
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
