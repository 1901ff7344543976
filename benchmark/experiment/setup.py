"""A stage of pretraining as a gin file describes it: method, views, optimiser, batch size and precision."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import gin

from benchmark.annotations import Decided
from benchmark.errors import ConfigError
from benchmark.experiment.environment import native_precision
from benchmark.method import Method
from benchmark.training.optim import Recipe
from benchmark.views.recipes import View, ViewLimits


@gin.register
@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A stage of pretraining, as factories: nothing is built before the seed is set.

    `name` is what tables call the method, which is built as `method(encoder)` or, where its constructor has a
    parameter `teacher`, as `method(encoder, teacher)`. `batch_size` is global. `precision` is that of encoders and
    heads under autocast; losses are float32 always. "auto" is bfloat16 where the device computes it natively, else
    float32; a configuration, its key and the record name what it became. `compiled` passes the forward pass, and with
    it the backward, through torch.compile in its default mode; numbers then differ by rounding, and the time it takes
    is not charged.
    """

    name: str
    method: Callable[..., Method]
    views: Callable[[ViewLimits], tuple[View, ...]]
    optimiser: Callable[[], Recipe]
    batch_size: int
    precision: Annotated[Literal["float32", "bfloat16"], Decided(native_precision)]
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ConfigError(
                f"Pretraining.batch_size = {self.batch_size}: batch norm and negatives need at least 2 images."
            )

    @property
    def is_taught(self) -> bool:
        """Whether the method learns from a teacher."""
        made_by = self.method.__init__ if isinstance(self.method, type) else self.method  # type: ignore[misc]
        return "teacher" in inspect.signature(made_by).parameters

    def recipe(self, limits: ViewLimits, method: Method) -> tuple[View, ...]:
        """Return one view distribution per view of the method."""
        views = self.views(limits)
        if len(views) != method.n_views:
            raise ConfigError(
                f"{type(method).__name__} takes {method.n_views} view(s), but Pretraining.views makes {len(views)}. "
                f"Bind Pretraining.views to a recipe of {method.n_views}."
            )
        return views
