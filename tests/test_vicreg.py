"""VICReg against its equation and lightly's loss, on both sides of which the gradient flows."""

import pytest
import torch
from lightly.loss import VICRegLoss
from nets16 import BATCH, hidden, views, vit
from torch import Tensor, nn

from baselines.vicreg import VICReg, variance_invariance_covariance
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws

WEIGHTS = {"invariance": 25.0, "variance": 20.0, "covariance": 0.5}


def vicreg(encoder: Encoder | None = None) -> VICReg:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return VICReg(encoder, projector_width=10, **WEIGHTS).double().train()


def equation(a: Tensor, b: Tensor) -> Tensor:
    """The terms by loops over dimensions, as the authors' code weighs them."""
    dim, loss = a.shape[1], 25.0 * ((a - b) ** 2).sum() / a.numel()
    for z in (a, b):
        mean = z.sum(0) / len(z)
        for i in range(dim):
            deviation = ((z[:, i] - mean[i]).square().sum() / (len(z) - 1) + 1e-4) ** 0.5
            loss = loss + 20.0 * (1 - deviation).clamp(min=0) / dim / 2
            for j in range(dim):
                if i != j:
                    crossed = ((z[:, i] - mean[i]) * (z[:, j] - mean[j])).sum() / (len(z) - 1)
                    loss = loss + 0.5 * crossed**2 / dim
    return loss


def test_loss_and_gradient_are_the_equation() -> None:
    """Oracle: the equation by loops, on each view encoded by itself; both views carry gradient."""
    method = vicreg()
    expected = equation(*(method.projector(method.encoder(view).pooled) for view in views()))
    loss = method(views(), Draws(0, 0, BATCH)).loss
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    torch.testing.assert_close(
        torch.autograd.grad(loss, trained), torch.autograd.grad(expected, trained), rtol=1e-7, atol=1e-10
    )


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_loss_equals_lightly(scale: float) -> None:
    """Oracle: lightly's loss, written by others, below and above the variance that is asked for."""
    generator = torch.Generator().manual_seed(0)
    a, b = (scale * torch.randn(12, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    theirs = VICRegLoss(lambda_param=25.0, mu_param=20.0, nu_param=0.5)(a, b)
    torch.testing.assert_close(variance_invariance_covariance(a, b, **WEIGHTS), theirs, rtol=1e-12, atol=0)


def test_projector_has_three_layers_of_one_width() -> None:
    """Oracle: the layers by hand, and no batch norm at the end, which would fix the variance."""
    expected = [*hidden(24, 10), *hidden(10, 10), nn.Linear(10, 10, bias=False)]
    assert [repr(part) for part in vicreg().projector] == [repr(part) for part in expected]
