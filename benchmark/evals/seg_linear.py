"""Segmentation by a linear classifier of each cell of an encoder's maps."""

from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, Positive
from benchmark.errors import ConfigError
from benchmark.evals.dense import DenseBank, Scores, Segmentation, as_maps, batches, rows_of
from benchmark.evals.features import flags_of
from benchmark.nets.schedules import half_cosine
from benchmark.runtime import progress

BETAS = 0.9, 0.999  # of Adam
EPSILON = 1e-8


@gin.register
@dataclass(frozen=True, kw_only=True)
class SegLinear:
    """Batch norm and a 1x1 convolution on frozen maps (Siméoni et al. 2025, arXiv:2508.10104), by Adam from zero.

    The norm has the mean and deviation of all cells that are trained on, which the running ones of batch norm
    approximate. The loss is the cross entropy of a cell's probabilities with the shares of classes under it. That is
    the mean cross entropy of its labelled pixels, as if scores were enlarged without interpolation. All `rates` are
    trained at once, and fall on a half cosine. The one with the lowest loss on the hold-out is trained again on all of
    train. The row is flagged if it is the smallest or the largest of several.
    """

    rates: tuple[Positive, ...] = (0.03, 0.1, 0.3, 1.0)
    epochs: Count = 40
    batch_size: Count = 16

    name = "seg_linear"
    version = "2.0"
    dense = True

    def __post_init__(self) -> None:
        if not self.rates:
            raise ConfigError("SegLinear.rates must have at least one number.")

    def __call__(self, bank: DenseBank) -> Segmentation:
        """Choose the rate on the hold-out, then train on all of train."""
        rate = self.rates[0]
        if len(self.rates) > 1:
            heads = Heads(bank, bank.fit, self.rates)
            self._train(heads)
            held = dict(zip(self.rates, heads.losses(bank.held).tolist(), strict=True))
            rate = min(held, key=lambda each: (held[each], each))  # of equals the smaller rate
        final = Heads(bank, torch.arange(len(bank.maps)), (rate,))
        self._train(final)
        return Segmentation(final.scores(0), {"rate": rate}, flags_of(rate, self.rates, bank.held))

    def _train(self, heads: "Heads") -> None:
        for epoch in progress.each(range(self.epochs), "epoch"):
            parts = list(batches(heads.rows, self.batch_size, self.name, epoch))
            for step, ids in enumerate(parts):
                heads.step(ids, half_cosine(epoch + step / len(parts), self.epochs))


class Heads:
    """Linear classifiers of cells, one for each rate, trained together on the images `rows` of train.

    `weight` is `(rates, classes, width + 1)` with the bias at the end. All start at zero: the loss is convex.
    """

    def __init__(self, bank: DenseBank, rows: Tensor, rates: tuple[float, ...]) -> None:
        self.bank, self.rows = bank, rows
        self.mean, self.scale = _standard(bank, rows)
        self.rates = torch.tensor(rates, device=bank.device)[:, None, None]
        self.weight = torch.zeros(len(rates), bank.classes, len(self.mean) + 1, device=bank.device)
        self.moments = [torch.zeros_like(self.weight), torch.zeros_like(self.weight)]
        self.steps = 0

    def step(self, ids: Tensor, share: float) -> None:
        """Take a step of Adam on the cells of some images, at a share of the peak rates."""
        shares = self.bank.shares[ids].flatten(0, 1).to(self.weight.device)
        gradient = self._gradient(self._inputs(self.bank.maps[ids]), shares)
        self.steps += 1
        for moment, beta, power in zip(self.moments, BETAS, (1, 2), strict=True):
            moment.mul_(beta).add_(gradient**power, alpha=1 - beta)
        first, second = (moment / (1 - beta**self.steps) for moment, beta in zip(self.moments, BETAS, strict=True))
        self.weight -= share * self.rates * first / (second.sqrt() + EPSILON)

    def losses(self, rows: Tensor) -> Tensor:
        """Return the loss of each head on some images of train, float64 `(rates,)`."""
        summed, labelled = torch.zeros(len(self.weight), dtype=torch.float64), 0.0
        for ids in rows.split(64):
            shares = self.bank.shares[ids].flatten(0, 1).to(self.weight.device)
            chances = self._logits(self._inputs(self.bank.maps[ids])).log_softmax(1)
            summed -= (chances * shares.T).sum((1, 2)).double().cpu()
            labelled += float(shares.sum())
        return summed / max(labelled, 1e-12)

    def scores(self, head: int) -> Scores:
        """Return what scores maps by the classifier of one of the rates."""

        def scores(maps: Tensor) -> Tensor:
            return as_maps(self._inputs(maps) @ self.weight[head].T, maps)

        return scores

    def _inputs(self, maps: Tensor) -> Tensor:
        """Return the cells of maps, standardised and with a 1 for the bias, `(cells, width + 1)`."""
        rows = (rows_of(maps.to(self.mean.device).float()) - self.mean) * self.scale
        return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)

    def _logits(self, inputs: Tensor) -> Tensor:
        """Return the scores of cells by each head, `(rates, classes, cells)`."""
        return (self.weight.flatten(0, 1) @ inputs.T).view(*self.weight.shape[:2], -1)

    def _gradient(self, inputs: Tensor, shares: Tensor) -> Tensor:
        """Return the gradient of the loss of each head.

        loss = sum over cells i and classes c of -shares[i, c] * log softmax(weight @ inputs[i])[c] / sum of shares
        """
        labelled = shares.sum(1)
        chances = self._logits(inputs).softmax(1)
        excess = chances.mul_(labelled).sub_(shares.T).div_(labelled.sum().clamp(min=1e-12))
        return (excess.flatten(0, 1) @ inputs).view_as(self.weight)


def _standard(bank: DenseBank, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / deviation of the cells of some images, `(width,)` each; a constant dimension becomes 0."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for ids in rows.split(64):
        cells = rows_of(bank.maps[ids]).double()
        count, total, squares = count + len(cells), total + cells.sum(0), squares + cells.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    is_constant = deviation <= 1e-7 * (1 + mean.abs())
    scale = torch.where(is_constant, 0.0, 1 / deviation.masked_fill(is_constant, 1.0))
    return mean.float().to(bank.device), scale.float().to(bank.device)
