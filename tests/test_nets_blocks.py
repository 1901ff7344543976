"""The block whose products add bias and residual, beside timm's own with the same weights."""

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.drop import DropPath
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.nets.blocks import Block, linear

WIDTH, HEADS, BATCH, TOKENS = 24, 3, 4, 17
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="the kernel is oneDNN's")


def pair() -> tuple[Block, vision_transformer.Block]:
    """A block and timm's, with the same weights, none of which is zero."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"qkv_bias": True, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    ours, theirs = Block(WIDTH, HEADS, **settings), vision_transformer.Block(WIDTH, HEADS, **settings)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def outcome(block: nn.Module, dtype: torch.dtype, autocast: bool = False) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters, in float64."""
    generator = torch.Generator().manual_seed(1)
    x, weights = (torch.randn(BATCH, TOKENS, WIDTH, generator=generator).to(dtype) for _ in range(2))
    block.to(dtype).zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = block(x.requires_grad_())
    assert y.dtype == dtype, "the sum over blocks keeps its precision"
    (y * weights).sum().backward()
    gradients = [parameter.grad for parameter in block.parameters()]
    return [part.double() for part in (y.detach(), x.grad, *gradients) if part is not None]


def errors(parts: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(parts, exact, strict=True)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
def test_values_and_gradients_are_as_exact_as_those_of_timm(fused: bool, autocast: bool) -> None:
    """Oracle: timm's block in float64, and the error of timm's block in the same precision."""
    ours, theirs = pair()
    for block in (ours, theirs):
        block.attn.fused_attn = fused
    mine, its = outcome(ours, torch.float32, autocast), outcome(theirs, torch.float32, autocast)
    exact = outcome(theirs, torch.float64)
    assert len(mine) == len(exact) == 2 + 12
    least = 2e-3 if autocast else 2e-7  # a few roundings
    for error, theirs_error in zip(errors(mine, exact), errors(its, exact), strict=True):
        assert error <= 1.5 * max(theirs_error, least)
    for error in errors(outcome(ours, torch.float64), exact):
        assert error <= 1e-14


@pytest.mark.parametrize("frozen", ["attn.qkv.weight", "mlp.fc1.bias", "mlp.fc2.weight", "attn.proj.bias"])
def test_frozen_parameters_get_no_gradient(frozen: str) -> None:
    """Oracle: the same step with all of them trained."""
    block, _ = pair()
    outcome(block, torch.float32)
    expected = {name: parameter.grad for name, parameter in block.named_parameters() if name != frozen}
    block.zero_grad()
    block.get_parameter(frozen).requires_grad_(False)
    outcome(block, torch.float32)
    gradients = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in gradients)  # type: ignore[arg-type]


def test_dropped_paths_leave_the_residual() -> None:
    """Oracle: with every path dropped a block returns its input, and with none what it returns without dropping."""
    block, _ = pair()
    x = torch.randn(BATCH, TOKENS, WIDTH)
    expected = block(x)
    block.drop_path1, block.drop_path2 = DropPath(1.0), DropPath(1.0)
    assert torch.equal(block.train()(x), x)
    torch.testing.assert_close(block.eval()(x), expected, rtol=1e-6, atol=1e-6)


@needs_onednn
def test_without_onednn_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: torch's plain layers, which other devices use."""
    block, _ = pair()
    fused = outcome(block, torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    plain = outcome(block, torch.float32)
    assert any(not torch.equal(a, b) for a, b in zip(fused, plain, strict=True)), "one of them did not run"
    assert max(errors(fused, plain)) < 1e-5


@needs_onednn
def test_products_are_counted() -> None:
    """Oracle: 2 * rows * inputs * outputs forward, and as much for each gradient."""
    layer, x = nn.Linear(WIDTH, 40), torch.randn(BATCH, TOKENS, WIDTH, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = linear(x, layer.weight, layer.bias)
        assert counter.get_total_flops() == 2 * BATCH * TOKENS * WIDTH * 40
        y.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * BATCH * TOKENS * WIDTH * 40
