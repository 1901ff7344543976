"""MSN against its equation by hand and lightly's loss, mistakes that these must find, and its refusals."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightly.loss import MSNLoss
from lightly.models.modules.heads import MSNProjectionHead
from nets16 import BATCH, resnet, unlike, vit
from test_dino import crops
from torch import Tensor
from torch.nn import functional as F

import baselines.msn
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


def equation(method: MSN) -> Tensor:
    """Eq. 1 and the authors' code (losses.py): powers and sums of probabilities, three rounds of Sinkhorn."""

    def belongs(z: Tensor, prototypes: Tensor) -> Tensor:
        cosines = torch.stack([torch.stack([F.cosine_similarity(a, q, dim=0) for q in prototypes]) for a in z])
        scores = (cosines / 0.1).exp()
        return scores / scores.sum(1, keepdim=True)

    anchors, targets, prototypes = projections(method)
    sharp = belongs(targets, prototypes.detach()) ** 4
    sharp = sharp / sharp.sum(1, keepdim=True)
    shares = sharp.T / sharp.sum()
    for _ in range(3):
        shares = shares / shares.sum(1, keepdim=True) / PROTOTYPES
        shares = shares / shares.sum(0, keepdim=True) / BATCH
    p, q = belongs(anchors, prototypes), shares.T * BATCH
    terms = [-(q[n % BATCH] * p[n].log()).sum() for n in range(len(p))]
    mean = p.mean(0)
    return torch.stack(terms).mean() + 0.7 * (math.log(PROTOTYPES) + (mean * mean.log()).sum())


def require_equation(method: MSN) -> None:
    """Oracle: the equation and its gradient; none reaches the copies."""
    loss, expected = method(crops(), DRAWS).loss, equation(method)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, retain_graph=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, trained), rtol=1e-6, atol=1e-10)
    assert not any(p.requires_grad for p in method.target.parameters())


def test_loss_and_gradient_are_the_equation() -> None:
    """Oracle: `equation`."""
    require_equation(apart())


def test_loss_and_gradient_equal_lightly() -> None:
    """Oracle: lightly's loss, written by others, on the same projections."""
    method = apart()
    anchors, targets, prototypes = projections(method)
    theirs = MSNLoss(temperature=0.1, sinkhorn_iterations=3, regularization_weight=0.7)(anchors, targets, prototypes)
    step = method(crops(), DRAWS)
    torch.testing.assert_close(step.loss, theirs, rtol=1e-9, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(step.loss, trained, retain_graph=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(theirs, trained), rtol=1e-6, atol=1e-10)


def targets_not_sharpened(method: MSN, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(baselines.msn, "balanced", lambda logits, rounds: balanced(logits / 4, rounds))


def targets_not_balanced(method: MSN, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(baselines.msn, "balanced", lambda logits, rounds: balanced(logits, 0))


def targets_train_the_prototypes(method: MSN, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MSN, "targets", MSN.targets.__wrapped__)


def entropy_of_each_anchor(method: MSN, patch: pytest.MonkeyPatch) -> None:
    def wrong(logits: Tensor) -> Tensor:
        return math.log(PROTOTYPES) + (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()

    patch.setattr(baselines.msn, "mean_entropy_gap", wrong)


def anchors_see_all_patches(method: MSN, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(baselines.msn, "visible_tokens", lambda uniform, ratio: None)


def target_loses_patches(method: MSN, patch: pytest.MonkeyPatch) -> None:
    compute, kept = method.target.forward, DRAWS.rows("mask", 16).argsort(1)[:, :9]
    patch.setattr(method.target, "forward", lambda view: compute(view, kept))


def targets_of_other_images(method: MSN, patch: pytest.MonkeyPatch) -> None:
    compute = method.targets
    patch.setattr(method, "targets", lambda view: compute(view).roll(1, 0))


MISTAKES: tuple[Callable[[MSN, pytest.MonkeyPatch], None], ...] = (
    targets_not_sharpened,
    targets_not_balanced,
    targets_train_the_prototypes,
    entropy_of_each_anchor,
    anchors_see_all_patches,
    target_loses_patches,
    targets_of_other_images,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_planted_mistakes_are_found(
    mistake: Callable[[MSN, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the equation, which each mistake fails."""
    method = apart()
    mistake(method, monkeypatch)
    with pytest.raises(AssertionError):
        require_equation(method)


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


def test_momentum_rises_on_a_line() -> None:
    """Oracle: 0.9 at first, 1 at the end, halfway between in the middle."""
    for progress, momentum in ((0.0, 0.9), (0.5, 0.95), (0.75, 0.975)):
        method = apart()
        originals = [*method.encoder.parameters(), *method.projector.parameters()]
        copies = list(method.target.parameters())
        expected = [momentum * c + (1 - momentum) * p for c, p in zip(copies, originals, strict=True)]
        method.after_step(progress)
        torch.testing.assert_close(copies, expected, rtol=1e-12, atol=1e-12)


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
    for setting in ("mask_ratio", "momentum"):
        with pytest.raises(ConfigError, match=rf"MSN\.{setting} = 1\.5"):
            msn(**{setting: 1.5})
    with pytest.raises(ConfigError, match="subset of patches"):
        msn(resnet())
