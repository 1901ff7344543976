"""MoBY against its formula on a ViT and a Swin, its queues, and what a step costs."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from nets16 import BATCH, require_same, resnet, unlike, untrained, views
from test_nets_swin import MICRO, by_hand, swin
from torch import Tensor

from baselines.mimco import MimCo
from baselines.moby import MoBY
from benchmark.errors import ConfigError
from benchmark.method import Method
from benchmark.nets.drop_path import path_scales
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.swin import Swin
from benchmark.randomness import Draws
from benchmark.training.flops import count, count_step

SETTINGS: dict[str, Any] = {
    "temperature": 0.3,
    "momentum": 0.9,
    "drop_path": 0.5,
    "queue_size": 20,
    "head_hidden": 16,
    "projector_width": 6,
}


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(16, name="vit", width=24, depth=2, heads=3, patch=4)


def moby(encoder: Encoder | None = None, **changes: Any) -> MoBY:
    encoder = encoder or vit()
    torch.manual_seed(1)
    method = MoBY(encoder, **(SETTINGS | changes)).double().train()
    unlike(method.target)
    return method


def predicted(method: MoBY, k: int) -> Tensor:
    """Return the prediction of view k, of length 1: the last block leaves out half of its branches."""
    encoder = method.encoder
    uniform = Draws(0, 3, BATCH).rows(("paths", k), encoder.n_blocks, 2)
    hidden = encoder(views()[k], paths=path_scales(uniform, 0.5)).pooled
    vector = method.predictor(method.projector(hidden))
    return vector / vector.square().sum(1, keepdim=True).sqrt()


def keys_of(method: MoBY, k: int) -> Tensor:
    """Return the keys of view k, of length 1, from all branches of the copy."""
    vector = method.target.projector(method.target.encoder(views()[k]).pooled).detach()
    return vector / vector.square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("build", [vit, swin])
def test_loss_and_gradient_are_the_formula(build: Callable[[], Encoder]) -> None:
    """Oracle: sums of exponentials, image by image: each prediction against the other view's key and that view's queue;
    the gradient too.
    """
    method, terms = moby(build()), []
    for query, key, queue in ((0, 1, method.queues[1]), (1, 0, method.queues[0])):
        predictions, positives = predicted(method, query), keys_of(method, key)
        for i in range(BATCH):
            positive = (predictions[i] @ positives[i] / 0.3).exp()
            negatives = torch.stack([(predictions[i] @ old / 0.3).exp() for old in queue.keys]).sum()
            terms.append(-(positive / (positive + negatives)).log())
    expected = torch.stack(terms).sum() / BATCH
    loss = method(views(), Draws(0, 3, BATCH)).loss
    require_same(method, loss, expected, rtol=1e-6, of_gradient=(1e-6, 1e-9))
    assert not any(p.requires_grad for p in method.target.parameters())


def test_each_queue_gets_the_keys_of_its_view() -> None:
    """Oracle: the first rows of each queue become the keys of its own view, the others stay."""
    method = moby()
    before = [queue.keys.clone() for queue in method.queues]
    method.after_backward(method(views(), Draws(0, 3, BATCH)))
    for k, queue in enumerate(method.queues):
        expected = torch.cat([keys_of(method, k), before[k][BATCH:]])
        torch.testing.assert_close(queue.keys, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", [vit, swin])
def test_every_weight_learns(build: Callable[[], Encoder]) -> None:
    """Oracle: gradients of a step, of the predictor's last bias too, which the length of a prediction does not undo."""
    assert untrained(moby(build()).float()) == set()


def test_a_resnet_is_refused_with_dropped_branches() -> None:
    """Oracle: the sentence that says what to do, and a loss where it is followed."""
    with pytest.raises(ConfigError, match=r"or set drop_path to 0"):
        moby(resnet())(views(), Draws(0, 0, BATCH))
    assert moby(resnet(), drop_path=0.0)(views(), Draws(0, 0, BATCH)).loss.isfinite()


def head(*widths: int) -> int:
    return sum(2 * a * b for a, b in pairwise(widths))


def moby_step(forward: int, embedding: int, width: int) -> int:
    """Two views forward and backward, two keys forward, two predictions against a queue of 20 and its own key.

    The patches' projection has no gradient of its input, the queue none of its keys; the key's product is no matrix.
    """
    online = 3 * (forward + head(width, 16, 6) + head(6, 16, 6)) - embedding
    return BATCH * 2 * (online + forward + head(width, 16, 6) + 2 * 2 * 6 * 20)


def mimco_step(forward: int, embedding: int, width: int) -> int:
    """The student forward and backward, the teacher forward, heads, 10 masked tokens and 8 images against each other.

    The teacher's features need no gradient.
    """
    heads = 3 * (10 * head(width, width, width) + head(width, width, width))
    return BATCH * (4 * forward - embedding + heads + 2 * 2 * width * (10 * 10 + BATCH))


@pytest.mark.parametrize("kind", ["moby", pytest.param("mimco", marks=pytest.mark.long)])
def test_a_step_on_a_swin_costs_its_closed_form(kind: str) -> None:
    """Oracle: the sums above, with a pass of one image by `by_hand`; the same with no branch left out, and on a real
    processor.
    """

    def build(drop_path: float = 0.2) -> Method:
        encoder = Swin(32, **MICRO)
        if kind == "moby":
            return MoBY(encoder, **(SETTINGS | {"drop_path": drop_path}))
        temperatures = {"patch_temperature": 0.2, "image_temperature": 0.2}
        weights = {"patch_weight": 1.0, "image_weight": 1.0}
        return MimCo(encoder, Swin(32, **MICRO), mask_ratio=0.6, mask_unit=1, **temperatures, **weights)

    step = moby_step if kind == "moby" else mimco_step
    expected = step(by_hand(16, 2, 32, (2, 2, 2), 4), 2 * 16**2 * 12 * 32, 128)
    assert count_step(build, BATCH, 32) == expected
    assert count_step(lambda: build(0.0), BATCH, 32) == expected
    assert count(build(), BATCH, 32, torch.device("cpu")) == expected
