"""MoCo against its definition: queue and keys, both variants, and shuffled keys under split batch norm."""

from functools import partial
from typing import Any

import pytest
import torch
from nets16 import BATCH, branch, resnet, unlike, views, vit
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.moco import MoCo
from baselines.mrcl import MRCL
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder
from benchmark.nets.split_norm import SplitBatchNorm2d
from benchmark.randomness import Draws

SETTINGS = {"temperature": 0.3, "momentum": 0.9, "queue_size": 20, "projector_width": 6}


def moco(encoder: Encoder | None = None, symmetric: bool = False, splits: int = 1, **settings: Any) -> MoCo:
    encoder = encoder or vit()
    torch.manual_seed(1)
    method = MoCo(encoder, symmetric=symmetric, splits=splits, **SETTINGS | settings).double().train()
    unlike(method.target)
    return method


def embed(encoder: nn.Module, projector: nn.Module, view: Tensor) -> Tensor:
    return F.normalize(projector(encoder(view).pooled).detach(), dim=1)


def contrast(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Contrast each query with its key and the queue (He et al. 2020, Eq. 1) as sums of exponentials."""
    losses = []
    for query, key in zip(queries, keys, strict=True):
        positive, negatives = (query @ key / temperature).exp(), (queue @ query / temperature).exp()
        losses.append(-(positive / (positive + negatives.sum())).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("symmetric", [False, True])
def test_loss_is_its_equation(symmetric: bool) -> None:
    """Oracle: Eq. 1 by hand; view 1 gives the keys of view 0, and a symmetric loss sums both directions."""
    method = moco(symmetric=symmetric)
    directions = [(0, 1), (1, 0)] if symmetric else [(0, 1)]
    expected = sum(
        contrast(
            embed(method.encoder, method.projector, views()[a]),
            embed(method.target.encoder, method.target.projector, views()[b]),
            method.queue.keys,
            0.3,
        )
        for a, b in directions
    )
    torch.testing.assert_close(method(views(), Draws(0, 0, BATCH)).loss, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_keys_of_every_target_view_enter_the_queue_in_order(symmetric: bool) -> None:
    """Oracle: normalised projections of the copy, view 0 before view 1; the queue waits for `after_backward`."""
    method = moco(symmetric=symmetric)
    before = method.queue.keys.clone()
    step = method(views(), Draws(0, 0, BATCH))
    step.loss.backward()
    assert torch.equal(method.queue.keys, before)
    method.after_backward(step)
    used = views() if symmetric else views()[1:]
    keys = torch.cat([embed(method.target.encoder, method.target.projector, view) for view in used])
    torch.testing.assert_close(method.queue.keys[: len(keys)], keys, rtol=0, atol=1e-6)  # keys travel in float32
    assert torch.equal(method.queue.keys[len(keys) :], before[len(keys) :])
    assert int(method.queue.position) == len(keys)
    assert not step.carry["keys"].requires_grad


def test_copy_may_move_after_the_step_or_before_the_keys() -> None:
    """Oracle: the authors' order by hand: copies move at the start of a step, from originals that they equal at first.

    Losses and keys of 4 steps, and the copies once the last move is made up for.
    """

    def trained(by_hand: bool) -> tuple[MoCo, list[float]]:
        encoder = vit()
        torch.manual_seed(1)
        method = MoCo(encoder, symmetric=False, splits=1, **SETTINGS).double()
        copies, originals = method.target.parameters(), [*method.encoder.parameters(), *method.projector.parameters()]
        pairs = list(zip(copies, originals, strict=True))
        optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        losses = []
        for t in range(5 if by_hand else 4):
            if by_hand:
                for copied, original in pairs:
                    copied.data = 0.9 * copied.data + 0.1 * original.data
            if t == 4:
                break
            step = method(views(t), Draws(0, t, BATCH))
            step.loss.backward()
            method.after_backward(step)
            optimiser.step()
            optimiser.zero_grad()
            if not by_hand:
                method.after_step(t / 4)
            losses.append(step.loss.item())
        return method, losses

    (ours, losses), (theirs, expected) = trained(by_hand=False), trained(by_hand=True)
    assert losses == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(ours.queue.keys, theirs.queue.keys, rtol=1e-5, atol=1e-6)
    for copied, by_hand in zip(ours.target.parameters(), theirs.target.parameters(), strict=True):
        torch.testing.assert_close(copied, by_hand, rtol=1e-6, atol=1e-8)


def test_batch_norms_are_split_in_both_networks() -> None:
    """Oracle: the type of every batch norm of images; without splits, or on a ViT, there is nothing to shuffle."""
    split = moco(resnet(), splits=4)
    for net in (split.encoder, split.target.encoder):
        norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
        assert len(norms) == 10
        assert all(isinstance(norm, SplitBatchNorm2d) and norm.splits == 4 for norm in norms)
    assert split.shuffled
    whole = moco(resnet(), splits=1)
    assert not any(isinstance(part, SplitBatchNorm2d) for part in whole.modules())
    assert not whole.shuffled
    assert not moco(vit(), splits=4).shuffled


def test_keys_are_shuffled_and_come_back_in_order() -> None:
    """Oracle: the copy on the shuffled images, each key put where its image was; unshuffled it gives others.

    The order of keys is seen apart from the statistics too: in eval mode a key depends on its image alone.
    """
    method = moco(resnet(), splits=4)
    draws = Draws(0, 3, BATCH)
    order = draws.shared(("shuffle", 1), BATCH).argsort().tolist()
    assert order != sorted(order)
    shuffled = method.target(views()[1][order])
    keys = method.targets(views(), {}, draws)[1]
    for place, image in enumerate(order):
        torch.testing.assert_close(keys[image], shuffled[place], rtol=1e-10, atol=1e-12)
    assert (keys - method.target(views()[1])).abs().max() > 1e-3
    method.eval()
    torch.testing.assert_close(method.targets(views(), {}, draws)[1], method.target(views()[1]), rtol=1e-10, atol=1e-12)


def test_each_view_and_step_is_shuffled_anew() -> None:
    """Oracle: the images that the copy was given: one order for each view and step."""
    method = moco(resnet(), splits=4, symmetric=True)
    encoded: list[Tensor] = []
    method.target.register_forward_pre_hook(lambda module, inputs: encoded.append(inputs[0]))
    same = [views()[0]] * 2
    for t in range(2):
        method.targets(same, {}, Draws(0, t, BATCH))
    assert len(encoded) == 4
    assert not any(torch.equal(a, b) for i, a in enumerate(encoded) for b in encoded[:i])


def test_container_pushes_keys_and_moves_the_copy() -> None:
    """Oracle: a base on masked views: its keys in the queue, made from the visible tokens of view 1 alone."""
    torch.manual_seed(1)
    method = MRCL(
        vit(),
        base=partial(MoCo, symmetric=False, splits=1, **SETTINGS),
        decoder=partial(PixelDecoder, width=16, depth=1, heads=2),
        mask_ratio=0.5,
        masked_weight=1.0,
        visible_weight=0.0,
    ).double()
    step = method(views(), Draws(0, 0, BATCH))
    method.after_backward(step)
    target = method.base.target
    visible = Draws(0, 0, BATCH).rows(("mask", 1), 16).argsort(1)[:, :8]
    keys = F.normalize(target(views()[1], visible), dim=1)
    torch.testing.assert_close(method.base.queue.keys[:BATCH], keys, rtol=0, atol=1e-6)
    unlike(method.base.projector)
    before = target.projector[0].weight.clone()
    method.after_step(0.5)
    expected = 0.9 * before + 0.1 * method.base.projector[0].weight
    torch.testing.assert_close(target.projector[0].weight, expected.detach())


def test_a_direction_alone_is_half_of_a_symmetric_loss() -> None:
    """Oracle: `compare` of equal predictions and keys in both directions."""
    method = moco(symmetric=True)
    p, k = torch.randn(2, BATCH, 6, dtype=torch.float64)
    whole = method.objective({0: branch(p), 1: branch(p)}, {0: k, 1: k})
    torch.testing.assert_close(whole, 2 * method.compare(p, k))


def test_head_of_one_layer() -> None:
    """Oracle: one affine map from the features to the keys, which moves by momentum too."""
    method = moco(projector_layers=1)
    assert [(type(layer), layer.in_features, layer.out_features) for layer in method.projector] == [
        (nn.Linear, method.encoder.width, 6)
    ]
    assert method.projector[0].bias is not None
    assert method.target.projector[0].weight.shape == (6, method.encoder.width)
