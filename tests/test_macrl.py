"""MACRL against its two halves: the contrast of a masked query, and an autoencoder with absolute errors."""

from functools import partial
from typing import Any

import pytest
import torch
from nets16 import BATCH, resnet, train, unlike, untrained, views, vit
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.macrl import MACRL
from baselines.moco import MoCo
from benchmark.errors import ConfigError
from benchmark.method import Siamese
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws

T = 0.3
BASE = partial(MoCo, temperature=T, momentum=0.9, queue_size=24, projector_width=6, splits=1)
DECODER = partial(PixelDecoder, width=16, depth=1, heads=2)
SETTINGS = {"mask_ratio": 0.75, "key_mask_ratio": 0.0, "contrast_weight": 1.0, "masked_weight": 1.0}


def macrl(encoder: Encoder | None = None, symmetric: bool = False, **settings: Any) -> MACRL:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return MACRL(encoder, base=partial(BASE, symmetric=symmetric), decoder=DECODER, **SETTINGS | settings)


class OneSided(Siamese):
    """One direction and no momentum copy."""

    directions = ((0, 1),)

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, nn.Identity())

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()


def moved(**settings: Any) -> MACRL:
    """Build one in float64 whose copy differs from its original."""
    method = macrl(**settings).double()
    unlike(method.base.target)
    return method


def drawn(step: int = 0) -> Draws:
    return Draws(0, step, BATCH)


def ids(view: int, count: int) -> Tensor:
    return drawn().rows(("mask", view), 16).argsort(dim=1)[:, :count]


def test_without_masks_and_errors_it_is_its_base() -> None:
    """Oracle: the base trained alone from the same seeds: losses, weights, copy and queue to the last bit."""
    encoder = vit()
    torch.manual_seed(1)
    base = BASE(encoder, symmetric=False)
    method = macrl(mask_ratio=0.0, masked_weight=0.0)
    assert train(method, 4) == train(base, 4)
    for key, value in base.state_dict().items():
        assert torch.equal(method.base.state_dict()[key], value), key


def naive_autoencoder(method: MACRL, view: Tensor, visible: Tensor | None, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Return the absolute errors of patches that the encoder does not see and of those that it sees, patch by patch."""
    predicted = method.restore.decoder(encoder(view, visible))
    seen = [list(range(16))] * BATCH if visible is None else visible.tolist()
    errors: tuple[list[Tensor], list[Tensor]] = ([], [])
    for image, rows, kept in zip(view, predicted, seen, strict=True):
        patches = [image[:, r : r + 4, c : c + 4] for r in range(0, 16, 4) for c in range(0, 16, 4)]
        for i, (patch, row) in enumerate(zip(patches, rows, strict=True)):
            target = patch.permute(1, 2, 0).flatten()
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors[i in kept].append((row - target).abs().mean())
    return torch.stack(errors[0]).mean() if errors[0] else torch.tensor(torch.nan), torch.stack(errors[1]).mean()


def contrast(method: MACRL, query_ids: Tensor | None, key_ids: Tensor | None) -> Tensor:
    """Spell out the cross entropy of each query's key against the queue."""
    base = method.base
    queries = F.normalize(base.projector(method.encoder(views()[0], query_ids).pooled), dim=1)
    keys = F.normalize(base.target.projector(base.target.encoder(views()[1], key_ids).pooled), dim=1)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ base.queue.keys.T], dim=1) / T
    return (logits.logsumexp(1) - logits[:, 0]).mean()


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, None), (0.5, 8)])
def test_masked_query_meets_the_key_of_the_other_view(ratio: float, kept: int | None) -> None:
    """Oracle: the logits by hand; the query sees 4 patches, the key all or 8 of its own draw."""
    method = moved(key_mask_ratio=ratio)
    step = method(views(), drawn())
    expected = contrast(method, ids(0, 4), None if kept is None else ids(1, kept))
    torch.testing.assert_close(step.logs["base_loss"], expected.detach(), rtol=1e-10, atol=0)


def test_loss_weighs_contrast_and_errors() -> None:
    """Oracle: the three parts by hand, each with a weight of its own."""
    method = moved(contrast_weight=3.0, masked_weight=5.0, visible_weight=2.0)
    masked, visible = naive_autoencoder(method, views()[0], ids(0, 4), method.encoder)
    expected = 3 * contrast(method, ids(0, 4), None) + 5 * masked + 2 * visible
    step = method(views(), drawn())
    torch.testing.assert_close(step.loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(step.logs["reconstruction_loss"], (5 * masked + 2 * visible).detach())


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, None), (0.5, 8)])
def test_both_views_are_restored(ratio: float, kept: int | None) -> None:
    """Oracle: five parts by hand: the key from the copy's features, all of its patches or 8 masked and 8 visible."""
    method = moved(key_mask_ratio=ratio, contrast_weight=3.0, masked_weight=5.0, visible_weight=2.0, restore_key=True)
    shown = None if kept is None else ids(1, kept)
    masked, visible = naive_autoencoder(method, views()[0], ids(0, 4), method.encoder)
    key_masked, key_visible = naive_autoencoder(method, views()[1], shown, method.base.target.encoder)
    key = 5 * key_visible if kept is None else 5 * key_masked + 2 * key_visible
    step = method(views(), drawn())
    torch.testing.assert_close(step.logs["key_reconstruction_loss"], key.detach())
    torch.testing.assert_close(step.logs["reconstruction_loss"], (5 * masked + 2 * visible).detach())
    expected = 3 * contrast(method, ids(0, 4), shown) + 5 * masked + 2 * visible + key
    torch.testing.assert_close(step.loss, expected, rtol=1e-10, atol=0)


