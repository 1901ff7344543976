"""The linear probe as papers train it: SGD or LARS on frozen features, many learning rates at once.

The learning rates of published probes differ by a factor of 300, and one rate for all methods would rank the scales of
their features. Here each method gets the same rates, and one is chosen on the hold-out.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.annotations import Count, NonNegative, Positive, Range
from benchmark.errors import ConfigError
from benchmark.evals.features import Bank, Fraction, Ranking, best_classes, flags_of, hits
from benchmark.evals.linear import Standard
from benchmark.nets.schedules import half_cosine
from benchmark.randomness import derive
from benchmark.runtime import progress

TRUST = 0.001  # of LARS in all published probes


@gin.register
@dataclass(frozen=True, kw_only=True)
class LinearSGD:
    """Softmax regression by SGD with momentum, from zero weights; the last epoch counts.

    `rates` are peak learning rates per 256 images, scaled by `batch_size / 256`. Rate and feature are those that do
    best on the hold-out after training on the fitting part; a classifier trained with them on all of train is tested.
    The row is flagged if the best of several rates is the smallest or the largest.

    The rate rises from 0 over `warmup` epochs and falls with each step on a half cosine to 0, or ("step") to a tenth
    at each of the `milestones`, which are epochs. `weight_decay` acts on weights and bias. "lars" scales the gradient
    of the weights, not of the bias, by 0.001 * |weights| / |gradient|, unless a norm is 0 (You et al. 2017,
    arXiv:1708.03888).

    `normalise`: "standard" uses means and deviations of the center features of the images that are trained on;
    "batch_norm" those of each batch, and running averages in the test (He et al. 2022, arXiv:2111.06377).

    `train_views`: the "center" features; a number V of random views, extracted once, of which epoch e uses e mod V;
    or "live", a new view in each epoch. Live views are not stored, so the classifiers of all rates are trained on all
    of train at the same time as those for the choice: each view is encoded once, and twice as many are trained.
    """

    rates: tuple[Positive, ...] = (0.001, 0.0024, 0.0056, 0.013, 0.031, 0.073, 0.17, 0.41, 0.97, 2.3, 5.4, 13.0, 30.0)
    batch_size: Count = 1024
    epochs: Count = 100
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = (60, 80)
    warmup: Annotated[int, Range(0)] = 0
    optimiser: Literal["sgd", "lars"] = "sgd"
    normalise: Literal["none", "standard", "batch_norm"] = "standard"
    train_views: Literal["center", "live"] | Count = "center"

    name = "linear_sgd"
    version = "1.0"

    def __post_init__(self) -> None:
        if not self.rates:
            raise ConfigError("LinearSGD.rates must have at least one number.")
        if not self.warmup < self.epochs:
            raise ConfigError(f"LinearSGD.warmup must be below LinearSGD.epochs; got {self.warmup} and {self.epochs}.")
        if self.schedule == "step" and not all(self.warmup <= epoch < self.epochs for epoch in self.milestones):
            raise ConfigError(
                f"LinearSGD.milestones must be epochs after the {self.warmup} of warmup and before the end at "
                f"{self.epochs}; got {self.milestones}."
            )

    def __call__(self, bank: Bank) -> Ranking:
        """Choose rate and feature on the hold-out, train on all of train, rank the classes of the test images."""
        whole = torch.arange(len(bank.labels))
        views = self._views(bank)
        trials = {name: Heads(self, bank, name, bank.fit, self.rates) for name in bank.train}
        finals = {}
        if self.train_views == "live":
            finals = {name: Heads(self, bank, name, whole, self.rates) for name in bank.train}
        self._train([*trials.values(), *finals.values()], views)
        scores = {(name, rate): trials[name].hits(bank.held, rate) for name in bank.train for rate in self.rates}
        name, rate = max(scores, key=lambda option: (scores[option], -option[1]))  # of equals the smaller rate
        if name not in finals:
            finals[name] = Heads(self, bank, name, whole, (rate,))
            self._train([finals[name]], views)
        flags = flags_of(rate, self.rates, bank.held)
        return Ranking(finals[name].rank(bank.test[name], rate), {"feature": name, "rate": rate}, flags)

    def share(self, epoch: float) -> float:
        """Return the share of the peak rate after `epoch` epochs, which may be a fraction."""
        if epoch < self.warmup:
            return epoch / self.warmup
        if self.schedule == "step":
            return 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        return half_cosine(epoch - self.warmup, self.epochs - self.warmup)

    def _views(self, bank: Bank) -> Callable[[int], dict[str, Tensor]]:
        """Return the function from an epoch to the features of train in it."""
        if isinstance(self.train_views, int):
            count, cached = self.train_views, functools.cache(bank.views)
            return lambda epoch: cached(epoch % count)
        return bank.views if self.train_views == "live" else lambda epoch: bank.train

    def _train(self, heads: Iterable["Heads"], views: Callable[[int], dict[str, Tensor]]) -> None:
        for epoch in progress.each(range(self.epochs), "epoch"):
            features = views(epoch)
            for each in heads:
                each.train(features[each.name], epoch)


class Heads:
    """Linear classifiers of one feature, one for each rate, trained together on the images `rows` of train.

    `weight` is `(dim, rates, classes)` and `bias` `(rates, classes)`. Both start at zero: the loss is convex, so a
    random start would only add a seed.
    """

    def __init__(self, settings: LinearSGD, bank: Bank, name: str, rows: Tensor, rates: tuple[float, ...]) -> None:
        self.settings, self.bank, self.name, self.rows, self.rates = settings, bank, name, rows, rates
        features = bank.train[name][rows]
        self.normalise = _normaliser(settings.normalise, features)
        self.peaks = features.new_tensor(rates)[:, None] * settings.batch_size / 256
        self.weight = features.new_zeros(features.shape[1], len(rates), bank.classes)
        self.bias = features.new_zeros(len(rates), bank.classes)
        self.buffers = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def train(self, features: Tensor, epoch: int) -> None:
        """Train one epoch on the features `(n, dim)` of train, in an order that depends on the epoch alone."""
        generator = torch.Generator().manual_seed(derive(self.settings.name, epoch))
        order = self.rows[torch.randperm(len(self.rows), generator=generator)]
        batches = order.split(self.settings.batch_size)
        for step, ids in enumerate(batches):
            inputs = self.normalise(features[ids], True)
            self._step(inputs, self.bank.labels[ids], self.settings.share(epoch + step / len(batches)))

    def rank(self, features: Tensor, rate: float) -> Tensor:
        """Return the best classes of features `(n, dim)` by the classifier of `rate`."""
        head = self.rates.index(rate)
        weight, bias = self.weight[:, head], self.bias[head]
        chunks = features.split(self.settings.batch_size)
        return torch.cat([best_classes(self.normalise(chunk, False) @ weight + bias) for chunk in chunks])

    def hits(self, rows: Tensor, rate: float) -> int:
        """Return how many of the images `rows` of train the classifier of `rate` gets right."""
        return hits(self.rank(self.bank.train[self.name][rows], rate), self.bank.labels[rows])

    def _step(self, inputs: Tensor, labels: Tensor, share: float) -> None:
        """Take one step on the mean cross entropy; the gradient is written out, which avoids autograd's copies."""
        logits = torch.addmm(self.bias.flatten(), inputs, self.weight.flatten(1))
        excess = logits.view(len(inputs), *self.bias.shape).softmax(2)
        excess = excess.sub_(F.one_hot(labels, self.bank.classes)[:, None]).div_(len(inputs))
        slope = (inputs.T @ excess.flatten(1)).view_as(self.weight)
        parameters = (self.weight, self.bias)
        for parameter, gradient, buffer in zip(parameters, (slope, excess.sum(0)), self.buffers, strict=True):
            gradient.add_(parameter, alpha=self.settings.weight_decay)
            if self.settings.optimiser == "lars" and parameter is self.weight:
                gradient.mul_(_trust(parameter, gradient))
            buffer.mul_(self.settings.momentum).add_(gradient)
            parameter.addcmul_(buffer, self.peaks, value=-share)


def _trust(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the factor of LARS for each rate's gradient, `(1, rates, 1)`."""
    sizes, slopes = (torch.linalg.vector_norm(part, dim=(0, 2), keepdim=True) for part in (weight, gradient))
    return torch.where((sizes > 0) & (slopes > 0), TRUST * sizes / slopes, 1.0)


def _normaliser(kind: str, features: Tensor) -> Callable[[Tensor, bool], Tensor]:
    """Return the function of a batch and of whether it is trained on; the classifiers are trained on `features`."""
    if kind == "none":
        return lambda batch, training: batch
    if kind == "standard":
        standard = Standard.of(features)
        return lambda batch, training: standard.apply(batch)
    mean, variance = torch.zeros_like(features[0]), torch.ones_like(features[0])

    def batch_norm(batch: Tensor, training: bool) -> Tensor:
        training = training and len(batch) > 1  # a last batch of one image has no deviation
        return F.batch_norm(batch, mean, variance, training=training, momentum=0.1, eps=1e-6)

    return batch_norm
