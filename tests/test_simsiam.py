"""SimSiam against its equations, the side where its gradient stops, and its predictor's rate."""

from collections.abc import Callable

import pytest
import torch
from nets16 import BATCH, branch, resnet, unlike, untrained, views, vit
from torch import nn

from baselines.simsiam import SimSiam
from benchmark.method import Draws
from benchmark.nets.encoders import Encoder
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
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    torch.testing.assert_close(
        torch.autograd.grad(loss, trained), torch.autograd.grad(expected, trained), rtol=1e-8, atol=1e-12
    )


def test_range_and_chance() -> None:
    """Oracle: -1 for equal, 1 for opposite vectors, 0 on average for independent ones."""
    method = simsiam()
    z = torch.randn(4, 512, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for targets, expected, tolerance in (
        ((z[1], z[0]), -1, 1e-12),
        ((-z[1], -z[0]), 1, 1e-12),
        ((z[2], z[3]), 0, 0.01),
    ):
        loss = method.objective({0: branch(z[0]), 1: branch(z[1])}, dict(enumerate(targets)))
        assert float(loss) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("encoder", [vit, resnet])
@pytest.mark.parametrize("apart", [True, False])
def test_untrained_loss_is_about_zero(encoder: Callable[[], Encoder], apart: bool) -> None:
    """Oracle: 0 +- 0.1: an untrained predictor maps a projection to a random direction, even for equal views."""
    torch.manual_seed(1)
    method = SimSiam(encoder(), projector_layers=3, projector_width=128, bottleneck=32).train()
    a, b = views(dtype=torch.float32)
    assert float(method([a, b if apart else a], Draws(0, 0, BATCH)).loss.detach()) == pytest.approx(0, abs=0.1)


def test_one_direction_is_not_halved() -> None:
    """Oracle: the cosine of each row; two equal directions average to one."""
    method = simsiam()
    p, z = torch.randn(2, BATCH, 12, dtype=torch.float64)
    torch.testing.assert_close(method.compare(p, z), -torch.cosine_similarity(p, z).mean())
    torch.testing.assert_close(method.objective({0: branch(p), 1: branch(p)}, {0: z, 1: z}), method.compare(p, z))


def test_heads() -> None:
    """Oracle: the layers by hand: the projection is standardised; the predictor is a bottleneck with an output bias."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]

    method = simsiam()
    last = [nn.Linear(12, 12, bias=False), nn.BatchNorm1d(12, affine=False)]
    for head, expected in (
        (method.projector, [*block(24, 12), *block(12, 12), *last]),
        (method.predictor, [*block(12, 4), nn.Linear(4, 12)]),
    ):
        assert [repr(part) for part in head] == [repr(part) for part in expected]


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.1, 0.5, 0.99])
def test_predictor_keeps_its_rate(progress: float) -> None:
    """Oracle: the peak rate for the predictor's weights; the others start at 0, peak at 0.1 and fall towards 0."""
    method = simsiam()
    optimiser = AdamW(base_rate=0.04, weight_decay=0.1, warmup=0.1).build(method.param_groups(), 64)
    optimiser.step(progress)
    rates = {id(p): group["lr"] for group in optimiser.inner.param_groups for p in group["params"]}
    predictor = [rates.pop(id(p)) for p in method.predictor.parameters()]
    assert predictor == pytest.approx([0.01] * len(predictor))
    share = {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 0.5: 0.586824, 0.99: 0.000305}[progress]
    assert list(rates.values()) == pytest.approx([0.01 * share] * len(rates), rel=1e-2)
    rest = [*method.encoder.parameters(), *method.projector.parameters()]
    assert set(rates) == {id(p) for p in rest if p.requires_grad}


def test_every_weight_learns_on_a_resnet() -> None:
    """Oracle: a finite gradient that is not zero, once the norms that start at zero have moved."""
    method = simsiam(resnet()).float()
    unlike(method.encoder)
    assert untrained(method) == set()
