"""The schedule of the rates, the groups of the optimisers and their steps."""

import copy
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.method import ParamGroup
from benchmark.training.optim import LARS, SGD, Adam, AdamW, OptimiserSpec, schedule

GIN = Path(__file__).parents[1] / "gin"
ALL: tuple[Callable[..., OptimiserSpec], ...] = (AdamW, Adam, SGD, LARS)


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in shapes]


def test_schedule_is_a_line_and_half_a_cosine() -> None:
    """Oracle: the values of both closed forms at points where they are known by hand."""
    for warmup in (0.0, 0.05, 0.5):
        half, third = warmup + (1 - warmup) / 2, warmup + (1 - warmup) / 3
        known = {warmup: 1.0, half: 0.5, third: 0.75, 1.0: 0.0}
        if warmup:
            known |= {0.0: 0.0, warmup / 4: 0.25, warmup / 2: 0.5}
        for progress, share in known.items():
            assert schedule(progress, warmup) == pytest.approx(share, abs=1e-12)
            assert schedule(progress, warmup, "constant") == pytest.approx(share if progress < warmup else 1, abs=1e-12)


@pytest.mark.parametrize("kind", ALL)
def test_rate_of_each_group(kind: Callable[..., OptimiserSpec]) -> None:
    """Oracle: base_rate * batch / 256 * rate_scale * share by hand; a group that is not scheduled has no share."""
    free, scaled, constant = parameters((2, 2), (2, 2), (2, 2))
    groups = [ParamGroup([free]), ParamGroup([scaled], rate_scale=0.1), ParamGroup([constant], scheduled=False)]
    for curve, last in (("cosine", 0.5), ("constant", 1.0)):
        optimiser = kind(base_rate=0.004, weight_decay=0.0, warmup=0.5, curve=curve).build(groups, batch_size=64)
        for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, last)):
            optimiser.step(progress)
            rates = {id(group["params"][0]): group["lr"] for group in optimiser.inner.param_groups}
            assert rates[id(free)] == pytest.approx(0.001 * share)
            assert rates[id(scaled)] == pytest.approx(0.0001 * share)
            assert rates[id(constant)] == pytest.approx(0.001)


@pytest.mark.parametrize("shape", [(3, 2), (6,)])
@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (
            AdamW(base_rate=0.256, weight_decay=0.5, betas=(0.8, 0.9), warmup=0.5, decay="all"),
            lambda p: torch.optim.AdamW(p, lr=0.0, betas=(0.8, 0.9), weight_decay=0.5),
        ),
        (
            Adam(base_rate=0.256, weight_decay=0.5, betas=(0.8, 0.9), warmup=0.5, decay="all"),
            lambda p: torch.optim.Adam(p, lr=0.0, betas=(0.8, 0.9), weight_decay=0.5),
        ),
        (
            SGD(base_rate=0.256, weight_decay=0.5, momentum=0.8, warmup=0.5, decay="all"),
            lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.8, weight_decay=0.5),
        ),
    ],
    ids=["AdamW", "Adam", "SGD"],
)
def test_step_is_that_of_torch(
    spec: OptimiserSpec, reference: Callable[[list[nn.Parameter]], torch.optim.Optimizer], shape: tuple[int, ...]
) -> None:
    """Oracle: torch's optimiser in float64 with the same rate, over three steps; the first of them at rate 0."""
    (ours,) = parameters(shape)
    theirs = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    optimiser, expected = spec.build([ParamGroup([ours])], 256), reference([theirs])
    for step, progress in enumerate((0.0, 0.25, 0.75)):
        gradient = torch.arange(6.0).reshape(shape) - step
        ours.grad, theirs.grad = gradient.clone(), gradient.double()
        expected.param_groups[0]["lr"] = 0.256 * (0, 0.5, 0.5)[step]
        optimiser.step(progress)
        expected.step()
        assert ours.grad is None
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours, torch.ones(shape))


