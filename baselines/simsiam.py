"""SimSiam (Chen and He 2021, arXiv:2011.10566): predict the other view, whose gradient is stopped."""

import gin
from torch import Tensor

from benchmark.annotations import Count
from benchmark.losses import negative_cosine
from benchmark.method import Branch, ParamGroup, Siamese, Views, Visible
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp
from benchmark.randomness import Draws


@gin.register
class SimSiam(Siamese):
    """Negative cosine of prediction and stopped projection, the mean of both directions (Eq. 1 to 4).

    The predictor is a bottleneck and trains at a constant rate, warm-up included (section 4.2, as in the authors'
    code).

    Differs from the paper: the last linear layer of the projector has no bias, since a batch norm without scale and
    shift follows (the authors freeze that bias); the paper has no warm-up, the protocol's schedule does.
    """

    def __init__(self, encoder: Encoder, *, projector_layers: Count, projector_width: Count, bottleneck: Count) -> None:
        projector = mlp(encoder.width, projector_width, projector_width, layers=projector_layers, last_batch_norm=True)
        super().__init__(encoder, projector, mlp(projector_width, bottleneck, projector_width, layers=2, bias=True))

    def targets(
        self, views: Views, online: dict[int, Branch], draws: Draws, visible: Visible | None = None
    ) -> dict[int, Tensor]:
        """Return the online projections with their gradient stopped."""
        return {k: online[k].projection.detach() for k in self.target_views}

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return negative_cosine(prediction, target)

    def objective(self, online: dict[int, Branch], targets: dict[int, Tensor]) -> Tensor:
        return super().objective(online, targets) / 2

    def param_groups(self) -> list[ParamGroup]:
        rest = [*self.encoder.parameters(), *self.projector.parameters()]
        return [
            ParamGroup([p for p in rest if p.requires_grad]),
            ParamGroup(list(self.predictor.parameters()), scheduled=False),
        ]
