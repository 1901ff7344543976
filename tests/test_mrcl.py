"""MRCL against its base, its reconstruction, and its refusals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from baselines.barlow_twins import BarlowTwins
from baselines.byol import BYOL
from baselines.mrcl import MRCL
from baselines.simclr import SimCLR
from benchmark.errors import ConfigError
from benchmark.method import Draws, Method, Siamese
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, Features, ResNet, ViT

BATCH = 8
BASES: dict[str, Callable[[Encoder], Siamese]] = {
    "simclr": partial(SimCLR, temperature=0.2, projector_layers=2, projector_hidden=16, projector_width=8),
    "barlow_twins": partial(BarlowTwins, redundancy_weight=0.005, projector_width=16),
    "byol": partial(BYOL, momentum=0.9, projector_layers=2, head_hidden=16, projector_width=8),
}


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(16, name="vit", width=24, depth=1, heads=3, patch=4)


def mrcl(
    base: Callable[[Encoder], Siamese],
    ratio: float = 0.75,
    weights: tuple[float, float] = (7.0, 2.0),
    depth: int = 1,
    encoder: Encoder | None = None,
    **settings: Any,
) -> MRCL:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return MRCL(
        encoder,
        base=base,
        decoder=partial(PixelDecoder, width=16, depth=depth, heads=2),
        mask_ratio=ratio,
        masked_weight=weights[0],
        visible_weight=weights[1],
        **settings,
    )


def views(step: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return list(torch.randn(2, BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step)).to(dtype))


def train(method: Method, steps: int = 3) -> list[float]:
    groups = [{"params": group.params} for group in method.param_groups()]
    optimiser = torch.optim.AdamW(groups, lr=1e-2)
    losses = []
    for t in range(steps):
        step = method(views(t), Draws(0, t, BATCH))
        step.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(step.loss.item())
    return losses


class Watched(nn.Module):
    """A decoder that remembers the features it was given."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.given: list[Features] = []

    def forward(self, features: Features) -> Tensor:
        self.given.append(features)
        return self.decoder(features)


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


@pytest.mark.parametrize("name", BASES)
def test_loss_is_base_plus_reconstruction(name: str) -> None:
    """Oracle: the base's loss on the same masked views, the logs, and a loss that is linear in both weights."""
    step = mrcl(BASES[name])(views(), Draws(0, 0, BATCH))
    torch.testing.assert_close(step.loss, step.logs["base_loss"] + step.logs["reconstruction_loss"])
    masked, visible, none = (
        mrcl(BASES[name], weights=weights)(views(), Draws(0, 0, BATCH)).loss
        for weights in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    )
    torch.testing.assert_close(none, step.logs["base_loss"])
    torch.testing.assert_close(7 * (masked - none) + 2 * (visible - none), step.loss - none, rtol=1e-5, atol=0)


def test_untrained_reconstruction_has_a_closed_form() -> None:
    """Oracle: 2 (alpha + lambda) (1 + Var): both views, both weights, the predictions' own mean square; within 5 %."""
    method = mrcl(BASES["simclr"])
    given: list[Tensor] = []
    method.restore.decoder.register_forward_hook(lambda module, inputs, output: given.append(output.detach()))
    logged = float(method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"])
    variance = float(torch.stack(given).square().mean())
    assert variance > 0.3
    assert logged == pytest.approx(2 * (7 + 2) * (47 / 48 + variance), rel=0.05)


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
def test_each_view_is_decoded_from_its_own_ids(name: str) -> None:
    """Oracle: each view encoded alone with the ids that the decoder was given; the ids of the two views differ."""
    method = mrcl(BASES[name])
    method.restore.decoder = Watched(method.restore.decoder)
    method(views(), Draws(0, 0, BATCH))
    first, second = method.restore.decoder.given
    for k, given in enumerate((first, second)):
        expected = Draws(0, 0, BATCH).rows(("mask", k), 16).argsort(dim=1)[:, :4]
        assert torch.equal(given.visible, expected)
        alone = method.encoder(views()[k], expected)
        torch.testing.assert_close(given.tokens, alone.tokens, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(given.pooled, alone.pooled, rtol=1e-5, atol=1e-5)
    assert not torch.equal(first.visible, second.visible)


@pytest.mark.parametrize("name", BASES)
def test_views_are_restored_apart_and_summed(name: str) -> None:
    """Oracle: the errors of two autoencoders of one view each, with the drawn ids: their sum, not their mean."""
    method = mrcl(BASES[name])
    expected = 0.0
    for k, view in enumerate(views()):
        ids = Draws(0, 0, BATCH).rows(("mask", k), 16).argsort(dim=1)[:, :4]
        expected += method.restore(view, method.encoder(view, ids)).item()
    logged = method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"]
    assert logged.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_second_view_is_restored_in_its_own_places(name: str) -> None:
    """Oracle: with the first view's ids planted in the second's place, the loss is another one."""
    method = mrcl(BASES[name], weights=(1.0, 0.0))
    right = method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"]
    passes = method.base.passes

    def planted(*args: object) -> object:
        online, targets = passes(*args)
        features = online[1].features
        wrong = Features(features.pooled, features.tokens, online[0].features.visible)
        branch = type(online[1])(online[1].prediction, online[1].projection, wrong)
        return {0: online[0], 1: branch}, targets

    method.base.passes = planted
    wrong = method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"]
    assert (wrong - right).abs() > 1e-3


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


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, None), (0.1, 14), (0.2, 12), (0.75, 4), (0.9375, 1)])
def test_effective_counts(ratio: float, expected: int | None) -> None:
    """Oracle: floor(16 (1 - ratio)) visible tokens, by hand, None for all; the share of the others is logged."""
    method = mrcl(BASES["simclr"], ratio=ratio)
    method.restore.decoder = Watched(method.restore.decoder)
    step = method(views(), Draws(0, 0, BATCH))
    shapes = [None if given.visible is None else given.visible.shape[1] for given in method.restore.decoder.given]
    assert shapes == [expected, expected]
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
    method.restore.decoder = Watched(method.restore.decoder)
    assert method(views(), Draws(0, 0, BATCH)).logs["reconstruction_loss"] == 0
    assert method.restore.decoder.given == []


@pytest.mark.parametrize("ratio", [1.0, 0.95, -0.1, float("nan")])
def test_ratios_without_visible_patch_are_refused(ratio: float) -> None:
    """Oracle: the message names the setting and the largest ratio."""
    with pytest.raises(ConfigError, match=r"MRCL\.mask_ratio = .*at most 0\.937"):
        mrcl(BASES["simclr"], ratio=ratio)


def test_convolutional_encoders_and_empty_decoders_are_refused() -> None:
    """Oracle: the messages say what to use."""
    with pytest.raises(ConfigError, match="Use a ViT"):
        mrcl(BASES["simclr"], encoder=ResNet(16, name="resnet18"))
    with pytest.raises(ConfigError, match=r"PixelDecoder\.depth = 0"):
        mrcl(BASES["simclr"], depth=0)
