"""MoCo v3 (Chen et al. 2021, arXiv:2104.02057): in-batch contrast of predictions with a momentum copy's keys."""

import gin
from torch import Tensor

from benchmark.annotations import Count, Positive
from benchmark.losses import info_nce
from benchmark.method import Siamese
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp
from benchmark.nets.momentum import MomentumCopy, check_momentum, cosine_momentum


@gin.register
class MoCoV3(Siamese):
    """2 * temperature * InfoNCE of each view's prediction against the other view's keys, summed (Algorithm 1).

    Negatives are the other images' keys of the batch; there is no queue. Projector and predictor end in a batch norm
    without scale and shift, as in the authors' code for a ViT. The momentum rises to 1 on a half cosine.

    Differs from the paper: the patch embedding is trained, as for every method of the protocol, where the paper
    freezes it for stability (section 4.2); the same heads serve a ResNet, for which the authors leave out the
    predictor's last batch norm; crops are BYOL's, resized bicubically, where the authors' code is bilinear; a momentum
    is that of the step before, since the copy follows after a step and not before the next.
    """

    target: MomentumCopy

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive,
        momentum: float,
        projector_layers: Count,
        head_hidden: Count,
        projector_width: Count,
    ) -> None:
        projector = mlp(encoder.width, head_hidden, projector_width, layers=projector_layers, last_batch_norm=True)
        predictor = mlp(projector_width, head_hidden, projector_width, layers=2, last_batch_norm=True)
        super().__init__(encoder, projector, predictor)
        self.target = MomentumCopy(self.encoder, self.projector)
        self.temperature, self.momentum = temperature, check_momentum(momentum, "MoCoV3.momentum")

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 2 * self.temperature * info_nce(prediction, target, temperature=self.temperature)

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, self.projector, cosine_momentum(self.momentum, progress))
