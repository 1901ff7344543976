"""Losses against naive loops in float64, another library, and numerical gradients."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss
from lightly.models.utils import normalize_mean_var
from torch import Tensor

from benchmark.errors import ConfigError
from benchmark.losses import (
    cross_correlation,
    info_nce,
    info_nce_patches,
    info_nce_queue,
    negative_cosine,
    nt_xent,
    reconstruction,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def queue(dim: int, size: int = 7) -> Tensor:
    return torch.nn.functional.normalize(normal(size, dim, seed=4))


def queued(a: Tensor, b: Tensor, temperature: float = 0.2) -> Tensor:
    return info_nce_queue(a, b, queue(a.shape[1]), temperature=temperature)


def patched(a: Tensor, b: Tensor) -> Tensor:
    """Take the rows for the patches of one image."""
    return info_nce_patches(a[None], b[None], temperature=0.2)


PAIRED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": partial(nt_xent, temperature=0.2),
    "info_nce": partial(info_nce, temperature=0.2),
    "info_nce_queue": queued,
    "info_nce_patches": patched,
    "negative_cosine": negative_cosine,
    "cross_correlation": partial(cross_correlation, redundancy_weight=0.0051),
}
weighted = partial(reconstruction, masked_weight=7.0, visible_weight=2.0)


def pair(batch: int = 6, dim: int = 5) -> tuple[Tensor, Tensor]:
    return normal(batch, dim, seed=1), normal(batch, dim, seed=2)


def masks(batch: int, tokens: int, masked: int) -> Tensor:
    order = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(3)).argsort(1)
    return (order < masked).double()


def naive_info_nce(queries: Tensor, keys: Tensor, temperature: float) -> float:
    total = 0.0
    for i, query in enumerate(queries):
        similarity = [float(torch.cosine_similarity(query, key, dim=0)) / temperature for key in keys]
        total += math.log(sum(map(math.exp, similarity))) - similarity[i]
    return total / len(queries)


def test_info_nce_equals_its_equation() -> None:
    """Oracle: the paper's equation row by row, float64."""
    assert float(info_nce(*pair(), temperature=0.1)) == pytest.approx(naive_info_nce(*pair(), 0.1), rel=1e-12)


def test_a_temperature_may_be_a_tensor() -> None:
    """Oracle: the number that it holds; on the meta device, where a step is priced, it holds none."""
    of_pair = nt_xent, info_nce, queued, lambda a, b, **named: info_nce_patches(a[None], b[None], **named)
    for loss in of_pair:
        tensor = loss(*pair(), temperature=torch.tensor(0.1, dtype=torch.float64))
        torch.testing.assert_close(tensor, loss(*pair(), temperature=0.1), rtol=1e-12, atol=0)
        if loss is not queued:
            assert loss(*(z.to("meta") for z in pair()), temperature=torch.tensor(0.1, device="meta")).is_meta
        with pytest.raises(ConfigError, match=r"temperature = 0.0: a contrastive loss needs one above 0"):
            loss(*pair(), temperature=0.0)


def test_pair_losses_equal_lightly() -> None:
    """Oracle: lightly's losses, written by others, one with our queue in its memory bank; one computes in float32."""
    a, b = pair(16, 32)
    bank = NTXentLoss(temperature=0.3, memory_bank_size=(7, 32)).double()
    bank.memory_bank.bank = queue(32)
    torch.testing.assert_close(nt_xent(a, b, temperature=0.3), NTXentLoss(temperature=0.3)(a, b), rtol=1e-12, atol=0)
    torch.testing.assert_close(queued(a, b, 0.3), bank(a, b), rtol=1e-12, atol=0)
    torch.testing.assert_close(negative_cosine(a, b), NegativeCosineSimilarity()(a, b), rtol=1e-12, atol=0)
    ours = cross_correlation(a.float(), b.float(), redundancy_weight=0.0051)
    expected = BarlowTwinsLoss(lambda_param=0.0051)(a.float(), b.float())
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


def test_reconstruction_equals_lightly() -> None:
    """Oracle: lightly's normalize_mean_var and torch's losses; the rows mask unequal numbers of patches."""
    prediction, patches, masked = normal(3, 8, 12, seed=1), normal(3, 8, 12, seed=2) * 3 + 1, masks(3, 8, 5)
    masked[0] = 0
    masked[0, :2] = 1
    pixel = {"l2": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}
    for kind, reduction, standardised in itertools.product(pixel, ("mean", "sum"), (True, False)):
        errors = pixel[kind](prediction, normalize_mean_var(patches) if standardised else patches, reduction="none")
        errors = errors.mean(2) if reduction == "mean" else errors.sum(2)
        expected = 7 * errors[masked == 1].mean() + 2 * errors[masked == 0].mean()
        settings: Any = {"kind": kind, "reduction": reduction, "standardised": standardised}
        ours = weighted(prediction, patches, masked, **settings)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0, msg=str(settings))


