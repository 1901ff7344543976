"""Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): decorrelated dimensions that agree between two views."""

import gin
from torch import Tensor

from benchmark.annotations import Count, NonNegative
from benchmark.losses import cross_correlation
from benchmark.method import Branch, Siamese
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp


@gin.register
class BarlowTwins(Siamese):
    """The cross-correlation matrix of the two views' projections is drawn to the identity (Eq. 1).

    The projector is the paper's: three linear layers of one width, batch norm and ReLU after the first two.

    Differs from the paper: nothing in the loss. The optimiser and the projector's width are the protocol's; the paper
    trains a ResNet-50 by LARS with a width of 8192.
    """

    def __init__(self, encoder: Encoder, *, redundancy_weight: NonNegative, projector_width: Count) -> None:
        super().__init__(encoder, mlp(encoder.width, projector_width, projector_width, layers=3))
        self.redundancy_weight = redundancy_weight

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return cross_correlation(prediction, target, redundancy_weight=self.redundancy_weight)

    def objective(self, online: dict[int, Branch], targets: dict[int, Tensor]) -> Tensor:
        return self.compare(online[0].projection, targets[1])
