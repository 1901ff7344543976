"""What is measured of an encoder on the way: whether its features collapse, and their accuracy by a probe.

Two numbers tell a healthy representation from a constant or a low-dimensional one.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.nets.encoders import Encoder

SHARE = 0.05  # of the FLOPs of a run that all its measurements of accuracy cost at most, unless it has one alone


@dataclass(frozen=True)
class Health:
    """`feature_std` is 1 for isotropic unit vectors and 0 for a constant; `effective_rank` is at most the width."""

    feature_std: float
    effective_rank: float

    @property
    def collapsed(self) -> bool:
        """True where features are constant or span one direction: below 2 % of isotropic spread, or rank under 2."""
        return not (self.feature_std >= 0.02 and self.effective_rank >= 2)


class Probe(Protocol):
    """Returns the accuracy of an encoder on `queries` train images, by the labels of `bank` others; changes nothing."""

    @property
    def bank(self) -> int: ...

    @property
    def queries(self) -> int: ...

    def __call__(self, encoder: Encoder, /) -> float: ...


def standard_error(accuracy: float, n: int) -> float:
    """Return the standard error sqrt(p (1 - p) / n) of an accuracy p on n images."""
    return math.sqrt(accuracy * (1 - accuracy) / n)


def affordable(points: int, cost: float, budget: float) -> int:
    """Return how many of `points` measurements, which cost FLOPs, are at most 5 % of the FLOPs of a run; at least 1.

    It is a divisor of `points`, so that a run with fewer has them at shares of the budget that all others have too.
    """
    divisors = [number for number in range(1, points + 1) if points % number == 0]
    return max([number for number in divisors if number * cost <= SHARE * budget], default=min(points, 1))


def points_of(steps: int, points: int) -> list[int]:
    """Return the steps after which 1/points, 2/points, ... and all of the budget are spent, rounded up."""
    return sorted({-(-steps * point // points) for point in range(1, points + 1)})


@torch.no_grad()
def health(encoder: Encoder, images: Tensor) -> Health:
    """Measure the pooled features of normalised `images` `(n, 3, height, width)` in eval mode.

    `feature_std`: standard deviation of the L2-normalised features per dimension times sqrt(width) (Chen and He 2021,
    arXiv:2011.10566, section 4.1). `effective_rank`: exponential of the entropy of the normalised singular values of
    the centred features (Roy and Vetterli 2007; Garrido et al. 2023, arXiv:2210.02885).
    """
    training = encoder.training
    encoder.eval()
    pooled = encoder(images).pooled.float()
    encoder.train(training)
    if not bool(pooled.isfinite().all()):
        return Health(0.0, 0.0)
    spread = F.normalize(pooled, dim=1).std(0).mean() * pooled.shape[1] ** 0.5
    singular = torch.linalg.svdvals(pooled - pooled.mean(0))
    share = singular / singular.sum().clamp(min=1e-12)
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    return Health(float(spread), float(entropy.exp()))
