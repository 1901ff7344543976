"""VICReg against lightly's loss, on both sides of which the gradient flows."""

import pytest
import torch
from lightly.loss import VICRegLoss
from nets16 import BATCH, require_same, views, vit

from baselines.vicreg import VICReg, variance_invariance_covariance
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws

WEIGHTS = {"invariance": 25.0, "variance": 20.0, "covariance": 0.5}
LIGHTLY = VICRegLoss(lambda_param=25.0, mu_param=20.0, nu_param=0.5)


def vicreg(encoder: Encoder | None = None) -> VICReg:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return VICReg(encoder, projector_width=10, **WEIGHTS).double().train()


def test_loss_and_gradient_are_those_of_lightly() -> None:
    """Oracle: lightly's loss, written by others, on each view encoded by itself; both views carry gradient."""
    method = vicreg()
    expected = LIGHTLY(*(method.projector(method.encoder(view).pooled) for view in views()))
    loss = method(views(), Draws(0, 0, BATCH)).loss
    require_same(method, loss, expected, rtol=1e-10, of_gradient=(1e-7, 1e-10))


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_loss_equals_lightly(scale: float) -> None:
    """Oracle: lightly's loss, written by others, below and above the variance that is asked for."""
    generator = torch.Generator().manual_seed(0)
    a, b = (scale * torch.randn(12, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(variance_invariance_covariance(a, b, **WEIGHTS), LIGHTLY(a, b), rtol=1e-12, atol=0)
