"""SimSiam against its equations, the side where its gradient stops, and its predictor's rate."""

import pytest
import torch
from nets16 import BATCH, branch, require_same, views, vit

from baselines.simsiam import SimSiam
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws
from benchmark.training.optim import AdamW


def simsiam(encoder: Encoder | None = None) -> SimSiam:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return SimSiam(encoder, projector_layers=3, projector_width=12, bottleneck=4).double().train()


def test_loss_and_gradient_are_the_equations() -> None:
    """Oracle: Eq. 1 to 4 with the targets computed apart, without gradient: half of each direction."""
    method = simsiam()
    p = [method.predictor(method.projector(method.encoder(view).pooled)) for view in views()]
    with torch.no_grad():
        z = [method.projector(method.encoder(view).pooled) for view in views()]
    expected = -(torch.cosine_similarity(p[0], z[1]).mean() + torch.cosine_similarity(p[1], z[0]).mean()) / 2
    loss = method(views(), Draws(0, 0, BATCH)).loss
    require_same(method, loss, expected, rtol=1e-10, of_gradient=(1e-8, 1e-12))


def test_one_direction_is_not_halved() -> None:
    """Oracle: the cosine of each row; two equal directions average to one."""
    method = simsiam()
    p, z = torch.randn(2, BATCH, 12, dtype=torch.float64)
    torch.testing.assert_close(method.compare(p, z), -torch.cosine_similarity(p, z).mean())
    torch.testing.assert_close(method.objective({0: branch(p), 1: branch(p)}, {0: z, 1: z}), method.compare(p, z))


def test_predictor_keeps_its_rate() -> None:
    """Oracle: the peak rate for the predictor's weights; the others start at 0, peak at 0.1 and fall towards 0."""
    method = simsiam()
    optimiser = AdamW(base_rate=0.04, weight_decay=0.1, warmup=0.1).build(method.param_groups(), 64)
    rest = {id(p) for p in [*method.encoder.parameters(), *method.projector.parameters()] if p.requires_grad}
    for progress, share in ((0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 0.586824), (0.99, 0.000305)):
        optimiser.step(progress)
        rates = {id(p): group["lr"] for group in optimiser.inner.param_groups for p in group["params"]}
        predictor = [rates.pop(id(p)) for p in method.predictor.parameters()]
        assert predictor == pytest.approx([0.01] * len(predictor))
        assert list(rates.values()) == pytest.approx([0.01 * share] * len(rates), rel=1e-2)
        assert set(rates) == rest
