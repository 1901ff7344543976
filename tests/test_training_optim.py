"""The schedule of the rates and the groups of the optimiser."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from benchmark.errors import ConfigError
from benchmark.method import ParamGroup
from benchmark.training.optim import AdamW, schedule


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in shapes]


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
def test_schedule_is_a_line_and_half_a_cosine(warmup: float) -> None:
    """Oracle: the values of both closed forms at points where they are known by hand."""
    half = warmup + (1 - warmup) / 2
    third = warmup + (1 - warmup) / 3
    known = {warmup: 1.0, half: 0.5, third: 0.75, 1.0: 0.0}
    if warmup:
        known |= {0.0: 0.0, warmup / 4: 0.25, warmup / 2: 0.5}
    for progress, share in known.items():
        assert schedule(progress, warmup) == pytest.approx(share, abs=1e-12)


def test_schedule_rises_then_falls() -> None:
    """Oracle: monotony on both sides of the warm-up, and no jump above the slope of the line."""
    values = [schedule(step / 1000, 0.1) for step in range(1000)]
    assert values[:101] == sorted(values[:101])
    assert values[100:] == sorted(values[100:], reverse=True)
    assert max(abs(b - a) for a, b in pairwise(values)) == pytest.approx(0.01)


def test_rate_of_each_group() -> None:
    """Oracle: base_rate * batch / 256 * rate_scale * share by hand; a group that is not scheduled has no share."""
    free, scaled, constant = parameters((2, 2), (2, 2), (2, 2))
    groups = [ParamGroup([free]), ParamGroup([scaled], rate_scale=0.1), ParamGroup([constant], scheduled=False)]
    optimiser = AdamW(base_rate=0.004, weight_decay=0.0, warmup=0.5).build(groups, batch_size=64)
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 0.5)):
        optimiser.step(progress)
        rates = {id(group["params"][0]): group["lr"] for group in optimiser.inner.param_groups}
        assert rates[id(free)] == pytest.approx(0.001 * share)
        assert rates[id(scaled)] == pytest.approx(0.0001 * share)
        assert rates[id(constant)] == pytest.approx(0.001)


def test_step_is_torch_adamw() -> None:
    """Oracle: torch's AdamW in float64 with the same rate, over three steps; the first of them at rate 0."""
    (ours,) = parameters((3, 2))
    theirs = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimiser = AdamW(base_rate=0.256, weight_decay=0.5, betas=(0.8, 0.9), warmup=0.5).build([ParamGroup([ours])], 256)
    reference = torch.optim.AdamW([theirs], lr=0.0, betas=(0.8, 0.9), weight_decay=0.5)
    for step, progress in enumerate((0.0, 0.25, 0.75)):
        gradient = torch.arange(6.0).reshape(3, 2) - step
        ours.grad, theirs.grad = gradient.clone(), gradient.double()
        reference.param_groups[0]["lr"] = 0.256 * (0, 0.5, 0.5)[step]
        optimiser.step(progress)
        reference.step()
        assert ours.grad is None
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours, torch.ones(3, 2))


def test_decay_spares_vectors() -> None:
    """Oracle: without gradients only decay moves a weight: by the factor 1 - rate * decay where it has 2 dimensions."""
    shapes = ((2, 2), (2, 2, 1, 1), (2,), ())
    default, own = parameters(*shapes), parameters(*shapes)
    optimiser = AdamW(base_rate=0.5, weight_decay=0.2, warmup=0.0).build(
        [ParamGroup(default), ParamGroup(own, decay=0.6)], 256
    )
    for weight in (*default, *own):
        weight.grad = torch.zeros_like(weight)
    optimiser.step(0.0)
    for weights, decay in ((default, 0.2), (own, 0.6)):
        for weight in weights:
            expected = 1 - 0.5 * decay if weight.ndim > 1 else 1.0
            assert weight.detach().flatten().tolist() == pytest.approx([expected] * weight.numel())


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 2.0, math.nan])
def test_warmup_outside_a_fraction_is_refused(warmup: float) -> None:
    """Oracle: the documented range [0, 1)."""
    with pytest.raises(ConfigError, match=r"AdamW.warmup = .* at least 0 and below 1"):
        AdamW(base_rate=1.0, weight_decay=0.0, warmup=warmup)
