"""The linear probe: multinomial logistic regression without a learning rate, a seed or epochs."""

from dataclasses import dataclass

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.evals.features import Bank, Ranking, best_classes

GRID = tuple(10.0 ** (-7 + 8 * i / 11) for i in range(12))  # L2 strengths on the mean-loss scale, 1e-7 to 1e1
WIDER = tuple(10.0 ** (-7 - 8 * i / 11) for i in range(1, 4)) + tuple(10.0 ** (1 + 8 * i / 11) for i in range(1, 4))
ITERATIONS = 200
TOLERANCE = 1e-5  # of the gradient's largest entry, relative to that at zero weights


@dataclass(frozen=True)
class Probe:
    """A fitted classifier on raw features: `weight` `(dim, classes)` and `bias` `(classes,)`."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Return `(n, classes)` logits."""
        return features @ self.weight + self.bias


@gin.register
@dataclass(frozen=True, kw_only=True)
class Linear:
    """L2-regularised logistic regression by full-batch L-BFGS on standardised features.

    The strength (12 values from 1e-7 to 10, strong to weak with warm starts) and the feature are chosen on the
    hold-out; the probe is then fitted again on all of train. Where the best strength lies at an edge, the grid grows
    by three values on each side and the row is flagged if it still does.
    """

    name = "linear"
    version = 1

    def __call__(self, bank: Bank) -> Ranking:
        """Choose strength and feature on the hold-out, refit on all of train, rank the classes of the test images."""
        found = {name: self._search(features, bank) for name, features in bank.train.items()}
        chosen = max(found, key=lambda name: found[name][0])
        _, strength, edge = found[chosen]
        probe = fit(bank.train[chosen], bank.labels, bank.classes, strength)
        scores = probe.scores(bank.test[chosen])
        flags = ("the best L2 strength lies at the edge of the grid",) if edge else ()
        return Ranking(best_classes(scores), {"feature": chosen, "strength": strength}, flags)

    def _search(self, features: Tensor, bank: Bank) -> tuple[int, float, bool]:
        """Return the hold-out hits of the best strength, the strength, and whether it lies at an edge."""
        hits = self._hits(features, bank, GRID)
        if self._best(hits) in (min(GRID), max(GRID)):
            hits |= self._hits(features, bank, WIDER)
        best = self._best(hits)
        return hits[best], best, best in (min(hits), max(hits))

    def _best(self, hits: dict[float, int]) -> float:
        return max(hits, key=lambda strength: (hits[strength], strength))  # equal hits: the stronger

    def _hits(self, features: Tensor, bank: Bank, strengths: tuple[float, ...]) -> dict[float, int]:
        hits, start = {}, None
        standard = Standard.of(features[bank.fit])
        inputs, held = standard.apply(features[bank.fit]), standard.apply(features[bank.held])
        for strength in sorted(strengths, reverse=True):
            start = minimise(inputs, bank.labels[bank.fit], bank.classes, strength, start)
            predicted = best_classes(held @ start[:-1] + start[-1])[:, 0]
            hits[strength] = int((predicted == bank.labels[bank.held]).sum())
        return hits


@dataclass(frozen=True)
class Standard:
    """Mean and scale per dimension of the features that a probe is fitted on; a constant dimension becomes 0."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Standard":
        """Measure `(n, dim)` features."""
        mean, std = features.double().mean(0), features.double().std(0, unbiased=False)
        constant = std <= 1e-7 * (1 + mean.abs())
        scale = torch.where(constant, 0.0, 1 / std.masked_fill(constant, 1.0))
        return cls(mean.float(), scale.float())

    def apply(self, features: Tensor) -> Tensor:
        """Return standardised features."""
        return (features - self.mean) * self.scale


def fit(features: Tensor, labels: Tensor, classes: int, strength: float) -> Probe:
    """Fit a probe on raw `(n, dim)` features; standardisation is folded into its weights."""
    standard = Standard.of(features)
    solution = minimise(standard.apply(features), labels, classes, strength)
    weight = solution[:-1] * standard.scale[:, None]
    return Probe(weight, solution[-1] - standard.mean @ weight)


def minimise(inputs: Tensor, labels: Tensor, classes: int, strength: float, start: Tensor | None = None) -> Tensor:
    """Minimise mean cross entropy + strength / 2 * ||weights||^2, the bias free; return `(dim + 1, classes)`.

    The last row is the bias. L-BFGS with strong Wolfe steps, history 10; the gradient is written out, which halves
    the cost of autograd.
    """
    n, dim = inputs.shape
    solution = torch.zeros(dim + 1, classes) if start is None else start.clone()
    targets = F.one_hot(labels, classes).float()

    def gradient(at: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = at[:-1], at[-1]
        logits = torch.addmm(bias, inputs, weight)
        log_total = logits.logsumexp(1, keepdim=True)
        loss = (log_total.squeeze(1) - logits.gather(1, labels[:, None]).squeeze(1)).mean()
        excess = (logits - log_total).exp_().sub_(targets).div_(n)
        slope = torch.cat([inputs.T @ excess + strength * weight, excess.sum(0, keepdim=True)])
        return loss + strength / 2 * weight.square().sum(), slope

    tolerance = TOLERANCE * float(gradient(torch.zeros_like(solution))[1].abs().max())
    solution.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [solution],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        with torch.no_grad():
            loss, solution.grad = gradient(solution)
        return loss

    optimiser.step(closure)
    return solution.detach()
