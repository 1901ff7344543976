"""The table of attention kernels, and that both kernels compute the same."""

from functools import partial

import pytest
import torch
from nets16 import BATCH, views, vit
from torch import nn
from torch.nn import functional as F

from baselines.moco_v3 import MoCoV3
from benchmark.nets.attention import choose_attention, set_fused
from benchmark.nets.decoder import PixelDecoder
from benchmark.randomness import Draws


def chosen(module: nn.Module) -> set[bool]:
    return {part.fused_attn for part in module.modules() if hasattr(part, "fused_attn")}


@pytest.mark.parametrize(
    ("device", "precision", "fused"),
    [
        ("cpu", "bfloat16", False),
        ("cpu", "float32", True),
        ("cuda", "bfloat16", True),
        ("cuda", "float32", True),
    ],
)
def test_kernel_follows_the_table(device: str, precision: str, fused: bool) -> None:
    """Oracle: the table in the module's docstring, from either start."""
    encoder = vit()
    for before in (True, False):
        set_fused(encoder, before)
        assert chosen(encoder) == {before}
        choose_attention(encoder, torch.device(device), precision)
        assert chosen(encoder) == {fused}


@pytest.mark.parametrize("fused", [True, False])
def test_setting_decides_which_kernel_runs(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the calls of torch's fused attention, in an encoder of one block and a decoder of two."""
    calls = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    net = nn.ModuleList([encoder := vit(), PixelDecoder(encoder, width=16, depth=2, heads=2)])
    set_fused(net, fused)
    net[1](net[0](views(dtype=torch.float32)[0]))
    assert len(calls) == (3 if fused else 0)


def test_both_kernels_compute_the_same() -> None:
    """Oracle: the other kernel, in float64, loss and gradients of a method with a momentum copy."""
    results = []
    for fused in (True, False):
        build = partial(MoCoV3, temperature=0.2, momentum=0.9, projector_layers=2, head_hidden=16, projector_width=8)
        method = build(vit()).double()
        set_fused(method, fused)
        loss = method(views(), Draws(0, 0, BATCH)).loss
        trained = [p for p in method.parameters() if p.requires_grad]
        results.append([loss, *torch.autograd.grad(loss, trained)])
        assert chosen(method.target) == {fused}
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
