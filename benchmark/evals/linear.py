"""The linear probe: multinomial logistic regression without a learning rate, a seed or epochs."""

from dataclasses import dataclass

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.annotations import Count
from benchmark.errors import ConfigError
from benchmark.evals.features import Bank, Choices, Ranking, at_edge, best_classes, hits
from benchmark.runtime import progress

# The grid of L2 strengths, on the scale of the mean loss, from strong to weak. Searching a log grid on held-out data
# with L-BFGS follows Kornblith et al. 2019 (arXiv:1805.08974), who use 45 values; these 12 are our choice.
GRID = tuple(10.0 ** (1 - 8 * i / 11) for i in range(12))  # 1e1 to 1e-7
STRONGER = tuple(10.0 ** (1 + 8 * i / 11) for i in (3, 2, 1))  # tried if the best is the first of the grid
WEAKER = tuple(10.0 ** (-7 - 8 * i / 11) for i in (1, 2, 3))  # tried if the best is the last of the grid
PATIENCE = 3  # strengths in a row below the best end the search, because the weakest are by far the slowest
UNTUNED = 0.1  # the strength if each class has one label, so that none can be held out
EDGE = at_edge("L2 strength")
ITERATIONS = 1000  # limit of L-BFGS
TOLERANCE = 1e-5  # of the gradient's largest entry, relative to that at zero weights
FLAT = 0.01  # lower bound of the classes' curvature, relative to the largest
CERTAIN = 1e-6  # its lower bound where all probabilities are 0 or 1, at which it has no inverse
ROUNDING = 1e-7  # lower bound of the tolerance: float32's error in a gradient that is zero
COLUMNS = 1024  # dimensions converted to float64 at once, since all of wide features need too much memory


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features: `weight` `(dim, classes)` and `bias` `(classes,)`.

    `converged` is False if the fit reached the limit of iterations.
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

    Strength and feature are chosen on the hold-out, and the probe is then fitted on all of train. The strengths are 12
    values from 10 to 1e-7, from strong to weak with warm starts, until three in a row do worse than the best. If the
    best is the first or the last, three more are tried beyond it, and the row is flagged if it is still at the edge.
    If every class has one image, none is held out: then the first feature and a fixed strength are used and flagged.

    `layers` are numbers of last layers (see `Encoder.last`) whose features are joined; one of several is chosen on the
    hold-out too. (1, 4) asks whether the last four blocks do better than the last one: 4 is what Caron et al. 2021
    (arXiv:2104.14294, authors' code, `--n_last_blocks`) use for a ViT-S, and 1 for a ViT-B. Raw pixels are one layer.
    """

    layers: tuple[Count, ...] = (1,)

    name = "linear"
    version = "1.1"

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError(f"{type(self).__name__}.layers must have at least one number, such as (1,) or (1, 4).")

    def __call__(self, bank: Bank) -> Ranking:
        """Choose strength, feature and layers on the hold-out, refit on all of train, rank the test images' classes."""
        best: tuple[float, ...] = ()
        for layers in self.layers if bank.layers else (1,):
            train, test = bank.layers(layers) if bank.layers and layers > 1 else (bank.train, bank.test)
            for name in progress.each(train, "feature"):
                score, strength, is_edge = self._search(train[name], bank)
                if score > best:
                    best, chosen = score, (train[name], test[name], strength, is_edge)
                    choices: Choices = {"feature": name, "strength": strength}
                    choices |= {} if self.layers == (1,) else {"layers": layers}
        features, tested, strength, is_edge = chosen
        probe = fit(features, bank.labels, bank.classes, strength, self.regression)
        scores = probe.scores(tested)
        flags = [EDGE] if is_edge else []
        if not len(bank.held):
            flags.append(f"one train image a class, so the L2 strength is {UNTUNED} by rule")
        if not probe.converged:
            flags.append(f"the fit ended at its limit of {ITERATIONS} iterations")
        return Ranking(best_classes(scores), choices, tuple(flags), scores)

    @property
    def regression(self) -> "type[Regression]":
        """What is minimised, and what is best on the hold-out."""
        return Regression

    def _search(self, features: Tensor, bank: Bank) -> tuple[tuple[float, ...], float, bool]:
        """Return the hold-out score of the best strength, the strength, and whether it lies at an edge."""
        if not len(bank.held):
            return (0.0,), UNTUNED, False
        standard = Standard.of(features[bank.fit])
        regression = self.regression(standard.apply(features[bank.fit]), bank.labels[bank.fit], bank.classes)
        held = regression.coordinates(standard.apply(features[bank.held])), bank.labels[bank.held]
        scores = walk(regression, *held, GRID)
        if _best(scores) == GRID[-1]:
            scores |= walk(regression, *held, WEAKER)
        elif _best(scores) == GRID[0]:
            scores |= walk(regression, *held, STRONGER)
        best = _best(scores)
        return scores[best], best, best in (min(scores), max(scores))


def walk(
    regression: "Regression", held: Tensor, labels: Tensor, strengths: tuple[float, ...]
) -> dict[float, tuple[float, ...]]:
    """Return the score of held-out coordinates `(n, rank)` by strength, until `PATIENCE` in a row do worse."""
    scores: dict[float, tuple[float, ...]] = {}
    start, worse = None, 0
    for strength in progress.each(strengths, "strength"):
        start, _ = regression.minimise(strength, start)
        scores[strength] = regression.score(held @ start[:-1] + start[-1], labels)
        worse = worse + 1 if scores[strength] < max(scores.values()) else 0
        if worse == PATIENCE:
            break
    return scores


def _best(scores: dict[float, tuple[float, ...]]) -> float:
    return max(scores, key=lambda strength: (scores[strength], strength))  # of equals the stronger


@dataclass(frozen=True)
class Standard:
    """Standardises features: `mean` and `scale` = 1 / deviation, `(dim,)` each; a constant dimension becomes 0."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Standard":
        blocks = features.split(COLUMNS, dim=1)
        mean = torch.cat([block.double().mean(0) for block in blocks])
        std = torch.cat([block.double().std(0, unbiased=False) for block in blocks])
        constant = std <= 1e-7 * (1 + mean.abs())
        scale = torch.where(constant, 0.0, 1 / std.masked_fill(constant, 1.0))
        return cls(mean.float(), scale.float())

    def apply(self, features: Tensor) -> Tensor:
        return (features - self.mean).mul_(self.scale)


def span(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return coordinates `(n, rank)` of `(n, dim)` inputs and an orthonormal basis `(dim, rank)` of their rows.

        inputs = coordinates @ basis.T

    L2-regularised weights lie in the span of the rows, so a fit on the coordinates has the same solution. It only pays
    for at most half as many rows as dimensions; otherwise the inputs are returned, and None for the basis.
    """
    if rank(*inputs.shape) == inputs.shape[1]:
        return inputs, None
    basis, triangle = torch.linalg.qr(inputs.T)
    return triangle.T.contiguous(), basis


def rank(n: int, dim: int) -> int:
    """Return the number of coordinates of `(n, dim)` inputs, see `span`."""
    return dim if 2 * n > dim else n


def eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return ascending eigenvalues and the eigenvectors of a symmetric float32 matrix, as float32.

    LAPACK's float32 routine fails for some matrices with many equal eigenvalues, for instance those of a few images
    with sparse features. These are decomposed in float64.
    """
    try:
        spectrum, axes = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        spectrum, axes = torch.linalg.eigh(matrix.double())
    return spectrum.float(), axes.float()


class Regression:
    """Multinomial logistic regression of `labels` `(n,)` on standardised `inputs` `(n, dim)`.

    The inputs are replaced by their coordinates `(n, rank)`, see `span`, and solutions are in coordinates too. The
    Hessian of the loss is approximately a Kronecker product, to which the strength is added:

        axes @ diag(spectrum) @ axes.T = inputs.T @ inputs / n
        turn @ diag(1 / scale) @ turn.T = mean of diag(p) - p p.T, for the probabilities p of a sample

    Minimising over variables in which it is the identity has the same solution and takes a fraction of the iterations,
    above all for the correlated features of an encoder.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, classes: int) -> None:
        self.inputs, self.basis = span(inputs)
        self.labels, self.classes = labels, classes
        self.outputs, self.flatness = classes, float(classes)  # 1 / the bend of the loss where all classes are alike
        self.targets = self.marks().T.contiguous()
        spectrum, self.axes = eigenvectors(self.inputs.T @ self.inputs / len(inputs))
        self.spectrum = spectrum.clamp(min=1e-7 * float(spectrum[-1]))[:, None]

    def coordinates(self, inputs: Tensor) -> Tensor:
        """Return the coordinates `(n, rank)` of other inputs `(n, dim)`."""
        return inputs if self.basis is None else inputs @ self.basis

    def weights(self, solution: Tensor) -> Tensor:
        """Return the weights `(dim, outputs)` on the original inputs."""
        return solution[:-1] if self.basis is None else self.basis @ solution[:-1]

    def marks(self) -> Tensor:
        """Return the labels as `(n, classes)`, 1 for a class that an image has, else 0."""
        return F.one_hot(self.labels, self.classes).float()

    def score(self, logits: Tensor, labels: Tensor) -> tuple[float, ...]:
        """Return by what the strength is chosen: how many of the labels `(n,)` logits `(n, classes)` get right."""
        return (hits(best_classes(logits), labels),)

    def origin(self) -> Tensor:
        """Return the solution `(rank + 1, outputs)` from which the search begins: zero."""
        return torch.zeros(self.inputs.shape[1] + 1, self.outputs)

    def bends(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return `scale` `(outputs,)` and `turn` `(outputs, outputs)` for the probabilities at the start."""
        chances = self._logits(start).softmax(0)
        spread, turn = eigenvectors(torch.diag(chances.mean(1)) - chances @ chances.T / len(self.inputs))
        spread[0] = spread[-1]  # of adding one number to all classes, which moves nothing but rounding
        return 1 / spread.clamp(min=max(FLAT * float(spread[-1]), CERTAIN)), turn

    def minimise(
        self, strength: float, start: Tensor | None = None, tolerance: float = TOLERANCE
    ) -> tuple[Tensor, bool]:
        """Minimise mean cross entropy + strength / 2 * |weights|^2, the bias free, by L-BFGS from `start` or `origin`.

        Return `(rank + 1, outputs)`, whose last row is the bias, and whether the limit of iterations sufficed. The
        gradient is written out, at half of autograd's cost.
        """
        origin = self.origin()
        start = origin if start is None else start
        scale, turn = self.bends(start)
        stretch, bias_stretch = (self.spectrum / scale + strength).rsqrt(), (scale / self.flatness).sqrt()
        variables = torch.cat([self.axes.T @ start[:-1] @ turn / stretch, start[-1:] @ turn / bias_stretch])

        def solution(at: Tensor) -> Tensor:
            return torch.cat([self.axes @ (stretch * at[:-1]), bias_stretch * at[-1:]]) @ turn.T

        _, slope, bias = self._gradient(origin)  # the tolerance is relative to it, as if all classes bent alike
        slope = (self.spectrum / self.flatness + strength).rsqrt() * (self.axes.T @ slope)
        variables.requires_grad_()
        optimiser = torch.optim.LBFGS(
            [variables],
            max_iter=ITERATIONS,
            max_eval=2 * ITERATIONS,
            tolerance_grad=max(ROUNDING, tolerance * float(torch.cat([slope, bias[None]]).abs().max())),
            tolerance_change=0.0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            with torch.no_grad():
                at = solution(variables)
                loss, slope, bias = self._gradient(at)
                slope = stretch * (self.axes.T @ (slope + strength * at[:-1]) @ turn)
                variables.grad = torch.cat([slope, bias_stretch * (bias[None] @ turn)])
            return loss + strength / 2 * at[:-1].square().sum()

        optimiser.step(closure)
        converged = optimiser.state[variables]["n_iter"] < ITERATIONS
        return solution(variables.detach()), converged

    def _logits(self, solution: Tensor) -> Tensor:
        """Return `(classes, n)`: sums over classes take a fraction of the time where the samples come last."""
        return torch.addmm(solution[-1][:, None], solution[:-1].T, self.inputs.T)

    def _gradient(self, solution: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean cross entropy and its gradients in weight and bias."""
        logits = self._logits(solution)
        logits -= logits.amax(0)
        right = logits.gather(0, self.labels[None])[0]
        chances = logits.exp_()
        total = chances.sum(0)
        excess = chances.div_(total).sub_(self.targets).div_(len(self.inputs))
        return (total.log() - right).mean(), (excess @ self.inputs).T, excess.sum(1)


@progress.doing("the fit that counts")
def fit(features: Tensor, labels: Tensor, classes: int, strength: float, kind: type[Regression] = Regression) -> Probe:
    """Fit a probe on `(n, dim)` features; it contains their standardisation."""
    standard = Standard.of(features)
    regression = kind(standard.apply(features), labels, classes)
    solution, converged = regression.minimise(strength)
    weight = regression.weights(solution) * standard.scale[:, None]
    return Probe(weight, solution[-1] - standard.mean @ weight, converged)