def test_an_empty_set_of_patches_contributes_nothing() -> None:
    """Oracle: an error of 1 everywhere leaves the weight of the set that is not empty, and no 0 / 0."""
    zeros = torch.zeros(2, 4, 12)
    for masked, left in ((0.0, 2.0), (1.0, 7.0)):
        assert float(weighted(zeros + 1, zeros, torch.full((2, 4), masked), standardised=False)) == left


@pytest.mark.parametrize("name", PAIRED)
def test_pair_losses_ignore_scale_and_order(name: str) -> None:
    """Oracle: the loss itself, up to the eps of the standardisation; permuting one view alone must change it.

    Its gradient is that of finite differences, for both views.
    """
    loss, (a, b), order = PAIRED[name], pair(), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(100 * a, 10 * b), loss(a, b), rtol=1e-4, atol=0)
    torch.testing.assert_close(loss(a[order], b[order]), loss(a, b), rtol=1e-12, atol=0)
    assert abs(float(loss(a[order], b) - loss(a, b))) > 1e-3
    assert torch.autograd.gradcheck(loss, (a.requires_grad_(), b.requires_grad_()))


def test_queue_gets_no_gradient_and_is_not_written() -> None:
    """Oracle: the queue before; a loss that leaves the queue as it was can be called for two directions."""
    keys = queue(5)
    before = keys.clone()
    info_nce_queue(*(z.requires_grad_() for z in pair()), keys, temperature=0.2).backward()
    assert torch.equal(keys, before)
    assert not keys.requires_grad


def test_reconstruction_has_the_right_gradient() -> None:
    """Oracle: finite differences in float64."""
    patches, masked = normal(2, 4, 6, seed=2), masks(2, 4, 3)
    prediction, kinds = normal(2, 4, 6, seed=1).requires_grad_(), ("l2", "l1")
    for loss in [partial(weighted, patches=patches, masked=masked, kind=kind) for kind in kinds]:
        assert torch.autograd.gradcheck(loss, (prediction,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    """Oracle: the same function of the same rounded numbers in float64."""
    a, b = (z.to(dtype) for z in pair(16, 32))
    patches, masked = normal(2, 4, 8), masks(2, 4, 3)
    prediction = normal(2, 4, 8, seed=5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        values = [loss(a, b) for loss in PAIRED.values()] + [weighted(prediction, patches.float(), masked)]
    exact = [loss(a.double(), b.double()) for loss in PAIRED.values()]
    exact.append(weighted(prediction.double(), patches, masked))
    for value, expected in zip(values, exact, strict=True):
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_info_nce_patches_is_info_nce_within_each_image() -> None:
    """Oracle: a double loop over images and patches; constant queries give log(patches)."""
    q, k = normal(3, 5, 8), normal(3, 5, 8, seed=1)
    rows = []
    for image in range(3):
        for i in range(5):
            cosines = torch.stack(
                [q[image, i] @ k[image, j] / (q[image, i].norm() * k[image, j].norm()) for j in range(5)]
            )
            rows.append(-(cosines / 0.2).log_softmax(0)[i])
    assert float(info_nce_patches(q, k, temperature=0.2)) == pytest.approx(float(torch.stack(rows).mean()), abs=1e-12)
    constant = torch.ones(3, 5, 8, dtype=torch.float64)
    assert float(info_nce_patches(constant, constant, temperature=0.2)) == pytest.approx(math.log(5))


def test_info_nce_patches_ignores_the_order_of_images_and_of_patches() -> None:
    """Oracle: the loss itself; another image's keys must change it, which one image alone cannot show."""
    q, k = normal(3, 5, 8), normal(3, 5, 8, seed=1)
    loss = partial(info_nce_patches, temperature=0.2)
    images, patches = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(loss(q[images], k[images]), loss(q, k), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(q[:, patches], k[:, patches]), loss(q, k), rtol=1e-12, atol=0)
    assert abs(float(loss(q[images], k) - loss(q, k))) > 1e-3
    assert torch.autograd.gradcheck(loss, (q.requires_grad_(), k.requires_grad_()))
