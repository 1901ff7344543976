"""BYOL (Grill et al. 2020, arXiv:2006.07733): predict the momentum copy's projection of the other view."""

import gin
from torch import Tensor

from benchmark.annotations import Count
from benchmark.losses import negative_cosine
from benchmark.method import Siamese
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp
from benchmark.nets.momentum import MomentumCopy, check_momentum, cosine_momentum


@gin.register
class BYOL(Siamese):
    """Squared distance of normalised prediction and target, summed over both directions (Eq. 2).

    The momentum of the copy rises from `momentum` to 1 on a half cosine (section 3.3). The copy stays in train mode.

    Differs from the paper: hidden linear layers have no bias, since batch norm follows; the copy starts equal to the
    online network, where the authors' code starts it apart and finds no difference.
    """

    target: MomentumCopy

    def __init__(
        self,
        encoder: Encoder,
        *,
        momentum: float,
        projector_layers: Count,
        head_hidden: Count,
        projector_width: Count,
    ) -> None:
        projector = mlp(encoder.width, head_hidden, projector_width, layers=projector_layers)
        super().__init__(encoder, projector, mlp(projector_width, head_hidden, projector_width, layers=2))
        self.target = MomentumCopy(self.encoder, self.projector)
        self.momentum = check_momentum(momentum, "BYOL.momentum")

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 2 + 2 * negative_cosine(prediction, target)

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, self.projector, cosine_momentum(self.momentum, progress))
