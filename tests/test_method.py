"""The contract: draws, the two-view method, and the container that adds to one."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from benchmark.method import Branch, Container, Method, ParamGroup, Siamese, Step, Views
from benchmark.nets.encoders import Encoder, Features
from benchmark.randomness import Draws


class Toy(Encoder):
    """Flattens a view and keeps a log of what it was asked to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.width = nn.Linear(12, 4), 4
        self.calls: list[Tensor | None] = []

    def forward(
        self, view: Tensor, visible: Tensor | None = None, fill: tuple[Tensor, Tensor] | None = None
    ) -> Features:
        self.calls.append(visible)
        return Features(self.net(view.flatten(1)))


class Pair(Siamese):
    """The squared distance of both directions, with its hooks on record."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, nn.Linear(4, 3), nn.Linear(3, 3))
        self.seen: list[object] = []

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().sum()

    def carry(self, targets: dict[int, Tensor]) -> dict[str, Tensor]:
        return {f"target {view}": target.detach() for view, target in targets.items()}

    def after_backward(self, step: Step) -> None:
        self.seen.append(step)

    def after_step(self, progress: float) -> None:
        self.seen.append(progress)

    def param_groups(self) -> list[ParamGroup]:
        halves = [[*self.encoder.parameters(), *self.projector.parameters()], list(self.predictor.parameters())]
        return [ParamGroup(halves[0]), ParamGroup(halves[1], scheduled=False)]


class OneSided(Pair):
    """Only the first view passes the online network, and only the second is a target."""

    online_views, target_views, directions = (0,), (1,), ((0, 1),)

    def targets(
        self, views: Views, online: dict[int, Branch], draws: Draws, visible: object = None
    ) -> dict[int, Tensor]:
        return {1: self.projector(self.encoder(views[1]).pooled).detach()}


class Adding(Container):
    """A container with one layer of its own."""

    def __init__(self, encoder: Encoder, base: Callable[[Encoder], Siamese]) -> None:
        super().__init__(encoder, base)
        self.own = nn.Linear(2, 2)

    def forward(self, views: Views, draws: Draws) -> Step:
        return Step(torch.zeros(()))


class Bare(Method):
    """No more than a method must have."""

    def forward(self, views: Views, draws: Draws) -> Step:
        return Step(torch.zeros(()))


@pytest.fixture
def views() -> list[Tensor]:
    return list(torch.randn(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(0)))


def test_draws_are_a_function_of_seed_step_and_name() -> None:
    """Oracle: equal names give equal numbers whatever was drawn before; any other seed, step or name gives others."""
    draws = Draws(1, 2, 4)
    first = draws.rows("mask", 16)
    draws.rows("other", 3)
    torch.manual_seed(99)
    assert torch.equal(draws.rows("mask", 16), first)
    assert torch.equal(Draws(1, 2, 4).shared("mask", 4, 16), first)
    others = [Draws(2, 2, 4).rows("mask", 16), Draws(1, 3, 4).rows("mask", 16), draws.rows(("mask", 0), 16)]
    assert not any(torch.equal(first, other) for other in others)


def test_normal_draws_are_normal() -> None:
    """Oracle: Kolmogorov and Smirnov's test; a row is its image's, and no two numbers of a row are alike."""
    drawn = Draws(0, 0, 64).normal("noise", 3, 20)
    assert drawn.shape == (64, 3, 20)
    assert drawn.unique().numel() == drawn.numel()
    assert kstest(drawn.flatten(), "norm").pvalue > 0.01
    assert kstest(drawn.mean((1, 2)) * 60**0.5, "norm").pvalue > 0.01


def test_draws_leave_the_global_generator_alone() -> None:
    """Oracle: the state of torch's own generator."""
    state = torch.get_rng_state()
    Draws(0, 0, 4).rows("mask", 16)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_uniform() -> None:
    """Oracle: a Kolmogorov-Smirnov test over many steps, and the half-open interval."""
    numbers = torch.cat([Draws(0, step, 8).rows("mask", 16).flatten() for step in range(100)])
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1


def test_draws_have_shapes_on_the_meta_device() -> None:
    """Oracle: the shapes, where there are no numbers."""
    draws = Draws(0, 0, 4, "meta")
    assert (draws.rows("a", 3).shape, draws.shared("a", 3).shape) == ((4, 3), (3,))
    assert draws.rows("a", 3).is_meta


