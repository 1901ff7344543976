"""Heads against the layers spelled out."""

import pytest
import torch
from torch import nn

from benchmark.nets.heads import mlp


def spelled(head: nn.Sequential) -> list[str]:
    return [repr(part) for part in head]


@pytest.mark.parametrize("bias", [True, False])
def test_head_without_batch_norm(bias: bool) -> None:
    """Oracle: the layers by hand: hidden layers keep their bias, whatever the last one has."""
    expected = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2, bias=bias))
    assert spelled(mlp(4, 8, 2, layers=2, batch_norm=False, bias=bias)) == spelled(expected)


def test_last_batch_norm() -> None:
    """Oracle: a batch norm without parameters, so that the output of a batch has mean 0 and variance 1."""
    head = mlp(4, 8, 2, layers=2, last_batch_norm=True, bias=True)
    assert spelled(head)[-2:] == spelled(nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2, affine=False)))
    z = head(torch.randn(512, 4) * 10)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var(0, unbiased=False), torch.ones(2), rtol=0, atol=1e-3)


def test_one_layer_is_linear() -> None:
    """Oracle: a single linear layer, of which the hidden width is no part."""
    assert spelled(mlp(4, 99, 2, layers=1)) == spelled(nn.Sequential(nn.Linear(4, 2, bias=False)))