def numbers(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


SHAPES = {"matrix": (3, 4), "kernel": (2, 3, 2, 2), "token": (1, 1, 5), "vector": (6,), "scalar": (), "zero": (2, 2)}


@pytest.mark.parametrize("vector_rate", [None, 0.01])
@pytest.mark.parametrize("decay", ["weights", "all"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_lars_is_its_formula(weight_decay: float, decay: str, vector_rate: float | None) -> None:
    """Oracle: the formula number by number in float64, five steps; of a tensor of zeros and of gradients of zeros too.

    The zero gradient comes at step 2 for all, where without decay its norm is 0 and only the buffer moves a tensor.
    """
    generator = torch.Generator().manual_seed(0)
    start = {name: numbers(generator, shape) * (name != "zero") for name, shape in SHAPES.items()}
    gradients = [{name: numbers(generator, shape) * (t != 2) for name, shape in SHAPES.items()} for t in range(5)]

    spec = LARS(
        base_rate=0.2,
        weight_decay=weight_decay,
        decay=decay,  # type: ignore[arg-type]
        momentum=0.8,
        trust=0.02,
        vector_rate=vector_rate,
        warmup=0.0,
    )
    trained = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    optimiser = spec.build([ParamGroup(list(trained.values()))], batch_size=512)
    for t in range(5):
        for name, p in trained.items():
            p.grad = gradients[t][name].clone()
        optimiser.step(t / 5)

    for name, shape in SHAPES.items():
        weight = len(shape) > 1
        base = 0.2 if weight or vector_rate is None else vector_rate
        decayed = weight_decay if weight or decay == "all" else 0.0
        values, buffer = start[name].flatten().tolist(), [0.0] * start[name].numel()
        for t in range(5):
            rate = base * 512 / 256 * 0.5 * (1 + math.cos(math.pi * t / 5))
            direction = [g + decayed * p for g, p in zip(gradients[t][name].flatten().tolist(), values, strict=True)]
            ratio, norms = 1.0, (math.hypot(*values), math.hypot(*direction))
            if weight and min(norms) > 0:
                ratio = 0.02 * norms[0] / norms[1]
            buffer = [0.8 * mu + ratio * g for mu, g in zip(buffer, direction, strict=True)]
            values = [p - rate * mu for p, mu in zip(values, buffer, strict=True)]
        assert trained[name].flatten().tolist() == pytest.approx(values, rel=1e-12, abs=1e-15), name


def test_lars_leaves_what_has_no_gradient() -> None:
    """Oracle: a parameter without a gradient keeps its bits and gets no state."""
    used, idle = parameters((2, 2), (2, 2))
    optimiser = LARS(base_rate=0.1, weight_decay=0.4, warmup=0.0).build([ParamGroup([used, idle])], 256)
    used.grad = torch.ones(2, 2)
    optimiser.step(0.0)
    assert torch.equal(idle, torch.ones(2, 2))
    assert set(optimiser.inner.state) == {used}
    assert not torch.equal(used, torch.ones(2, 2))


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("kind", [*ALL, partial(SGD, momentum=0.0), partial(LARS, momentum=0.0)])
def test_saved_state_continues_identically(kind: Callable[..., OptimiserSpec], clip: float | None) -> None:
    """Oracle: the bits of a run without interruption; the state passes a file. SGD without momentum keeps none."""

    def train(values: list[nn.Parameter], optimiser: object, steps: range) -> None:
        for t in steps:
            for p in values:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t))
            optimiser.step(t / 6)  # type: ignore[attr-defined]

    spec = kind(base_rate=0.1, weight_decay=0.2, warmup=0.0, clip=clip)
    whole = parameters((3, 2), (4,))
    first = spec.build([ParamGroup(whole)], 256)
    train(whole, first, range(3))
    file = io.BytesIO()
    torch.save(first.inner.state_dict(), file)
    resumed = copy.deepcopy(whole)
    train(whole, first, range(3, 6))

    second = spec.build([ParamGroup(resumed)], 256)
    second.load(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    train(resumed, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("kind", [AdamW, SGD])
@pytest.mark.parametrize("decay", ["weights", "all"])
def test_decay_spares_vectors_unless_it_is_for_all(kind: Callable[..., OptimiserSpec], decay: str) -> None:
    """Oracle: without gradients only decay moves a tensor: by 1 - rate * decay, with a group's own where it has one."""
    shapes = ((2, 2), (2, 2, 1, 1), (2,), ())
    default, own = parameters(*shapes), parameters(*shapes)
    optimiser = kind(base_rate=0.5, weight_decay=0.2, warmup=0.0, decay=decay).build(
        [ParamGroup(default), ParamGroup(own, decay=0.6)], 256
    )
    for weight in (*default, *own):
        weight.grad = torch.zeros_like(weight)
    optimiser.step(0.0)
    for weights, strength in ((default, 0.2), (own, 0.6)):
        for weight in weights:
            expected = 1 - 0.5 * strength if weight.ndim > 1 or decay == "all" else 1.0
            assert weight.detach().flatten().tolist() == pytest.approx([expected] * weight.numel())


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_decay_may_move_to_a_final_one(kind: Callable[..., OptimiserSpec]) -> None:
    """Oracle: half a cosine from 0.04 to 0.4 by hand; neither vectors nor a group with a decay of its own follow it."""
    weight, vector, own = parameters((2, 2), (2,), (2, 2))
    spec = kind(base_rate=0.5, weight_decay=0.04, final_decay=0.4, warmup=0.0, curve="constant")
    optimiser = spec.build([ParamGroup([weight, vector]), ParamGroup([own], decay=0.1)], 256)
    size = 1.0
    for progress, decay in ((0.0, 0.04), (0.25, 0.22 - 0.18 * 0.5**0.5), (0.5, 0.22), (1.0, 0.4)):
        for each in (weight, vector, own):
            each.grad = torch.zeros_like(each)
        optimiser.step(progress)
        assert [group["weight_decay"] for group in optimiser.inner.param_groups] == pytest.approx([decay, 0.0, 0.1])
        if kind is AdamW:
            size *= 1 - 0.5 * decay
            assert weight.detach().flatten().tolist() == pytest.approx([size] * 4)


@pytest.mark.parametrize("kind", ALL)
def test_frozen_parameters_rest_for_their_share(kind: Callable[..., OptimiserSpec]) -> None:
    """Oracle: the very parameters and no state before 0.25; then the steps of an optimiser that begins there."""
    resting, free, late = parameters((2, 2), (2, 2), (2, 2))
    spec = kind(base_rate=0.5, weight_decay=0.1, warmup=0.0)
    optimiser = spec.build([ParamGroup([resting], frozen=0.25), ParamGroup([free])], 256)
    other = spec.build([ParamGroup([late])], 256)
    for progress in (0.0, 0.2, 0.25, 0.5):
        for each in (resting, free, late):
            each.grad = torch.full_like(each, 1 + progress)
        optimiser.step(progress)
        if progress < 0.25:
            assert torch.equal(resting, torch.ones(2, 2))
            assert resting not in optimiser.inner.state
            assert not torch.equal(free, torch.ones(2, 2))
        else:
            other.step(progress)
            assert torch.equal(resting, late)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_are_clipped_together(kind: Callable[..., OptimiserSpec]) -> None:
    """Oracle: an optimiser without a clip that gets the gradients times min(1, 2 / norm), in float64, with the norm of
    all of them by hand, of a vector, a second group and one without a schedule too. What rests at first counts later.
    """
    shapes = ((3, 2), (4,), (2, 2), (2, 2), (2, 2))
    sides = [[nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in shapes] for _ in range(2)]
    optimisers = [
        kind(base_rate=0.5, weight_decay=0.1, warmup=0.0, clip=clip).build(
            [
                ParamGroup(side[:2]),
                ParamGroup([side[2]], rate_scale=0.1),
                ParamGroup([side[3]], scheduled=False),
                ParamGroup([side[4]], frozen=0.25),
            ],
            256,
        )
        for side, clip in zip(sides, (2.0, None), strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    for progress, size in ((0.0, 5.0), (0.2, 0.01), (0.25, 5.0), (0.5, 0.4)):
        gradients = [size * numbers(generator, shape) for shape in shapes]
        counted = gradients if progress >= 0.25 else gradients[:4]
        norm = math.sqrt(sum(value**2 for gradient in counted for value in gradient.flatten().tolist()))
        for side, factor in zip(sides, (1.0, min(1.0, 2.0 / (norm + 1e-6))), strict=True):
            for parameter, gradient in zip(side, gradients, strict=True):
                parameter.grad = factor * gradient
        for optimiser in optimisers:
            optimiser.step(progress)
        for clipped, expected in zip(*sides, strict=True):
            torch.testing.assert_close(clipped, expected, rtol=1e-12, atol=1e-12)


def test_groups_without_schedules_have_the_state_that_they_always_had() -> None:
    """Oracle: the keys by hand: a digest of a run holds them."""
    (group,) = AdamW(base_rate=0.5, weight_decay=0.1).build([ParamGroup(parameters((2, 2)))], 256).inner.param_groups
    assert {"frozen", "decay_range"}.isdisjoint(group)


def test_impossible_numbers_are_refused() -> None:
    """Oracle: the message names the setting, what it may be and what came."""
    for setting, words in (
        ("AdamW.betas = (0.9, 1.0)", "at least 0 and below 1"),
        ("SGD.momentum = 1.0", "at least 0 and below 1, got 1.0"),
        ("LARS.momentum = -0.1", "at least 0 and below 1, got -0.1"),
        ("LARS.trust = 0.0", "above 0, got 0.0"),
        ("LARS.vector_rate = 0.0", "above 0 or None, got 0.0"),
        *((f"{kind}.base_rate = 0.0", "above 0, got 0.0") for kind in ("AdamW", "SGD", "LARS")),
        *((f"{kind}.weight_decay = -1e-6", "of at least 0, got -1e-06") for kind in ("AdamW", "SGD", "LARS")),
        ("AdamW.final_decay = -0.1", "of at least 0 or None, got -0.1"),
        *((f"{kind}.clip = 0.0", "above 0 or None, got 0.0") for kind in ("AdamW", "LARS")),
        *((f"SGD.warmup = {warmup}", "at least 0 and below 1") for warmup in (-0.1, 1.0)),
    ):
        kind = setting.split(".")[0]
        settings = (f"Pretraining.optimiser = @{kind}", setting)
        with pytest.raises(ConfigError, match=f"{setting.split()[0]} expected .*{words}"):
            configuration.load([str(GIN / "simclr.gin")], settings)


def test_scaled_rates_are_multiples() -> None:
    """Oracle: the rate of an optimiser that was not scaled, times the factor."""
    rates: list[list[float]] = []
    for factor in (1.0, 0.25):
        (weight,) = parameters((2, 2))
        optimiser = AdamW(base_rate=0.1, weight_decay=0.0).build([ParamGroup([weight])], 256)
        optimiser.scale(factor)
        rates.append([])
        for progress in (0.0, 0.05, 0.5, 0.99):
            optimiser.step(progress)
            rates[-1].append(optimiser.inner.param_groups[0]["lr"])
    assert rates[1] == pytest.approx([0.25 * rate for rate in rates[0]])
