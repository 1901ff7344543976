"""Losses against naive loops in float64, closed forms, another library, and numerical gradients."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss
from lightly.models.utils import normalize_mean_var
from torch import Tensor

from benchmark.objectives import (
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


@pytest.fixture(params=PAIRED, ids=list(PAIRED))
def loss(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor], Tensor]:
    return PAIRED[request.param]


def naive_nt_xent(a: Tensor, b: Tensor, temperature: float) -> float:
    z = [[x / math.hypot(*row) for x in row] for row in [*a.tolist(), *b.tolist()]]
    total = 0.0
    for i, anchor in enumerate(z):
        similarity = [sum(x * y for x, y in zip(anchor, other, strict=True)) / temperature for other in z]
        others = sum(math.exp(s) for j, s in enumerate(similarity) if j != i)
        total += math.log(others) - similarity[(i + len(a)) % len(z)]
    return total / len(z)


def naive_info_nce(queries: Tensor, keys: Tensor, temperature: float) -> float:
    total = 0.0
    for i, query in enumerate(queries):
        similarity = [float(torch.cosine_similarity(query, key, dim=0)) / temperature for key in keys]
        total += math.log(sum(map(math.exp, similarity))) - similarity[i]
    return total / len(queries)


def naive_info_nce_queue(queries: Tensor, keys: Tensor, temperature: float) -> float:
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        others = [key, *queue(len(query))]
        similarity = [float(torch.cosine_similarity(query, other, dim=0)) / temperature for other in others]
        total += math.log(sum(map(math.exp, similarity))) - similarity[0]
    return total / len(queries)


def naive_negative_cosine(predictions: Tensor, targets: Tensor) -> float:
    total = 0.0
    for p, t in zip(predictions.tolist(), targets.tolist(), strict=True):
        total -= sum(x * y for x, y in zip(p, t, strict=True)) / (math.hypot(*p) * math.hypot(*t))
    return total / len(predictions)


def naive_cross_correlation(a: Tensor, b: Tensor, redundancy_weight: float) -> float:
    def standardised(column: list[float]) -> list[float]:
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        return [(x - mean) / math.sqrt(variance + 1e-5) for x in column]

    columns_a, columns_b = (list(map(standardised, z.T.tolist())) for z in (a, b))
    total = 0.0
    for i, x in enumerate(columns_a):
        for j, y in enumerate(columns_b):
            correlation = sum(p * q for p, q in zip(x, y, strict=True)) / len(x)
            total += (1 - correlation) ** 2 if i == j else redundancy_weight * correlation**2
    return total


def naive_reconstruction(
    prediction: Tensor, patches: Tensor, masked: Tensor, *, kind: str, reduction: str, standardised: bool
) -> float:
    errors: dict[bool, list[float]] = {True: [], False: []}
    for i, row in enumerate(patches):
        for j, patch in enumerate(row):
            target = patch
            if standardised:
                mean = patch.sum() / len(patch)
                variance = ((patch - mean) ** 2).sum() / (len(patch) - 1)
                target = (patch - mean) / math.sqrt(variance + 1e-6)
            pixels = [abs(float(d)) ** (2 if kind == "l2" else 1) for d in prediction[i, j] - target]
            errors[bool(masked[i, j])].append(sum(pixels) / (len(pixels) if reduction == "mean" else 1))
    return 7.0 * sum(errors[True]) / len(errors[True]) + 2.0 * sum(errors[False]) / len(errors[False])


@pytest.mark.parametrize(
    ("ours", "naive", "setting"),
    [
        (nt_xent, naive_nt_xent, {"temperature": 0.1}),
        (nt_xent, naive_nt_xent, {"temperature": 0.5}),
        (info_nce, naive_info_nce, {"temperature": 0.1}),
        (queued, naive_info_nce_queue, {"temperature": 0.1}),
        (queued, naive_info_nce_queue, {"temperature": 0.5}),
        (negative_cosine, naive_negative_cosine, {}),
        (cross_correlation, naive_cross_correlation, {"redundancy_weight": 0.0051}),
        (cross_correlation, naive_cross_correlation, {"redundancy_weight": 2.0}),
    ],
)
def test_pair_loss_equals_its_equation(
    ours: Callable[..., Tensor], naive: Callable[..., float], setting: dict[str, float]
) -> None:
    """Oracle: the paper's equation as a double loop over numbers, float64."""
    assert float(ours(*pair(), **setting)) == pytest.approx(naive(*pair(), **setting), rel=1e-12)


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_reconstruction_equals_its_equation(kind: Any, reduction: Any, standardised: bool) -> None:
    """Oracle: a double loop over patches; the rows mask unequal numbers, so a mean of row means would differ."""
    prediction, patches, masked = normal(3, 8, 12, seed=1), normal(3, 8, 12, seed=2) * 3 + 1, masks(3, 8, 5)
    masked[0] = 0
    masked[0, :2] = 1
    settings = {"kind": kind, "reduction": reduction, "standardised": standardised}
    expected = naive_reconstruction(prediction, patches, masked, **settings)
    assert float(weighted(prediction, patches, masked, **settings)) == pytest.approx(expected, rel=1e-12)


