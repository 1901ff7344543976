"""The linear probe: multinomial logistic regression without a learning rate, a seed or epochs."""

from dataclasses import dataclass

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.evals.features import Bank, Ranking, at_edge, best_classes
from benchmark.runtime import progress

GRID = tuple(10.0 ** (1 - 8 * i / 11) for i in range(12))  # L2 strengths on the mean-loss scale, 1e1 to 1e-7
STRONGER = tuple(10.0 ** (1 + 8 * i / 11) for i in (3, 2, 1))
WEAKER = tuple(10.0 ** (-7 - 8 * i / 11) for i in (1, 2, 3))
PATIENCE = 3  # strengths in a row with fewer hits than the best end the search: the weakest are by far the slowest
ITERATIONS = 1000
UNTUNED = 0.1  # the L2 strength where each class has one label, and there is nothing to choose it by
EDGE = at_edge("L2 strength")
TOLERANCE = 1e-5  # of the gradient's largest entry, relative to that at zero weights
COLUMNS = 1024  # dimensions whose means are taken at once: all of wide features in float64 take twice their size
ROUNDING = 1e-7  # what float32 leaves of a gradient that is zero, as that of features without a signal


@dataclass(frozen=True)
class Probe:
    """A fitted classifier on raw features: `weight` `(dim, classes)` and `bias` `(classes,)`.

    `converged` is False where the fit ended at its limit of iterations.
    """

    weight: Tensor
    bias: Tensor
    converged: bool

    def scores(self, features: Tensor) -> Tensor:
        """Return `(n, classes)` logits."""
        return features @ self.weight + self.bias


@gin.register
@dataclass(frozen=True, kw_only=True)
class Linear:
    """L2-regularised logistic regression by full-batch L-BFGS on standardised features.

    The strength and the feature are chosen on the hold-out, and the probe is then fitted again on all of train. The
    strengths are 12 values from 10 to 1e-7, strong to weak with warm starts, until three in a row do worse than the
    best. Where the best lies at an end of them, three more are tried beyond, and the row is flagged if it still does.
    Where every class has one image and none is held out, the first feature and a fixed strength are used, and the row
    is flagged too.
    """

    name = "linear"
    version = "1.0"

    def __call__(self, bank: Bank) -> Ranking:
        """Choose strength and feature on the hold-out, refit on all of train, rank the classes of the test images."""
        found = {name: self._search(bank.train[name], bank) for name in progress.each(bank.train, "feature")}
        chosen = max(found, key=lambda name: found[name][0])
        _, strength, edge = found[chosen]
        probe = fit(bank.train[chosen], bank.labels, bank.classes, strength)
        scores = probe.scores(bank.test[chosen])
        flags = [EDGE] if edge else []
        if not len(bank.held):
            flags.append(f"one train image a class, so the L2 strength is {UNTUNED} by rule")
        if not probe.converged:
            flags.append(f"the fit ended at its limit of {ITERATIONS} iterations")
        return Ranking(best_classes(scores), {"feature": chosen, "strength": strength}, tuple(flags))

    def _search(self, features: Tensor, bank: Bank) -> tuple[int, float, bool]:
        """Return the hold-out hits of the best strength, the strength, and whether it lies at an edge."""
        if not len(bank.held):
            return 0, UNTUNED, False
        standard = Standard.of(features[bank.fit])
        regression = Regression(standard.apply(features[bank.fit]), bank.labels[bank.fit], bank.classes)
        held = regression.coordinates(standard.apply(features[bank.held])), bank.labels[bank.held]
        hits = walk(regression, *held, GRID)
        if _best(hits) == GRID[-1]:
            hits |= walk(regression, *held, WEAKER)
        elif _best(hits) == GRID[0]:
            hits |= walk(regression, *held, STRONGER)
        best = _best(hits)
        return hits[best], best, best in (min(hits), max(hits))


def walk(regression: "Regression", held: Tensor, labels: Tensor, strengths: tuple[float, ...]) -> dict[float, int]:
    """Return the hits on held-out coordinates `(n, rank)` by strength, until `PATIENCE` in a row are below the best."""
    hits: dict[float, int] = {}
    start, worse = None, 0
    for strength in progress.each(strengths, "strength"):
        start, _ = regression.minimise(strength, start)
        hits[strength] = int((best_classes(held @ start[:-1] + start[-1])[:, 0] == labels).sum())
        worse = worse + 1 if hits[strength] < max(hits.values()) else 0
        if worse == PATIENCE:
            break
    return hits


def _best(hits: dict[float, int]) -> float:
    return max(hits, key=lambda strength: (hits[strength], strength))  # equal hits: the stronger