def test_default_parameter_group_has_what_is_trainable() -> None:
    """Oracle: the parameters by hand, without a frozen one."""
    method = Bare()
    method.layer, method.frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    (group,) = method.param_groups()
    assert [id(p) for p in group.params] == [id(p) for p in method.layer.parameters()]
    assert (group.rate_scale, group.scheduled, group.decay) == (1.0, True, None)


def test_a_method_without_a_loss_cannot_be_built() -> None:
    """Oracle: Python's refusal of an abstract class, which names what is missing before anything is trained."""
    unfinished = type("Unfinished", (Pair,), {"compare": Siamese.compare})
    with pytest.raises(TypeError, match=r"Unfinished.*compare"):
        unfinished(Toy())


def test_siamese_compares_predictions_with_projections(views: list[Tensor]) -> None:
    """Oracle: both directions spelled out; the gradient flows through the projections too."""
    method = Pair(Toy())
    step = method(views, Draws(0, 0, 5))
    z = [method.projector(method.encoder.net(view.flatten(1))) for view in views]
    expected = (method.predictor(z[0]) - z[1]).square().sum() + (method.predictor(z[1]) - z[0]).square().sum()
    torch.testing.assert_close(step.loss, expected)
    assert torch.equal(step.carry["target 0"], z[0])
    gradients = torch.autograd.grad(step.loss, method.encoder.net.weight)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, method.encoder.net.weight))


def test_siamese_without_predictor_predicts_its_projection(views: list[Tensor]) -> None:
    """Oracle: the same tensor twice."""
    method = Pair(Toy())
    Siamese.__init__(method, Toy(), nn.Linear(4, 3))
    for branch in method.encode(views):
        assert torch.equal(branch.prediction, branch.projection)


def test_each_view_is_encoded_with_its_own_visible_tokens(views: list[Tensor]) -> None:
    """Oracle: the log of the encoder's calls, in the order of the views."""
    method, visible = Pair(Toy()), [torch.zeros(5, 1), torch.ones(5, 1)]
    method.passes(views, Draws(0, 0, 5), visible)
    assert all(a is b for a, b in zip(method.encoder.calls, visible, strict=True))
    one_sided = OneSided(Toy())
    online, targets = one_sided.passes(views, Draws(0, 0, 5), visible)
    assert (list(online), list(targets)) == ([0], [1])
    assert one_sided.encoder.calls[0] is visible[0]


def test_views_and_visible_tokens_must_match(views: list[Tensor]) -> None:
    """Oracle: a masked view without its ids is an error, never a view encoded whole."""
    with pytest.raises(ValueError, match="zip"):
        Pair(Toy()).encode(views, [torch.zeros(5, 1)])


def test_container_passes_hooks_on() -> None:
    """Oracle: what the base has on record."""
    container, step = Adding(Toy(), Pair), Step(torch.zeros(()))
    container.after_backward(step)
    container.after_step(0.25)
    assert container.base.seen == [step, 0.25]
    container.set_progress(0.5)
    assert float(container.progress) == float(container.base.progress) == 0.5
    assert "progress" not in container.state_dict()
    assert container.encoder is container.base.encoder


def test_container_groups_parameters() -> None:
    """Oracle: the base's groups as they are, then the container's own layer; every trainable parameter once."""
    container = Adding(Toy(), Pair)
    groups = container.param_groups()
    assert [group.scheduled for group in groups] == [True, False, True]
    assert [id(p) for p in groups[2].params] == [id(p) for p in container.own.parameters()]
    grouped = [id(p) for group in groups for p in group.params]
    assert sorted(grouped) == sorted(id(p) for p in container.parameters())
    container.own.requires_grad_(False)
    assert len(container.param_groups()) == 2


def test_container_builds_its_base_first() -> None:
    """Oracle: the weights of a base that is built alone from the same seed."""
    encoder = Toy()
    torch.manual_seed(0)
    alone = Pair(encoder)
    torch.manual_seed(0)
    container = Adding(encoder, Pair)
    for a, b in zip(alone.parameters(), container.base.parameters(), strict=True):
        assert torch.equal(a, b)