def test_nt_xent_equals_lightly() -> None:
    """Oracle: lightly's NTXentLoss, written by others."""
    a, b = pair(16, 32)
    torch.testing.assert_close(nt_xent(a, b, temperature=0.3), NTXentLoss(temperature=0.3)(a, b), rtol=1e-12, atol=0)


def test_info_nce_queue_equals_lightly() -> None:
    """Oracle: lightly's NTXentLoss with our queue in its memory bank, written by others."""
    a, b = pair(16, 32)
    theirs = NTXentLoss(temperature=0.3, memory_bank_size=(7, 32)).double()
    theirs.memory_bank.bank = queue(32)
    torch.testing.assert_close(queued(a, b, 0.3), theirs(a, b), rtol=1e-12, atol=0)


def test_negative_cosine_equals_lightly() -> None:
    """Oracle: lightly's NegativeCosineSimilarity, written by others."""
    a, b = pair(16, 32)
    torch.testing.assert_close(negative_cosine(a, b), NegativeCosineSimilarity()(a, b), rtol=1e-12, atol=0)


def test_cross_correlation_equals_lightly() -> None:
    """Oracle: lightly's BarlowTwinsLoss, written by others; it computes in float32."""
    a, b = (z.float() for z in pair(16, 32))
    expected = BarlowTwinsLoss(lambda_param=0.0051)(a, b)
    torch.testing.assert_close(cross_correlation(a, b, redundancy_weight=0.0051), expected, rtol=1e-6, atol=0)


def test_reconstruction_equals_lightly() -> None:
    """Oracle: lightly's normalize_mean_var and torch's mse_loss over the masked patches."""
    prediction, patches, masked = normal(4, 16, 48, seed=1), normal(4, 16, 48, seed=2), masks(4, 16, 12)
    chosen = masked.bool()
    expected = torch.nn.functional.mse_loss(prediction[chosen], normalize_mean_var(patches)[chosen])
    ours = reconstruction(prediction, patches, masked, masked_weight=1.0, visible_weight=0.0)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("batch", [2, 32, 256])
def test_collapsed_embeddings_score_chance(batch: int) -> None:
    """Oracle: uniform guesses, log(2 B - 1) among both views, log B among the keys, log(1 + K) with a queue."""
    constant = torch.ones(batch, 8, dtype=torch.float64)
    assert float(nt_xent(constant, constant, temperature=0.1)) == pytest.approx(math.log(2 * batch - 1), rel=1e-12)
    assert float(info_nce(constant, constant, temperature=0.1)) == pytest.approx(math.log(batch), rel=1e-12)
    same = constant[:1].expand(50, -1) / 8**0.5
    assert float(info_nce_queue(constant, constant, same, temperature=0.1)) == pytest.approx(math.log(51), rel=1e-12)
    assert float(negative_cosine(constant, constant)) == pytest.approx(-1, rel=1e-12)


def test_orthogonal_embeddings_have_a_closed_form() -> None:
    """Oracle: similarities are 1 for the positive and 0 for each of 2 B - 2, B - 1 or K negatives."""
    z, best = torch.eye(8, dtype=torch.float64), math.exp(1 / 0.2)
    assert float(nt_xent(z, z, temperature=0.2)) == pytest.approx(math.log((best + 14) / best), rel=1e-12)
    assert float(info_nce(z, z, temperature=0.2)) == pytest.approx(math.log((best + 7) / best), rel=1e-12)
    assert float(info_nce_queue(z[:5], z[:5], z[5:], temperature=0.2)) == pytest.approx(math.log((best + 3) / best))
    assert float(negative_cosine(z, z.roll(1, 0))) == 0
    assert float(negative_cosine(z, -z)) == 1


def test_random_embeddings_score_above_chance() -> None:
    """Oracle: log of the number of choices + 1 / (2 d T^2) for independent unit vectors, to second order."""
    a, b = pair(256, 128)
    for temperature, tolerance in ((0.5, 0.02), (0.1, 0.1)):  # the second order in 1 / T^2 counts more at 0.1
        expected = math.log(511) + 1 / (2 * 128 * temperature**2)
        assert float(nt_xent(a, b, temperature=temperature)) == pytest.approx(expected, abs=tolerance)
    expected = math.log(1 + 4096) + 1 / (2 * 128 * 0.2**2)
    loss = info_nce_queue(a, b, queue(128, 4096), temperature=0.2)
    assert float(loss) == pytest.approx(expected, abs=0.05)
    assert float(negative_cosine(a, b)) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("temperature", "expected", "tolerance"), [(0.5, 4.27, 0.02), (0.1, 0.03, 0.01)])