def gradients(method: MACRL) -> dict[str, Tensor]:
    method(views(), drawn()).loss.backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def test_the_key_trains_the_decoder_alone() -> None:
    """Oracle: gradients without the key, to the last bit outside the decoder; in it, plus those of the key by hand."""
    alone, both = gradients(moved()), gradients(moved(restore_key=True))
    assert set(alone) == set(both)
    assert not any(".target." in name for name in both)
    method = moved()
    naive_autoencoder(method, views()[1], None, method.base.target.encoder)[1].backward()
    of_key = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    decoder = {name for name in both if name.startswith("restore.decoder.")}
    assert set(of_key) == decoder - {"restore.decoder.mask_token"}
    for name, gradient in both.items():
        if name in of_key:
            assert of_key[name].any(), name
            torch.testing.assert_close(gradient, alone[name] + of_key[name])
        else:
            assert torch.equal(gradient, alone[name]), name


def test_without_restore_key_only_the_query_is_decoded() -> None:
    """Oracle: the base's passes and one restoration, to the last bit; what the decoder was given; the default."""
    for settings in ({}, {"restore_key": False}):
        method = moved(key_mask_ratio=0.5, visible_weight=2.0, **settings)
        shown = [ids(0, 4), ids(1, 8)]
        online, targets = method.base.passes(views(), drawn(), shown)
        expected = method.base.objective(online, targets) + method.restore(views()[0], online[0].features)
        decoded: list[Any] = []
        method.restore.decoder.register_forward_pre_hook(lambda module, inputs, seen=decoded: seen.append(inputs[0]))
        step = method(views(), drawn())
        assert torch.equal(step.loss, expected)
        assert [features.visible.shape[1] for features in decoded] == [4]
        assert "key_reconstruction_loss" not in step.logs


def test_kind_and_target_of_the_error_are_bindings() -> None:
    """Oracle: errors of a decoder that predicts 0: mean |x| and mean x^2 of raw and of standardised pixels."""
    patches = views()[0].reshape(BATCH, 3, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(BATCH, 16, 48)
    standard = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
    hidden = torch.ones(BATCH, 16, dtype=torch.bool).scatter(1, ids(0, 4), False)
    for kind, standardised in (("l1", True), ("l1", False), ("l2", True), ("l2", False)):
        method = moved(contrast_weight=0.0, kind=kind, standardised=standardised)
        torch.nn.init.zeros_(method.restore.decoder.predict.weight)
        errors = (standard if standardised else patches)[hidden]
        expected = (errors.abs() if kind == "l1" else errors.square()).mean()
        torch.testing.assert_close(method(views(), drawn()).loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("restore_key", [False, True])
def test_key_branch_gets_no_gradient(restore_key: bool) -> None:
    """Oracle: gradients of all parameters: none in the copy, all of query and decoder; the keys are pushed whole."""
    method = macrl(restore_key=restore_key)
    assert untrained(method) == set()
    assert all(p.grad is None and not p.requires_grad for p in method.base.target.parameters())
    step = method(views(dtype=torch.float32), drawn())
    before = method.base.queue.keys.clone()
    method.after_backward(step)
    keys = method.base.target.projector(method.base.target.encoder(views(dtype=torch.float32)[1]).pooled)
    torch.testing.assert_close(method.base.queue.keys[:BATCH], F.normalize(keys, dim=1))
    assert torch.equal(method.base.queue.keys[BATCH:], before[BATCH:])
    assert not step.carry["keys"].requires_grad


def test_effective_ratios_are_recorded() -> None:
    """Oracle: floor(16 (1 - 0.2)) = 12 and floor(16 (1 - 0.1)) = 14 visible patches, by hand."""
    logs = macrl(mask_ratio=0.2, key_mask_ratio=0.1)(views(dtype=torch.float32), drawn()).logs
    assert (logs["mask_ratio"], logs["key_mask_ratio"]) == (4 / 16, 2 / 16)


def test_impossible_combinations_are_refused() -> None:
    """Oracle: the messages say what to use instead, when the method is built."""
    for name in ("mask_ratio", "key_mask_ratio"):
        with pytest.raises(ConfigError, match=rf"MACRL\.{name} = .*at most 0\.937"):
            macrl(**{name: 0.95})
    with pytest.raises(ConfigError, match=r"Use a ViT .*or a method without a decoder"):
        macrl(encoder=resnet())
    with pytest.raises(ConfigError, match=r"one-sided base: MACRL\.base = @MoCo, MoCo\.symmetric = False"):
        macrl(symmetric=True)
    with pytest.raises(ConfigError, match=r"mask_ratio = 0 masks no patch.* use a ratio above 0"):
        macrl(mask_ratio=0.0)
    with pytest.raises(ConfigError, match="all three weights 0"):
        macrl(contrast_weight=0.0, masked_weight=0.0)
    with pytest.raises(ConfigError, match=r"restore_key = True .* OneSided has none\. Use a base with one"):
        MACRL(vit(), base=OneSided, decoder=DECODER, **SETTINGS, restore_key=True)
    for weights in ({}, {"visible_weight": 2.0}):
        with pytest.raises(
            ConfigError, match=r"nothing of the key: .*key_mask_ratio = 0\.0 .*MACRL\.restore_key = False"
        ):
            macrl(restore_key=True, masked_weight=0.0, **weights)
    with pytest.raises(ConfigError, match=r"nothing of the key: .*key_mask_ratio = 0\.5 .*MACRL\.restore_key = False"):
        macrl(restore_key=True, masked_weight=0.0, key_mask_ratio=0.5)
    assert macrl(restore_key=True, masked_weight=0.0, key_mask_ratio=0.5, visible_weight=2.0).restore_key
