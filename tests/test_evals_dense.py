"""Segmentation on frozen maps: the score, the neighbours, the linear classifier, and the way from a file to a page."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from banks import normal
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmark.data.masks import UNLABELLED
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.evals.dense import (
    DenseBank,
    SealedMasks,
    Segmentation,
    cell_shares,
    colours,
    extract_maps,
    interval,
    mean_iou,
    scored,
    shares_of,
    tally,
    upsampled,
)
from benchmark.evals.dense_knn import DenseKNN, nearest
from benchmark.evals.seg_linear import Heads, SegLinear


class Listed(list[Tensor]):
    """Masks in memory."""


def drawn_masks(n: int, classes: int, size: tuple[int, int], seed: int = 0, unlabelled: float = 0.1) -> Listed:
    """Return masks of squares of one class, in which some pixels have no label."""
    generator = torch.Generator().manual_seed(seed)
    masks = Listed()
    for _ in range(n):
        coarse = torch.randint(classes, (1, 1, 3, 4), generator=generator).float()
        mask = F.interpolate(coarse, size, mode="nearest")[0, 0].to(torch.uint8)
        masks.append(mask.where(torch.rand(size, generator=generator) > unlabelled, UNLABELLED))
    return masks


def bank_of(
    masks: Listed, classes: int, *, width: int = 12, grid: tuple[int, int] = (6, 8), noise: float = 0.5
) -> DenseBank:
    """Return a bank whose maps are the shares of classes, turned into a space of more dimensions, with noise."""
    shares = shares_of(masks, *grid, classes, None)  # type: ignore[arg-type]
    maps = shares @ normal(classes, width, seed=99) + noise * normal(*shares.shape[:2], width)
    maps = maps.unflatten(1, grid).permute(0, 3, 1, 2).half()
    ids = torch.arange(len(masks))
    return DenseBank(maps, shares, ids[ids % 5 > 0], ids[ids % 5 == 0], classes, "toy", torch.device("cpu"))


def test_mean_iou_equals_torchmetrics() -> None:
    """Oracle: torchmetrics' Jaccard index on 200 random cases to 1e-6: pixels without a label, classes that are absent
    from truth, prediction or both, one class alone, images of different sizes."""
    generator = torch.Generator().manual_seed(0)
    for case in range(200):
        classes = int(torch.randint(2, 12, (), generator=generator))
        there = max(1, classes - case % 3)
        theirs = torchmetrics.JaccardIndex("multiclass", num_classes=classes, ignore_index=UNLABELLED)
        tallies = []
        for _ in range(3):
            size = tuple(torch.randint(1, 30, (2,), generator=generator).tolist())
            mask = torch.randint(there, size, generator=generator).to(torch.uint8)
            if case % 4:
                mask[torch.rand(size, generator=generator) < 0.3] = UNLABELLED
            if case % 7 == 0:
                mask[:] = UNLABELLED if case % 2 else 0
            predicted = torch.randint(max(1, classes - case % 5), size, generator=generator)
            tallies.append(tally(predicted, mask, classes))
            theirs.update(predicted[None], mask[None].long())
        expected = theirs.compute().nan_to_num()  # NaN where no pixel has a label, where ours is 0
        assert abs(float(mean_iou(torch.stack(tallies).sum(0))) - float(expected)) < 1e-6, case


def test_other_scores_by_hand() -> None:
    """Oracle: counts by hand. Class 2 is absent and never predicted, class 3 is predicted alone."""
    mask = torch.tensor([[0, 0, 1], [1, UNLABELLED, 1]], dtype=torch.uint8)
    predicted = torch.tensor([[0, 1, 1], [3, 0, 1]])
    score = scored(tally(predicted, mask, 4)[None], ("a", "b", "c", "d"))
    assert score.top1 == pytest.approx(3 / 5)
    assert score.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert score.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert score.mean_iou == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert score.details == {"iou a": 0.5, "iou b": 0.5, "iou d": 0.0, "pixels": 5.0}
    assert score.interval == [score.mean_iou, score.mean_iou]  # of one image


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    """Oracle: a loop over drawn images by numpy, with other draws; its ends within a tenth of the width."""
    masks = drawn_masks(40, 5, (18, 24))
    generator = torch.Generator().manual_seed(1)
    each = []
    for i, mask in enumerate(masks):
        is_right = torch.rand(mask.shape, generator=generator) < 0.5 + 0.4 * (i % 2)
        each.append(tally(mask.long().clamp(max=4).where(is_right, 0), mask, 5))
    tallies = torch.stack(each)
    random = np.random.RandomState(5)
    means = []
    for _ in range(2000):
        right, actual, predicted = tallies[random.randint(0, 40, 40)].sum(0).double().numpy()
        means.append(float(np.mean(right / (actual + predicted - right))))
    low, high = interval(tallies)
    expected = np.quantile(means, [0.025, 0.975])
    assert np.abs(expected - [low, high]).max() < 0.1 * (high - low)
    assert low < float(mean_iou(tallies.sum(0))) < high


def test_shares_of_cells_are_those_of_their_pixels() -> None:
    """Oracle: each pixel by a loop: its centre lies in one cell, whatever the sizes; unlabelled ones are not shared."""
    for size, grid in (((18, 24), (6, 8)), ((7, 5), (3, 4)), ((2, 3), (4, 4))):
        (mask,) = drawn_masks(1, 4, size, seed=sum(size))
        counts, pixels = torch.zeros(*grid, 4), torch.zeros(*grid)
        for row in range(size[0]):
            for column in range(size[1]):
                cell = int((row + 0.5) / size[0] * grid[0]), int((column + 0.5) / size[1] * grid[1])
                pixels[cell] += 1
                if mask[row, column] != UNLABELLED:
                    counts[(*cell, int(mask[row, column]))] += 1
        expected = counts / pixels[..., None].clamp(min=1)
        torch.testing.assert_close(cell_shares(mask, *grid, 4), expected.flatten(0, 1))


def test_masks_are_scored_at_their_full_size() -> None:
    """Oracle: bilinear interpolation to the mask by hand; at the size of the maps the score is another one."""
    masks = drawn_masks(6, 4, (37, 50), unlabelled=0.0)
    maps = normal(6, 4, 6, 8).half()
    score, tallies = SealedMasks(maps, masks, "abcd").score("x", Segmentation(lambda maps: maps, {}))  # type: ignore[arg-type]
    predicted = F.interpolate(maps.float(), (37, 50), mode="bilinear", align_corners=False).argmax(1)
    expected = sum(tally(each, mask, 4) for each, mask in zip(predicted, masks, strict=True))
    assert int(tallies[:, 1].sum()) == 6 * 37 * 50 == score.details["pixels"]
    assert score.mean_iou == pytest.approx(float(mean_iou(expected)), abs=1e-9)  # type: ignore[arg-type]
    small = [F.interpolate(mask[None, None].float(), (6, 8), mode="nearest")[0, 0].to(torch.uint8) for mask in masks]
    coarse = sum(tally(each.argmax(0), mask, 4) for each, mask in zip(maps.float(), small, strict=True))
    assert abs(score.mean_iou - float(mean_iou(coarse))) > 0.002  # type: ignore[arg-type]


def test_test_masks_are_read_once() -> None:
    """Oracle: a second score of one evaluation is refused."""
    sealed = SealedMasks(normal(2, 3, 4, 4).half(), drawn_masks(2, 3, (8, 8)), "abc")  # type: ignore[arg-type]
    sealed.score("x", Segmentation(lambda maps: maps, {}))
    with pytest.raises(BenchmarkError, match="test masks were read for 'x' before"):
        sealed.score("x", Segmentation(lambda maps: maps, {}))


def hummingbird(keys: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float) -> Tensor:
    """Score cells as open-hummingbird-eval does: cross attention of each query over its k nearest keys.

    keys `(n, d)`, labels `(n, classes)`, queries `(m, d)`, all features scaled to length 1 there.
    """
    q = queries / queries.norm(dim=1, keepdim=True)
    m = keys / keys.norm(dim=1, keepdim=True)
    similarity = torch.cdist(q, m).square().mul(-0.5).add(1)  # q . m of vectors of length 1
    places = similarity.argsort(dim=1, descending=True)[:, :k]
    out = torch.zeros(len(q), labels.shape[1])
    for i in range(len(q)):
        attention = torch.softmax((m[places[i]] @ q[i]) / temperature, dim=0)
        out[i] = attention @ labels[places[i]]
    return out


@pytest.mark.parametrize(("k", "temperature"), [(30, 0.02), (5, 0.5)])
def test_dense_knn_is_hummingbird(k: int, temperature: float) -> None:
    """Oracle: Hummingbird's formula, written out, on the same features: scores to 1e-4, mean IoU to 0.1 points."""
    bank = bank_of(drawn_masks(20, 5, (36, 48)), 5, noise=0.8)
    masks = drawn_masks(8, 5, (36, 48), seed=7)
    test = bank_of(masks, 5, noise=0.8)
    evaluation = DenseKNN(bank=500, k=k, temperature=temperature)
    assert evaluation.name == "dense_knn_500"
    assert DenseKNN().name == "dense_knn"
    result = evaluation(bank)
    keys, shares = evaluation._drawn(bank)
    assert keys.shape == (500, 12)
    torch.testing.assert_close(shares.sum(1), torch.ones(500))
    queries = test.maps.float().permute(0, 2, 3, 1).flatten(0, 2)
    expected = hummingbird(keys, shares, queries, k, temperature).view(8, 6, 8, 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(result.scores(test.maps), expected, atol=1e-4, rtol=0)
    score, _ = SealedMasks(test.maps, masks, "abcde").score("x", result)
    predicted = F.interpolate(expected, (36, 48), mode="bilinear", align_corners=False).argmax(1)
    theirs = torchmetrics.JaccardIndex("multiclass", num_classes=5, ignore_index=UNLABELLED)
    theirs.update(predicted, torch.stack(masks).long())  # type: ignore[arg-type]
    assert 100 * abs(score.mean_iou - float(theirs.compute())) < 0.1
    assert score.mean_iou > 0.3


def test_the_bank_has_labelled_cells_and_is_the_same_for_each_encoder() -> None:
    """Oracle: each drawn share is that of the cell whose feature is drawn with it; a bank of all cells says so."""
    masks = drawn_masks(10, 3, (12, 16))
    masks[0][:] = UNLABELLED
    bank = bank_of(masks, 3)
    ids = torch.arange(10 * 48, dtype=torch.float32).view(10, 1, 6, 8)
    marked = replace(bank, maps=torch.cat([ids, 1 + 0 * ids], dim=1))
    keys, shares = DenseKNN(bank=100)._drawn(marked)
    cells = (keys[:, 0] / keys[:, 1]).round().long()
    assert len(set(cells.tolist())) == 100
    assert cells.min() >= 48
    expected = bank.shares.flatten(0, 1)[cells]
    torch.testing.assert_close(shares, expected / expected.sum(1, keepdim=True))
    again = DenseKNN(bank=100)._drawn(bank)[1]
    assert torch.equal(again, shares)
    result = DenseKNN(bank=10**6)(bank)
    assert result.choices["bank"] == int((bank.shares.sum(2) > 0).sum())
    assert result.flags


def test_nearest_is_a_plain_search() -> None:
    """Oracle: torch's topk of all products; fewer keys than a block, no rest behind the blocks, all keys asked for."""
    for n in (5, 128, 300, 1024):
        for k in (1, 30, 400):
            keys, queries = normal(n, 8, seed=n), normal(9, 8, seed=k)
            expected = (queries @ keys.T).topk(min(k, n))
            similarity, ids = nearest(queries, keys, k)
            torch.testing.assert_close(similarity, expected.values)
            assert torch.equal(ids, expected.indices)


def test_the_optimum_of_seg_linear_is_that_of_sklearn() -> None:
    """Oracle: scikit-learn's logistic regression without penalty, each cell once for each class with its share as
    weight; the loss of ours is within 0.1 % of the least, and scores agree on 99 % of the cells."""
    bank = bank_of(drawn_masks(30, 4, (24, 32)), 4, noise=3.0)
    head = Heads(bank, torch.arange(30), (0.03,))
    settings = SegLinear(rates=(0.03,), epochs=150, batch_size=10)
    settings._train(head)
    inputs = head._inputs(bank.maps)
    shares = bank.shares.flatten(0, 1)

    def loss(logits: Tensor) -> float:
        return float(-(shares * logits.log_softmax(1)).sum() / shares.sum())

    rows = inputs[:, :-1].repeat_interleave(4, dim=0).numpy()
    theirs = LogisticRegression(C=np.inf, tol=1e-8, max_iter=5000)
    theirs.fit(rows, np.tile(np.arange(4), len(inputs)), sample_weight=shares.flatten().numpy())
    expected = torch.from_numpy(theirs.decision_function(inputs[:, :-1].numpy()))
    ours = inputs @ head.weight[0].T
    assert loss(ours) == pytest.approx(loss(expected), rel=1e-3)
    assert (ours.argmax(1) == expected.argmax(1)).float().mean() > 0.99


def test_the_gradient_is_that_of_autograd() -> None:
    """Oracle: autograd of the loss as its docstring has it, for two heads; cells without a label have no part."""
    masks = drawn_masks(4, 3, (12, 16))
    masks[1][:6] = UNLABELLED
    bank = bank_of(masks, 3)
    heads = Heads(bank, torch.arange(4), (0.1, 0.2))
    heads.weight = 0.3 * normal(*heads.weight.shape)
    inputs, shares = heads._inputs(bank.maps), bank.shares.flatten(0, 1)
    weight = heads.weight.clone().requires_grad_()
    logits = torch.einsum("nd,rcd->nrc", inputs, weight)
    (-(shares[:, None] * logits.log_softmax(2)).sum() / shares.sum()).backward()
    torch.testing.assert_close(heads._gradient(inputs, shares), weight.grad)


def test_the_rate_is_chosen_on_the_hold_out() -> None:
    """Oracle: each rate alone, trained on the fitting part, and its loss on the hold-out; the choice is refitted on
    all."""
    bank = bank_of(drawn_masks(25, 4, (24, 32)), 4, noise=1.0)
    rates = (1e-5, 0.01, 1e-4)
    evaluation = SegLinear(rates=rates, epochs=3)
    together = Heads(bank, bank.fit, rates)
    evaluation._train(together)
    losses = []
    for rate in rates:
        head = Heads(bank, bank.fit, (rate,))
        evaluation._train(head)
        shares = bank.shares[bank.held].flatten(0, 1)
        logits = head._inputs(bank.maps[bank.held]) @ head.weight[0].T
        losses.append(float(-(shares * logits.log_softmax(1)).sum() / shares.sum()))
    assert together.losses(bank.held).tolist() == pytest.approx(losses, rel=1e-5)
    result = evaluation(bank)
    assert result.choices["rate"] == rates[losses.index(min(losses))] == 0.01
    assert result.flags == ("the best learning rate lies at the edge of the grid",)
    alone = SegLinear(rates=(0.01,), epochs=3)(bank)
    torch.testing.assert_close(result.scores(bank.maps), alone.scores(bank.maps))
    assert not alone.flags
    with pytest.raises(ConfigError, match=r"SegLinear.rates must have"):
        SegLinear(rates=())


def test_maps_are_kept_in_half_precision_and_must_be_finite(tmp_path: Path) -> None:
    """Oracle: the encoded values to half precision; a value beyond it is an error, or 0 for a run that diverged."""
    images = torch.randint(256, (70, 3, 8, 8), dtype=torch.uint8)
    device = torch.device("cpu")

    def encode(scale: float) -> Callable[[Tensor], Tensor]:
        return lambda batch: F.avg_pool2d(batch.float(), 4) * scale

    maps = extract_maps(encode(1.0), images, device, tmp_path / "new")
    torch.testing.assert_close(maps.float(), encode(1.0)(images), atol=0.07, rtol=0)
    assert maps.dtype == torch.float16
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(BenchmarkError, match="above 65,504"):
        extract_maps(encode(1e6), images, device, None)
    assert extract_maps(encode(1e6), images, device, None, diverged=True).isfinite().all()


@pytest.mark.parametrize(("size", "cells"), [(80, 20), (224, 28), (16, 16), (48, 24)])
def test_colours_are_squares_of_pixels(size: int, cells: int) -> None:
    """Oracle: the pixels of the square of a cell, cut out by hand; no border is left out."""
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    maps = colours(images)
    assert maps.shape == (2, 3 * (size // cells) ** 2, cells, cells)
    side = size // cells
    square = images[1, :, 3 * side : 4 * side, 5 * side : 6 * side].float() / 255
    assert torch.equal(maps[1, :, 3, 5].sort().values, square.flatten().sort().values)


def test_predictions_are_at_the_size_of_the_mask() -> None:
    """Oracle: a score that is constant over a map predicts its class everywhere."""
    assert upsampled(torch.tensor([0.0, 2.0, 1.0])[:, None, None].expand(3, 2, 2), (5, 7)).tolist() == [[1] * 7] * 5
