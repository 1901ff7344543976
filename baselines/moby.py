"""MoBY (Xie et al. 2021, arXiv:2105.04553): BYOL's asymmetric networks with MoCo's contrast against queues of keys."""

from collections.abc import Sequence
from typing import cast

import gin
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.annotations import Count, Fraction, Positive
from benchmark.losses import info_nce_queue
from benchmark.method import Method, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp
from benchmark.nets.momentum import MomentumCopy, check_momentum, cosine_momentum
from benchmark.nets.queue import KeyQueue
from benchmark.randomness import Draws


@gin.register
class MoBY(Method):
    """Each view's prediction is contrasted with the other view's key, against the past keys of that other view.

    loss = InfoNCE(prediction 0, key 1; queue 1) + InfoNCE(prediction 1, key 0; queue 0) (authors' code). Keys are
    projections of a momentum copy, whose momentum rises to 1 on a half cosine. Blocks of the online encoder leave out
    residual branches with a probability that rises linearly to `drop_path`, those of the copy leave out none. Projector
    and predictor have two layers, with batch norm between them.

    Differs from the paper: hidden linear layers have no bias, since batch norm follows; crops are resized bicubically,
    where the authors' code is bilinear; a momentum is that of the step before, since the copy follows after a step and
    not before the keys. A ViT has fixed positions, and a Swin's table of relative positions decays as the protocol
    says. Optimiser and schedule are the protocol's, and gradients are clipped in gin/paper/moby.gin alone.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive,
        momentum: float,
        drop_path: Fraction,
        queue_size: Count,
        head_hidden: Count,
        projector_width: Count,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.width, head_hidden, projector_width, layers=2, bias=True)
        self.predictor = mlp(projector_width, head_hidden, projector_width, layers=2, bias=True)
        self.target = MomentumCopy(encoder, self.projector)
        queues = nn.ModuleList(KeyQueue(queue_size, projector_width) for _ in range(2))
        self.queues = cast(Sequence[KeyQueue], queues)
        self.temperature, self.momentum = temperature, check_momentum(momentum, "MoBY.momentum")
        self.drop_path = drop_path

    def forward(self, views: Views, draws: Draws) -> Step:
        first, second = (self.predict(view, draws, k) for k, view in enumerate(views))
        keys = [self.target(view) for view in views]
        loss = self.contrast(first, keys, 1) + self.contrast(second, keys, 0)
        return Step(loss, carry={f"keys {k}": F.normalize(key.float(), dim=1) for k, key in enumerate(keys)})

    def predict(self, view: Tensor, draws: Draws, k: int) -> Tensor:
        """Return the prediction `(batch, dim)` of view k, with branches left out."""
        paths = self.encoder.draw_paths(draws, ("paths", k), self.drop_path)
        prediction: Tensor = self.predictor(self.projector(self.encoder(view, paths=paths).pooled))
        return prediction

    def contrast(self, prediction: Tensor, keys: list[Tensor], k: int) -> Tensor:
        """Return the loss of a prediction whose keys are those of view k."""
        return info_nce_queue(prediction, keys[k], self.queues[k].keys, temperature=self.temperature)

    def after_backward(self, step: Step) -> None:
        for k in range(2):
            self.queues[k].push(step.carry[f"keys {k}"])

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, self.projector, cosine_momentum(self.momentum, progress))

    def projection_head(self) -> nn.Module:
        return self.projector
