"""Momentum copies against their closed form, and batch norm by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from nets16 import unlike, views, vit
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp
from benchmark.nets.momentum import MomentumCopy, check_momentum, cosine_momentum

Pair = tuple[Encoder, nn.Module]


@pytest.fixture
def online() -> Pair:
    return vit().double(), mlp(24, 16, 8, layers=2, last_batch_norm=True).double()


def parameters(*modules: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


@pytest.mark.parametrize("momentum", [lambda progress: 0.9, lambda progress: cosine_momentum(0.9, progress)])
def test_copy_is_a_weighted_sum_of_the_past(online: Pair, momentum: Callable[[float], float]) -> None:
    """Oracle: copy_T = (prod m_t) w_0 + sum_t (1 - m_t) (prod_{s > t} m_s) w_{t + 1}, constant and cosine."""
    copy = MomentumCopy(*online)
    momenta = [momentum(t / 6) for t in range(6)]
    past = [parameters(*online)]
    for m in momenta:
        for p in [*online[0].parameters(), *online[1].parameters()]:
            p.data += torch.randn_like(p)
        copy.follow(*online, m)
        past.append(parameters(*online))
    weights = [math.prod(momenta)] + [(1 - m) * math.prod(momenta[t + 1 :]) for t, m in enumerate(momenta)]
    assert sum(weights) == pytest.approx(1)
    for ours, *originals in zip(parameters(copy), *past, strict=True):
        expected = sum(w * p for w, p in zip(weights, originals, strict=True))
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_float32_weights_move_at_a_high_momentum() -> None:
    """Oracle: 0.1 (1 - 0.9999^1000): a copy that rounds each step off would stay where it was."""
    encoder, projector = vit(), nn.Linear(1, 1, bias=False)
    nn.init.ones_(projector.weight)
    copy = MomentumCopy(encoder, projector)
    nn.init.constant_(projector.weight, 1.1)
    for _ in range(1000):
        copy.follow(encoder, projector, 0.9999)
    assert copy.projector.weight.item() == pytest.approx(1 + 0.1 * (1 - 0.9999**1000), abs=1e-4)


def test_copy_starts_equal_and_apart(online: Pair) -> None:
    """Oracle: equal state under the same names, no memory shared, no gradient wanted, the original untouched."""
    wanted = [p.requires_grad for module in online for p in module.parameters()]
    copy = MomentumCopy(*online)
    for original, copied in zip(online, (copy.encoder, copy.projector), strict=True):
        assert original.state_dict().keys() == copied.state_dict().keys()
        for name, value in original.state_dict().items():
            assert torch.equal(copied.state_dict()[name], value), name
            assert copied.state_dict()[name].data_ptr() != value.data_ptr()
    assert not any(p.requires_grad for p in copy.parameters())
    assert [p.requires_grad for module in online for p in module.parameters()] == wanted
    assert len(list(copy.parameters())) == len(wanted), "the originals must not be registered in the copy"


def test_copy_normalises_by_its_own_batch(online: Pair) -> None:
    """Oracle: the projector's layers by hand, standardised by the batch; running statistics of its own."""
    copy = MomentumCopy(*online)
    unlike(copy)
    copy.train()
    before = {name: value.clone() for name, value in online[1].named_buffers()}
    for view in views():
        first, norm, relu, last, standardise = copy.projector
        hidden = first(copy.encoder(view).pooled)
        scaled = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt()
        z = last(relu(scaled * norm.weight + norm.bias))
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + standardise.eps).sqrt()
        torch.testing.assert_close(copy(view), z, rtol=1e-10, atol=1e-10)
    assert copy.training
    assert all(part.training for part in copy.modules())
    assert int(copy.projector[1].num_batches_tracked) == 2
    assert all(torch.equal(value, before[name]) for name, value in online[1].named_buffers())


def test_running_statistics_are_not_averaged(online: Pair) -> None:
    """Oracle: the copy's buffers before and after, where the original has others."""
    copy = MomentumCopy(*online)
    online[1](online[0](views()[0]).pooled)
    copy(views()[1])
    before = {name: value.clone() for name, value in copy.named_buffers()}
    copy.follow(*online, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in copy.named_buffers())
    assert not torch.equal(copy.projector[1].running_mean, online[1][1].running_mean)


def test_copy_passes_visible_tokens_on_and_no_gradient(online: Pair) -> None:
    """Oracle: its encoder and projector in sequence; the view, which wants a gradient, gets none."""
    copy = MomentumCopy(*online)
    view, visible = views()[0].requires_grad_(), torch.arange(5).expand(8, -1)
    projection = copy(view, visible)
    assert not projection.requires_grad
    assert torch.equal(projection, copy.projector(copy.encoder(view, visible).pooled))
    assert not torch.equal(projection, copy(view))


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.99), (0.25, 0.99 + 0.01 * (1 - 0.5**0.5) / 2), (0.5, 0.995), (1.0, 1.0)]
)
def test_cosine_momentum_has_closed_forms(progress: float, expected: float) -> None:
    """Oracle: the cosine at multiples of 45 degrees."""
    assert cosine_momentum(0.99, progress) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, math.nan])
def test_momentum_outside_its_range_is_refused(momentum: float) -> None:
    """Oracle: the range; the message names the setting."""
    assert [check_momentum(value, "X.momentum") for value in (0.0, 0.99, 1.0)] == [0.0, 0.99, 1.0]
    with pytest.raises(ConfigError, match=r"X.momentum = .* at least 0 and at most 1"):
        check_momentum(momentum, "X.momentum")