def test_identical_views_of_random_embeddings(temperature: float, expected: float, tolerance: float) -> None:
    """Oracle: the positive's e^(1/T) among 510 negatives of mean e^(1 / (2 d T^2)), to second order, and by hand."""
    a, _ = pair(256, 128)
    positive, negative = math.exp(1 / temperature), math.exp(1 / (2 * 128 * temperature**2))
    assert math.log(1 + 510 * negative / positive) == pytest.approx(expected, abs=tolerance)
    assert float(nt_xent(a, a, temperature=temperature)) == pytest.approx(expected, abs=tolerance)


def test_cross_correlation_has_closed_forms() -> None:
    """Oracle: collapse gives d; equal dimensions give weight d (d - 1); orthogonal columns give 0, both up to eps."""
    correlation = partial(cross_correlation, redundancy_weight=0.5)
    constant = torch.ones(8, 4, dtype=torch.float64)
    assert float(correlation(constant, constant)) == 4
    repeated = normal(8, 1).expand(8, 4)
    assert float(correlation(repeated, repeated)) == pytest.approx(0.5 * 4 * 3, rel=1e-3)
    columns = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert float(correlation(columns, columns)) == pytest.approx(0, abs=1e-8)
    assert float(correlation(columns, -columns)) == pytest.approx(3 * 4, rel=1e-4)


def test_cross_correlation_of_independent_batches() -> None:
    """Oracle: expectations d (1 + 1/B) + w d (d - 1) / B for two batches, w d (d - 1) / B for one with itself."""
    a, b = pair(256, 512)
    correlation = partial(cross_correlation, redundancy_weight=0.0051)
    redundancy = 0.0051 * 512 * 511 / 256
    assert float(correlation(a, a)) == pytest.approx(redundancy, rel=0.02)
    assert float(correlation(a, b)) == pytest.approx(512 * (1 + 1 / 256) + redundancy, rel=0.02)


def test_predicting_the_mean_scores_the_variance() -> None:
    """Oracle: zeros against targets of unit unbiased variance leave (n - 1) / n; a constant image leaves 0."""
    patches, masked = normal(2, 16, 48), masks(2, 16, 12)
    settings: dict[str, float] = {"masked_weight": 1.0, "visible_weight": 0.0}
    assert float(reconstruction(torch.zeros_like(patches), patches, masked, **settings)) == pytest.approx(
        47 / 48, rel=1e-5
    )
    flat = torch.full_like(patches, 3.0)
    assert float(reconstruction(torch.zeros_like(flat), flat, masked, **settings)) == 0


@pytest.mark.parametrize(("masked", "left"), [(0.0, 2.0), (1.0, 7.0)])
def test_an_empty_set_of_patches_contributes_nothing(masked: float, left: float) -> None:
    """Oracle: an error of 1 everywhere leaves the weight of the set that is not empty, and no 0 / 0."""
    zeros = torch.zeros(2, 4, 12)
    assert float(weighted(zeros + 1, zeros, torch.full((2, 4), masked), standardised=False)) == left


def test_pair_losses_ignore_scale(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Oracle: the loss itself, with embeddings a hundred times larger (up to the eps of the standardisation)."""
    a, b = pair()
    torch.testing.assert_close(loss(100 * a, 10 * b), loss(a, b), rtol=1e-4, atol=0)


def test_pair_losses_ignore_the_order_of_the_batch(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Oracle: the loss itself; permuting one view alone must change it."""
    a, b = pair()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(a[order], b[order]), loss(a, b), rtol=1e-12, atol=0)
    assert abs(float(loss(a[order], b) - loss(a, b))) > 1e-3


def test_pair_losses_have_the_right_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Oracle: finite differences in float64, for both views."""
    assert torch.autograd.gradcheck(loss, tuple(z.requires_grad_() for z in pair()))


def test_queue_gets_no_gradient_and_is_not_written() -> None:
    """Oracle: the queue before; a loss that leaves the queue as it was can be called for two directions."""
    keys = queue(5)
    before = keys.clone()
    info_nce_queue(*(z.requires_grad_() for z in pair()), keys, temperature=0.2).backward()
    assert torch.equal(keys, before)
    assert not keys.requires_grad


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_reconstruction_has_the_right_gradient(kind: Any) -> None:
    """Oracle: finite differences in float64."""
    patches, masked = normal(2, 4, 6, seed=2), masks(2, 4, 3)
    prediction = normal(2, 4, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: weighted(p, patches, masked, kind=kind), (prediction,))


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


def test_info_nce_patches_of_random_vectors() -> None:
    """Oracle: log(n) + 1 / (2 dim T^2), of second order, for independent unit vectors."""
    value = float(info_nce_patches(normal(64, 40, 192), normal(64, 40, 192, seed=1), temperature=0.2))
    assert value == pytest.approx(math.log(40) + 1 / (2 * 192 * 0.04), abs=0.1)