@dataclass(frozen=True)
class Standard:
    """Mean and scale per dimension of the features that a probe is fitted on; a constant dimension becomes 0."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Standard":
        """Measure `(n, dim)` features."""
        blocks = features.split(COLUMNS, dim=1)
        mean = torch.cat([block.double().mean(0) for block in blocks])
        std = torch.cat([block.double().std(0, unbiased=False) for block in blocks])
        constant = std <= 1e-7 * (1 + mean.abs())
        scale = torch.where(constant, 0.0, 1 / std.masked_fill(constant, 1.0))
        return cls(mean.float(), scale.float())

    def apply(self, features: Tensor) -> Tensor:
        """Return standardised features."""
        return (features - self.mean).mul_(self.scale)


@progress.doing("the fit that counts")
def fit(features: Tensor, labels: Tensor, classes: int, strength: float) -> Probe:
    """Fit a probe on raw `(n, dim)` features; standardisation is folded into its weights."""
    standard = Standard.of(features)
    regression = Regression(standard.apply(features), labels, classes)
    solution, converged = regression.minimise(strength)
    weight = regression.weights(solution) * standard.scale[:, None]
    return Probe(weight, solution[-1] - standard.mean @ weight, converged)


def span(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return coordinates `(n, rank)` of the rows of `(n, dim)` inputs and their orthonormal basis `(dim, rank)`.

    L2-regularised weights lie in the span of the rows, so a fit on the coordinates loses nothing. Unless the rows are
    at most half as many as the dimensions, which makes it worth while, they are their own coordinates and the basis is
    None.
    """
    if rank(*inputs.shape) == inputs.shape[1]:
        return inputs, None
    basis, triangle = torch.linalg.qr(inputs.T)
    return triangle.T.contiguous(), basis


def rank(n: int, dim: int) -> int:
    """Return the side of the matrix that a regression on `(n, dim)` inputs decomposes: `dim`, or less than `2 n`."""
    return dim if 2 * n > dim else n


def eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, rising, and eigenvectors of a symmetric float32 matrix, as float32.

    LAPACK's float32 routine gives up on some matrices of many equal eigenvalues, as those of a few images with sparse
    features; these are decomposed in float64.
    """
    try:
        spectrum, axes = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        spectrum, axes = torch.linalg.eigh(matrix.double())
    return spectrum.float(), axes.float()


class Regression:
    """Multinomial logistic regression of `labels` `(n,)` on standardised `inputs` `(n, dim)`.

    The Hessian is near the inputs' covariance over the number of classes, plus the strength. Minimising over
    variables that this matrix whitens has the same solution and takes a fraction of the iterations, above all for the
    correlated features of an encoder.

    The inputs are replaced by their coordinates `(n, rank)` in the span of their rows, so that few images of wide
    features make a small matrix. Solutions are in these coordinates too.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, classes: int) -> None:
        self.inputs, self.basis = span(inputs)
        self.labels, self.classes = labels, classes
        self.outputs = classes
        self.targets = F.one_hot(labels, classes).float()
        spectrum, self.axes = eigenvectors(self.inputs.T @ self.inputs / len(inputs))
        self.curvature = spectrum.clamp(min=1e-7 * float(spectrum[-1])) / classes

    def coordinates(self, inputs: Tensor) -> Tensor:
        """Return what a solution needs to know of other inputs `(n, dim)`: `(n, rank)`."""
        return inputs if self.basis is None else inputs @ self.basis

    def weights(self, solution: Tensor) -> Tensor:
        """Return the weights `(dim, outputs)` on the inputs as they were given."""
        return solution[:-1] if self.basis is None else self.basis @ solution[:-1]

    def minimise(
        self, strength: float, start: Tensor | None = None, tolerance: float = TOLERANCE
    ) -> tuple[Tensor, bool]:
        """Minimise mean cross entropy + strength / 2 * ||weights||^2, the bias free.

        Return `(rank + 1, outputs)`, of which the last row is the bias, and whether the limit of iterations sufficed.
        L-BFGS with strong Wolfe steps and history 10, from `start` or from zero; the gradient is written out, which
        halves the cost of autograd.
        """
        stretch = (self.curvature + strength).rsqrt()[:, None]
        solution = torch.zeros(self.inputs.shape[1] + 1, self.outputs)
        if start is not None:
            solution[:-1], solution[-1] = self.axes.T @ start[:-1] / stretch, start[-1]

        def weights(at: Tensor) -> Tensor:
            weight: Tensor = self.axes @ (stretch * at[:-1])
            return weight

        def gradient(at: Tensor) -> tuple[Tensor, Tensor]:
            weight = weights(at)
            loss, slope, bias = self._gradient(weight, at[-1])
            slope = stretch * (self.axes.T @ (slope + strength * weight))
            return loss + strength / 2 * weight.square().sum(), torch.cat([slope, bias[None]])

        tolerance = max(ROUNDING, tolerance * float(gradient(torch.zeros_like(solution))[1].abs().max()))
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
        found = solution.detach()
        converged = optimiser.state[solution]["n_iter"] < ITERATIONS
        return torch.cat([weights(found), found[-1:]]), converged

    def _gradient(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean cross entropy and its slopes in weight and bias."""
        logits = torch.addmm(bias, self.inputs, weight)
        log_total = logits.logsumexp(1, keepdim=True)
        loss = (log_total.squeeze(1) - logits.gather(1, self.labels[:, None]).squeeze(1)).mean()
        excess = (logits - log_total).exp_().sub_(self.targets).div_(len(self.inputs))
        return loss, self.inputs.T @ excess, excess.sum(0)
