"""BYOL against its equation."""

import torch
from nets16 import BATCH, unlike, views, vit

from baselines.byol import BYOL
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws


def byol(encoder: Encoder | None = None, momentum: float = 0.9) -> BYOL:
    encoder = encoder or vit()
    torch.manual_seed(1)
    method = BYOL(encoder, momentum=momentum, projector_layers=2, head_hidden=16, projector_width=6)
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
