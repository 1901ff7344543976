"""BYOL against its equation, its range, and its copy."""

import pytest
import torch
from nets16 import BATCH, hidden, resnet, unlike, untrained, views, vit
from torch import nn

from baselines.byol import BYOL
from benchmark.errors import ConfigError
from benchmark.method import Draws
from benchmark.nets.encoders import Encoder


def byol(encoder: Encoder | None = None) -> BYOL:
    encoder = encoder or vit()
    torch.manual_seed(1)
    method = BYOL(encoder, momentum=0.9, projector_layers=2, head_hidden=16, projector_width=6)
    unlike(method.target)
    return method.double().train()


def test_loss_is_its_equation() -> None:
    """Oracle: Eq. 2 as squared distances of vectors of length 1: the mean over images, the sum over directions."""
    method = byol()
    p = [method.predictor(method.projector(method.encoder(view).pooled)) for view in views()]
    t = [method.target.projector(method.target.encoder(view).pooled) for view in views()]
    expected = sum(
        (a / a.norm() - b / b.norm()).square().sum() / BATCH
        for one, other in ((p[0], t[1]), (p[1], t[0]))
        for a, b in zip(one, other, strict=True)
    )
    torch.testing.assert_close(method(views(), Draws(0, 0, BATCH)).loss, expected, rtol=1e-10, atol=0)


def test_heads() -> None:
    """Oracle: the layers by hand: batch norm in the hidden layer alone, no bias."""
    method = byol()
    for head, inputs in ((method.projector, 24), (method.predictor, 6)):
        expected = [*hidden(inputs, 16), nn.Linear(16, 6, bias=False)]
        assert [repr(part) for part in head] == [repr(part) for part in expected]


def test_copy_holds_no_predictor_and_its_momentum_rises() -> None:
    """Oracle: the weights of encoder and projector, 1 - 0.1 (cos(pi p) + 1) / 2 old plus the rest new."""
    method = byol()
    originals = [*method.encoder.parameters(), *method.projector.parameters()]
    copies = list(method.target.parameters())
    assert [p.shape for p in copies] == [p.shape for p in originals]
    for progress, momentum in ((0.0, 0.9), (0.5, 0.95), (0.75, 1 - 0.05 * (1 - 0.5**0.5))):
        expected = [momentum * c + (1 - momentum) * p for c, p in zip(copies, originals, strict=True)]
        method.after_step(progress)
        torch.testing.assert_close(copies, expected, rtol=1e-12, atol=1e-12)


def test_every_weight_learns_on_a_resnet() -> None:
    """Oracle: a finite gradient that is not zero, once the norms that start at zero have moved."""
    method = byol(resnet()).float()
    unlike(method.encoder)
    assert untrained(method) == set()


def test_impossible_momentum_is_refused() -> None:
    """Oracle: the message names the setting."""
    with pytest.raises(ConfigError, match=r"BYOL.momentum = -1"):
        BYOL(vit(), momentum=-1.0, projector_layers=2, head_hidden=16, projector_width=6)
