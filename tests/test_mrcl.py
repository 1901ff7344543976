"""MRCL against its base, its reconstruction, and its refusals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import nets16
import pytest
import torch
from nets16 import BATCH, train, vit
from torch import Tensor, nn
from torch.nn.functional import normalize

from baselines.barlow_twins import BarlowTwins
from baselines.byol import BYOL
from baselines.mrcl import MRCL
from baselines.simclr import SimCLR
from benchmark.errors import ConfigError
from benchmark.method import Siamese
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.resnet import ResNet
from benchmark.randomness import Draws

views = partial(nets16.views, dtype=torch.float32)
BASES: dict[str, Callable[[Encoder], Siamese]] = {
    "simclr": partial(SimCLR, temperature=0.2, projector_layers=2, projector_hidden=16, projector_width=8),
    "barlow_twins": partial(BarlowTwins, redundancy_weight=0.005, projector_width=16),
    "byol": partial(BYOL, momentum=0.9, projector_layers=2, head_hidden=16, projector_width=8),
}


def mrcl(
    base: Callable[[Encoder], Siamese],
    ratio: float = 0.75,
    weights: tuple[float, float] = (7.0, 2.0),
    encoder: Encoder | None = None,
    **settings: Any,
) -> MRCL:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return MRCL(
        encoder,
        base=base,
        decoder=partial(PixelDecoder, width=16, depth=1, heads=2),
        mask_ratio=ratio,
        masked_weight=weights[0],
        visible_weight=weights[1],
        **settings,
    )


def decoded(method: MRCL) -> list[Features]:
    """Return a list of the features that the decoder will be given."""
    features: list[Features] = []
    method.restore.decoder.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    return features


@pytest.mark.parametrize("name", BASES)
def test_without_masks_and_weights_it_is_its_base(name: str) -> None:
    """Oracle: the base trained alone from the same seeds: equal losses and weights to the last bit over 3 steps."""
    encoder = vit()
    torch.manual_seed(1)
    base = BASES[name](encoder)
    container = mrcl(BASES[name], ratio=0.0, weights=(0.0, 0.0))
    assert train(container) == train(base)
    for key, value in base.state_dict().items():
        assert torch.equal(container.base.state_dict()[key], value), key


def test_loss_is_base_plus_reconstruction() -> None:
    """Oracle: the base's loss on the same masked views, the logs, and a loss that is linear in both weights."""
    step = mrcl(BASES["byol"])(views(), Draws(0, 0, BATCH))
    torch.testing.assert_close(step.loss, step.logs["base_loss"] + step.logs["reconstruction_loss"])
    masked, visible, none = (
        mrcl(BASES["byol"], weights=weights)(views(), Draws(0, 0, BATCH)).loss
        for weights in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    )
    torch.testing.assert_close(none, step.logs["base_loss"])
    torch.testing.assert_close(7 * (masked - none) + 2 * (visible - none), step.loss - none, rtol=1e-5, atol=0)


def test_reduction_and_target_of_the_error_are_bindings() -> None:
    """Oracle: errors of a decoder that predicts 0, of both views: mean or sum of x^2, raw or standardised."""
    patches = (
        torch.stack(views()).reshape(2, BATCH, 3, 4, 4, 4, 4).permute(0, 1, 3, 5, 4, 6, 2).reshape(2, BATCH, 16, 48)
    )
    standard = (patches - patches.mean(3, keepdim=True)) / (patches.var(3, keepdim=True) + 1e-6).sqrt()
    hidden = torch.ones(2, BATCH, 16, dtype=torch.bool).scatter(2, torch.stack(shown_ids()), False)
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"reduction": "sum"},
        {"standardised": False},
        {"reduction": "sum", "standardised": False},
    )
    for chosen in settings:
        method = mrcl(BASES["simclr"], weights=(1.0, 0.0), **chosen)
        nn.init.zeros_(method.restore.decoder.predict.weight)
        squares = (standard if chosen.get("standardised", True) else patches)[hidden].square()
        expected = 2 * (squares.sum(1).mean() if chosen.get("reduction") == "sum" else squares.mean())
        logged = method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"]
        torch.testing.assert_close(logged, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", BASES)
def test_views_are_restored_apart_and_summed(name: str) -> None:
    """Oracle: the errors of two autoencoders of one view each, with the drawn ids: their sum, not their mean."""
    method = mrcl(BASES[name])
    expected = 0.0
    for view, ids in zip(views(), shown_ids(), strict=True):
        expected += method.restore(view, method.encoder(view, ids)).item()
    logged = method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"]
    assert logged.item() == pytest.approx(expected, rel=1e-5)


def test_momentum_targets_see_the_masked_views() -> None:
    """Oracle: Eq. 15: the copy's projection of each view, encoded alone with the ids drawn for that view."""
    method = mrcl(BASES["byol"])
    online = [
        method.base.encode([view], [shown])[0].prediction for view, shown in zip(views(), shown_ids(), strict=True)
    ]
    target = [method.base.target(view, shown) for view, shown in zip(views(), shown_ids(), strict=True)]
    expected = sum((normalize(online[a]) - normalize(target[b])).square().sum(1).mean() for a, b in ((0, 1), (1, 0)))
    logged = method(views(), Draws(0, 0, BATCH)).logs["base_loss"]
    torch.testing.assert_close(logged, expected.detach(), rtol=1e-4, atol=1e-5)


def shown_ids() -> list[Tensor]:
    """Return the 4 visible tokens of each view."""
    return [Draws(0, 0, BATCH).rows(("mask", k), 16).argsort(dim=1)[:, :4] for k in (0, 1)]


def test_effective_counts() -> None:
    """Oracle: floor(16 (1 - ratio)) visible tokens, by hand, None for all; the share of the others is logged."""
    for ratio, expected in ((0.0, None), (0.1, 14), (0.75, 4), (0.9375, 1)):
        method = mrcl(BASES["simclr"], ratio=ratio)
        passed = decoded(method)
        step = method(views(), Draws(0, 0, BATCH))
        counts = [None if features.visible is None else features.visible.shape[1] for features in passed]
        assert counts == [expected, expected]
        assert float(step.logs["mask_ratio"]) == (0 if expected is None else 1 - expected / 16)


def test_unmasked_views_still_restore_what_is_visible() -> None:
    """Oracle: at ratio 0 the masked term is 0 for any weight and the visible term is not."""
    losses = [
        mrcl(BASES["simclr"], ratio=0.0, weights=weights)(views(), Draws(0, 0, BATCH)).loss
        for weights in ((0.0, 0.0), (9.0, 0.0), (0.0, 1.0))
    ]
    assert losses[0] == losses[1]
    assert losses[2] > losses[0] + 0.1


def test_zero_weights_decode_nothing() -> None:
    """Oracle: the decoder's own record of what it was given: a term without weight must cost nothing."""
    method = mrcl(BASES["simclr"], weights=(0.0, 0.0))
    passed = decoded(method)
    assert method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"] == 0
    assert passed == []


def test_impossible_settings_are_refused() -> None:
    """Oracle: the messages name the setting and what to use."""
    with pytest.raises(ConfigError, match=r"MRCL\.mask_ratio = .*at most 0\.937"):
        mrcl(BASES["simclr"], ratio=0.95)
    with pytest.raises(ConfigError, match="Use a ViT"):
        mrcl(BASES["simclr"], encoder=ResNet(16, name="resnet18"))
