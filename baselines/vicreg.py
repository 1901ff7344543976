"""VICReg (Bardes et al. 2022, arXiv:2105.04906): two views agree, dimensions keep their variance and decorrelate."""

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, NonNegative
from benchmark.losses import full_precision
from benchmark.method import Branch, Siamese
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp


@full_precision
def variance_invariance_covariance(
    a: Tensor, b: Tensor, *, invariance: float, variance: float, covariance: float
) -> Tensor:
    """Eq. 6 in the form of the authors' code, with the three weights of its terms.

    `a`, `b`: `(batch, dim)`. Invariance is the mean squared difference; variance the mean over dimensions and views of
    max(0, 1 - sqrt(var + 1e-4)); covariance the sum over views of the squared covariances of different dimensions over
    dim. Variances and covariances are unbiased.
    """
    loss = invariance * (a - b).square().mean()
    for z in (a, b):
        spread = (z.var(0) + 1e-4).sqrt()
        centred = z - z.mean(0)
        matrix = centred.T @ centred / (len(z) - 1)
        crossed = matrix.square().sum() - matrix.diagonal().square().sum()
        loss = loss + variance * torch.relu(1 - spread).mean() / 2 + covariance * crossed / z.shape[1]
    return loss


@gin.register
class VICReg(Siamese):
    """Invariance between the two views' projections; variance and covariance within each view (Eq. 1 to 6).

    The projector, the paper's expander, has three linear layers of one width, batch norm and ReLU after the first two.

    Differs from the paper: hidden linear layers have no bias, since batch norm follows. The invariance is averaged over
    dimensions and the variance over views, as in the authors' code; Eq. 5 sums the former, Eq. 6 the latter. The
    optimiser and the projector's width are the protocol's; the paper trains a ResNet-50 by LARS with a width of 8192.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        invariance: NonNegative,
        variance: NonNegative,
        covariance: NonNegative,
        projector_width: Count,
    ) -> None:
        super().__init__(encoder, mlp(encoder.width, projector_width, projector_width, layers=3))
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return variance_invariance_covariance(prediction, target, **self.weights)

    def objective(self, online: dict[int, Branch], targets: dict[int, Tensor]) -> Tensor:
        return self.compare(online[0].projection, targets[1])
