"""Barlow Twins against its equation, on both sides of which the gradient flows."""

import pytest
import torch
from nets16 import BATCH, require_same, views, vit

from baselines.barlow_twins import BarlowTwins
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws


def barlow_twins(encoder: Encoder | None = None, redundancy_weight: float = 0.3) -> BarlowTwins:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return BarlowTwins(encoder, redundancy_weight=redundancy_weight, projector_width=10).double().train()


@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0])
def test_loss_and_gradient_are_the_equation(weight: float) -> None:
    """Oracle: Eq. 1 as a double loop over dimensions, on each view encoded by itself; both views carry gradient."""
    method = barlow_twins(redundancy_weight=weight)
    a, b = (method.projector(method.encoder(view).pooled) for view in views())
    a, b = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (a, b))
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(10):
        for j in range(10):
            correlation = a[:, i] @ b[:, j] / BATCH
            expected = expected + ((1 - correlation).square() if i == j else weight * correlation.square())
    loss = method(views(), Draws(0, 0, BATCH)).loss
    require_same(method, loss, expected, rtol=1e-10, of_gradient=(1e-7, 1e-10))
