"""The linear probe where an image may have several labels: a logistic regression of each class by itself."""

from dataclasses import dataclass

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.evals.linear import CERTAIN, FLAT, Linear, Regression
from benchmark.evals.scoring import mean_average_precision


class Sigmoid(Regression):
    """Logistic regressions of all classes at once, of `labels` bool `(n, classes)`.

    The Hessian of a class is inputs.T @ diag(p (1 - p)) @ inputs / n, for its probabilities p. The classes share
    nothing but the inputs, so that minimising the sum of their losses minimises each.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, classes: int) -> None:
        super().__init__(inputs, labels, classes)
        self.flatness = 4.0  # p (1 - p) = 1 / 4 at p = 1 / 2

    def marks(self) -> Tensor:
        return self.labels.float()

    def score(self, logits: Tensor, labels: Tensor) -> tuple[float, ...]:
        """Return the mean average precision, of the classes that some of these images have; of equal ones the lower
        cross entropy decides, since an order does not tell weights that are far too small."""
        loss = F.binary_cross_entropy_with_logits(logits, labels.float())
        return mean_average_precision(logits, labels), -float(loss)

    def origin(self) -> Tensor:
        """Return zero weights, and the log odds of each class: else a rare class would end far from its optimum."""
        half = 0.5 / len(self.inputs)  # of an image: for classes that no image has, or each
        odds = self.targets.mean(1).clamp(half, 1 - half).logit()
        return torch.cat([torch.zeros(self.inputs.shape[1], self.outputs), odds[None]])

    def bends(self, start: Tensor) -> tuple[Tensor, Tensor]:
        chances = self._logits(start).sigmoid_()
        spread = (chances * (1 - chances)).mean(1)
        return 1 / spread.clamp(min=max(FLAT * float(spread.max()), CERTAIN)), torch.eye(self.outputs)

    def _gradient(self, solution: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum of the mean binary cross entropies and its gradients in weight and bias."""
        logits, n = self._logits(solution), len(self.inputs)
        loss = F.binary_cross_entropy_with_logits(logits, self.targets, reduction="sum") / n
        excess = logits.sigmoid_().sub_(self.targets).div_(n)
        return loss, (excess @ self.inputs).T, excess.sum(1)


@gin.register
@dataclass(frozen=True, kw_only=True)
class MultiLabel(Linear):
    """The probe of `Linear` with a sigmoid and a binary cross entropy for each class, scored by mean average precision.

    Feature, layers and L2 strength, one for all classes, are those with the best mean average precision on the
    hold-out, over the classes that it has images of; of equals, those with the lowest cross entropy. The hold-out is a
    tenth of train, drawn at random, since sets of labels cannot be held out in equal shares; it depends on nothing but
    the name and the size of the data set.
    """

    name = "multilabel"
    version = "1.0"
    multilabel = True

    @property
    def regression(self) -> type[Regression]:
        return Sigmoid
