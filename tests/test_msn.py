"""MSN against lightly's loss and head, its prototypes, and its refusals."""

from typing import Any

import pytest
import torch
from lightly.loss import MSNLoss
from lightly.models.modules.heads import MSNProjectionHead
from nets16 import BATCH, require_same, resnet, unlike, vit
from test_dino import crops
from torch import Tensor

from baselines.msn import MSN, balanced
from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws

PROTOTYPES, HIDDEN, WIDTH = 12, 20, 10
SETTINGS: dict[str, Any] = {
    "temperature": 0.1,
    "sharpening": 0.25,
    "sinkhorn_rounds": 3,
    "entropy_weight": 0.7,
    "mask_ratio": 0.4,
    "momentum": 0.9,
    "prototypes": PROTOTYPES,
    "head_hidden": HIDDEN,
    "projector_width": WIDTH,
}
DRAWS = Draws(0, 0, BATCH)


def msn(encoder: Encoder | None = None, **changes: object) -> MSN:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return MSN(encoder, **(SETTINGS | changes)).double().train()


def apart() -> MSN:
    """Return a method whose encoder and projector have left their copies."""
    method = msn()
    unlike(method.encoder)
    unlike(method.projector)
    return method


def projections(method: MSN) -> tuple[Tensor, Tensor, Tensor]:
    """Return the projections of all anchors, view by view, those of the target, and the prototypes."""
    kept = DRAWS.rows("mask", 16).argsort(1)[:, :9]  # of 16 patches 6.4 are dropped, rounded up
    target, large, *small = crops()
    masked = method.projector(method.encoder(large, kept).pooled)
    whole = method.projector(method.encoder(torch.cat(small)).pooled)
    copy = method.target.projector(method.target.encoder(target).pooled)
    return torch.cat([masked, whole]), copy, method.prototypes[0].weight


def test_loss_and_gradient_equal_lightly() -> None:
    """Oracle: lightly's loss, written by others, on the same projections; no gradient reaches the copies."""
    method = apart()
    anchors, targets, prototypes = projections(method)
    theirs = MSNLoss(temperature=0.1, sinkhorn_iterations=3, regularization_weight=0.7)(anchors, targets, prototypes)
    require_same(method, method(crops(), DRAWS).loss, theirs, rtol=1e-9, of_gradient=(1e-6, 1e-10))
    assert not any(p.requires_grad for p in method.target.parameters())


def test_balance() -> None:
    """Oracle: by hand: equal shares of the prototypes at last, a sum of 1 for each image; no logit is too small."""
    logits = 40 * torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = balanced(logits, 500)
    torch.testing.assert_close(shares.sum(1), torch.ones(BATCH, dtype=torch.float64))
    torch.testing.assert_close(shares.sum(0), torch.full((4,), BATCH / 4, dtype=torch.float64), rtol=1e-2, atol=0)
    assert torch.equal(balanced(logits, 0), logits.log_softmax(1).exp())
    assert balanced(1000 * logits.float(), 3).isfinite().all()


def test_projector_equals_lightly() -> None:
    """Oracle: lightly's head with the same weights."""
    method = msn()
    theirs = MSNProjectionHead(24, HIDDEN, WIDTH).double()
    theirs.layers.load_state_dict(method.projector.state_dict())
    features = torch.randn(7, 24, dtype=torch.float64)
    torch.testing.assert_close(method.projector(features), theirs(features))


def test_prototypes_do_not_decay() -> None:
    """Oracle: their shape and range, which is that of the authors' uniform distribution."""
    others, free = msn().param_groups()
    assert (others.decay, free.decay) == (None, 0.0)
    (prototypes,) = free.params
    assert prototypes.shape == (PROTOTYPES, WIDTH)
    assert 0.8 * WIDTH**-0.5 < float(prototypes.detach().abs().max()) <= WIDTH**-0.5
    assert len(others.params) + 1 == sum(p.requires_grad for p in msn().parameters())


def test_wrong_settings_are_refused() -> None:
    """Oracle: the message names the setting, or what kind of network is needed."""
    with pytest.raises(ConfigError, match=r"MSN\.mask_ratio = 1\.5"):
        msn(mask_ratio=1.5)
    with pytest.raises(ConfigError, match="subset of patches"):
        msn(resnet())
