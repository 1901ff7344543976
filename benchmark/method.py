"""The contract between the harness and a method.

The harness owns the loop, the clock, the data and the labels. A method sees views and returns a loss. It is built by
its factory as `method(encoder)`, or `method(encoder, teacher)` if it learns from a trained encoder of the same
architecture (where it learns from labels, `method(encoder, classes)`): positional parameters come from the harness,
keyword-only parameters from gin.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.momentum import MomentumCopy
from benchmark.randomness import Draws

Views = Sequence[Tensor]
Visible = Sequence[Tensor | None]


@dataclass(frozen=True)
class Step:
    """What one forward pass of a method hands to the loop."""

    loss: Tensor  # scalar, float32
    logs: dict[str, Tensor] = field(default_factory=dict)  # detached scalars
    carry: dict[str, Tensor] = field(default_factory=dict)  # detached; read by `after_backward` of the same step


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share an optimiser setting.

    `rate_scale` multiplies the base rate; `scheduled=False` keeps the rate constant, warm-up included; `decay`
    replaces the recipe's weight decay and its schedule; the parameters rest while the progress is below `frozen`.
    """

    params: list[nn.Parameter]
    rate_scale: float = 1.0
    scheduled: bool = True
    decay: float | None = None
    frozen: float = 0.0


class Method(nn.Module, ABC):
    """A self-supervised method. `forward` is pure: it writes no attribute and draws only from `draws`.

    `version` is Major.Minor of what the class itself does, without the classes it extends. Raise Major if its numbers
    change, which marks its lines in the tables as stale, and Minor where they differ by rounding.
    """

    version: str = "1.0"
    encoder: Encoder
    n_views: int = 2
    takes_more_views: bool = False
    """Whether the recipe may make more views than `n_views`, such as small crops."""
    progress: Tensor
    """How much of the run is done before this step, in [0, 1): a tensor of one number, for schedules in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def set_progress(self, progress: float) -> None:
        """Say before a step how much of the run is done, t / T as in `after_step`; the harness calls it."""
        self.progress.fill_(progress)

    @abstractmethod
    def forward(self, views: Views, draws: Draws) -> Step:
        """Return the loss of one batch; `views` are `n_views` tensors `(batch, 3, height, width)`, normalised.

        Each view has the size that the recipe gives it.
        """

    def after_backward(self, step: Step) -> None:
        """Act on `step.carry` once the gradients exist, for instance push keys (before, it would break autograd)."""

    def after_step(self, progress: float) -> None:
        """Act after the optimiser; `progress` in [0, 1) is t / T of the step just taken, t counted from 0.

        T are the steps of the schedule: those of the run, unless the run is the beginning of a longer one.
        """

    def param_groups(self) -> list[ParamGroup]:
        """Group the trainable parameters for the optimiser."""
        return [ParamGroup([p for p in self.parameters() if p.requires_grad])]

    def projection_head(self) -> nn.Module | None:
        """Return the module from pooled features `(batch, width)` to projections, None where there is none."""
        return None

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        """Return images for figures, made of views as in `forward`, by `figure/row`; most methods make none.

        They are `(batch, 3, height, width)`, normalised as the views are, NaN where a pixel is hidden.
        """
        return {}


class Labelled(Method):
    """A method that learns from labels: it is built as `method(encoder, classes)` and trains on the train split.

    Before each forward the harness sets `labels`, the classes `(batch,)` of the images, int64. Tables show such a
    method beside the others, and do not rank it.
    """

    labels: Tensor


@dataclass(frozen=True)
class Branch:
    """One view after the online network: `(batch, dim)` prediction and projection, and the encoder's features."""

    prediction: Tensor
    projection: Tensor
    features: Features


class Siamese(Method):
    """A two-view method that other methods can build on.

    `compare` is the loss of one direction, from one view's prediction to another view's target; mixtures weight it on
    their own. `objective` is the whole loss: the sum over `directions`, unless the source reduces it otherwise. A
    subclass with a momentum copy binds it to `target` and moves it in `after_step`.
    """

    online_views: tuple[int, ...] = (0, 1)
    target_views: tuple[int, ...] = (0, 1)
    directions: tuple[tuple[int, int], ...] = ((0, 1), (1, 0))

    def __init__(self, encoder: Encoder, projector: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.predictor = nn.Identity() if predictor is None else predictor
        self.target: MomentumCopy | None = None

    def encode(self, views: Views, visible: Visible | None = None) -> tuple[Branch, ...]:
        """Pass each view through encoder, projector and predictor, one forward per view."""
        branches = []
        for view, kept in zip(views, visible or [None] * len(views), strict=True):
            features = self.encoder(view, kept)
            projection = self.projector(features.pooled)
            branches.append(Branch(self.predictor(projection), projection, features))
        return tuple(branches)

    def targets(
        self, views: Views, online: dict[int, Branch], draws: Draws, visible: Visible | None = None
    ) -> dict[int, Tensor]:
        """Return what each target view is compared with.

        By default the momentum copy's projection; without a copy the online projection, with its gradient.
        """
        if self.target is None:
            return {view: online[view].projection for view in self.target_views}
        return {k: self.target(views[k], None if visible is None else visible[k]) for k in self.target_views}

    def passes(
        self, views: Views, draws: Draws, visible: Visible | None = None
    ) -> tuple[dict[int, Branch], dict[int, Tensor]]:
        """Run every forward pass of the method once: the online branches and the targets, by view index."""
        chosen = None if visible is None else [visible[view] for view in self.online_views]
        branches = self.encode([views[view] for view in self.online_views], chosen)
        online = dict(zip(self.online_views, branches, strict=True))
        return online, self.targets(views, online, draws, visible)

    @abstractmethod
    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ONE direction; both `(batch, dim)`."""

    def objective(self, online: dict[int, Branch], targets: dict[int, Tensor]) -> Tensor:
        """Return the WHOLE loss with the reduction of its source."""
        return torch.stack([self.compare(online[a].prediction, targets[b]) for a, b in self.directions]).sum()

    def carry(self, targets: dict[int, Tensor]) -> dict[str, Tensor]:
        """Return the detached tensors that `after_backward` needs, such as the keys to push."""
        return {}

    def projection_head(self) -> nn.Module | None:
        return self.projector

    def forward(self, views: Views, draws: Draws) -> Step:
        online, targets = self.passes(views, draws)
        return Step(self.objective(online, targets), carry=self.carry(targets))


class Container(Method):
    """A method that adds a term to a base: it shows the base's encoder and passes every hook on.

    The base is built first, so that a container whose added term has weight 0 starts from the same weights as its base.
    """

    def __init__(self, encoder: Encoder, base: Callable[[Encoder], Siamese]) -> None:
        super().__init__()
        self.base = base(encoder)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The encoder that is evaluated and exported."""
        return self.base.encoder

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.base.set_progress(progress)

    def after_backward(self, step: Step) -> None:
        self.base.after_backward(step)

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)

    def projection_head(self) -> nn.Module | None:
        return self.base.projection_head()

    def param_groups(self) -> list[ParamGroup]:
        """Return the base's groups and one more for the parameters that the container adds."""
        in_base = {id(p) for p in self.base.parameters()}
        added = [p for p in self.parameters() if p.requires_grad and id(p) not in in_base]
        return [*self.base.param_groups(), *([ParamGroup(added)] if added else [])]
