"""What gin files describe: an experiment and its stages of pretraining."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import gin

from benchmark import evals
from benchmark.annotations import Count, Decided, Kept, Location, Readings
from benchmark.data.images import Images
from benchmark.errors import ConfigError
from benchmark.evals.evaluation import Evaluation
from benchmark.experiment.environment import native_precision
from benchmark.method import Method
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder
from benchmark.nets.resnet import ResNet
from benchmark.nets.swin import Swin
from benchmark.nets.timm_net import Timm
from benchmark.training.budget import Budget
from benchmark.training.optim import OptimiserSpec
from benchmark.views.recipes import View, ViewLimits

__all__ = [
    "Experiment",
    "PixelDecoder",
    "Pretraining",
    "ResNet",
    "Swin",
    "Timm",
    "evals",
]  # with what gin files may name


@gin.register
@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A stage of pretraining, as factories: nothing is built before the seed is set.

    `name` is the method's name in tables. It is built as `method(encoder)` or, where its constructor has a parameter
    `teacher`, as `method(encoder, teacher)`, or with a parameter `classes` as `method(encoder, classes)`. `batch_size`
    is global. `precision` is that of encoders and heads under autocast; losses always are float32. "auto" is bfloat16
    where the device computes it natively, else float32; the configuration, its key and the record name the choice.
    `schedule_steps` are those of the schedules of rate and momentum where a run is the beginning of a longer one; None
    are the steps that the budget buys. `compiled` passes the forward and backward pass through torch.compile in its
    default mode: numbers then differ by rounding, and the time of compilation is not charged. With
    `checkpoint_activations` a ViT or a Swin computes the insides of its blocks again for the backward pass: that takes
    less memory and about a third more time, which counts, and the same bits and the same counted FLOPs.
    """

    name: str
    method: Callable[..., Method]
    views: Callable[[ViewLimits], tuple[View, ...]]
    optimiser: Callable[[], OptimiserSpec]
    batch_size: int
    precision: Annotated[Literal["float32", "bfloat16"], Decided(native_precision)]
    schedule_steps: Count | None = None
    compiled: bool = False
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("Pretraining.name is empty: tables and folders of runs name a method by it.")
        if self.batch_size < 2:
            raise ConfigError(
                f"Pretraining.batch_size = {self.batch_size}: batch norm and negatives need at least 2 images."
            )

    @property
    def needs_teacher(self) -> bool:
        """Whether the method learns from a teacher."""
        return self._takes("teacher")

    @property
    def needs_labels(self) -> bool:
        """Whether the method learns from labels."""
        return self._takes("classes")

    def _takes(self, parameter: str) -> bool:
        factory = self.method.__init__ if isinstance(self.method, type) else self.method  # type: ignore[misc]
        return parameter in inspect.signature(factory).parameters

    def recipe(self, limits: ViewLimits, method: Method) -> tuple[View, ...]:
        """Return the distributions of the method's views, one for each."""
        views, least = self.views(limits), method.n_views
        if len(views) != least and not (method.takes_more_views and len(views) > least):
            number = f"{least}{' or more' if method.takes_more_views else ''}"
            raise ConfigError(
                f"{type(method).__name__} takes {number} view(s), but Pretraining.views makes {len(views)}. "
                f"Bind Pretraining.views to a recipe of {number}."
            )
        return views


@gin.register("experiment")
@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The root of a configuration, as factories: nothing is built before the seed is set.

    Without `pretraining` and `budget` it describes the evaluation of an encoder that exists.

    A method that learns from a teacher is built as `method(encoder, teacher)`, both of the same architecture. The
    `teacher` is pretrained first, on `teacher_share` of the budget; the student gets the rest. A file of weights in its
    place (`teacher_weights`, the encoder.safetensors of another run) leaves the whole budget to the student, and puts
    the run into the division `open`, since the cost of the teacher is not counted.

    With `init` every stage goes on from trained weights: `timm:NAME` for those that timm publishes, the folder of a run
    of this benchmark, or a file in the layout `init_layout` of `benchmark.nets.layouts`. Their inputs keep the mean
    and deviation that they were trained with, and positions of a ViT are interpolated where the image size differs. The
    run is of the division `open`, and its start is measured as a floor.

    Every stage trains at `rate_factor` times the learning rates of its recipe, all of them together on `budget_share`
    of the budget. A trial, from which learning rates are chosen, is scored on a hold-out of train, never on test.

    At `curve_points` equal shares of the budget, kNN accuracy is measured on images of train, off the clock, and
    `keep_encoders` also stores the weights. Where this costs over 5 % of the FLOPs of the run, there are fewer points:
    of 8 then 4, 2 or the last. Trials and teachers have none. Neither option changes what a run computes, nor makes it
    another run.

    `encoder_size` is the side of the images on which an encoder that is only evaluated was trained, where it is not
    `Images.size`: it is built for that side, and its positions are then interpolated.
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
    init: str | None = None
    init_layout: str = "run"
    rate_factor: float = 1.0
    budget_share: float = 1.0
    is_trial: bool = False
    curve_points: Readings = 8
    keep_encoders: Kept = False
    encoder_size: Count | None = None
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
        if self.keep_encoders and not self.curve_points:
            raise ConfigError(
                "experiment.keep_encoders = True keeps the encoder at each point of the curve, but "
                "experiment.curve_points = 0: there is none. Bind it to a number above 0."
            )
        if not 0 < self.teacher_share < 1:
            raise ConfigError(
                f"experiment.teacher_share = {self.teacher_share}: the teacher's part of the budget is above 0 and "
                f"below 1, so that something is left for the student."
            )
