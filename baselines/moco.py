"""MoCo v2 (arXiv:1911.05722, arXiv:2003.04297): queries against the keys of a momentum encoder in a queue."""

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.annotations import Count, Positive
from benchmark.losses import info_nce_queue
from benchmark.method import Branch, Siamese, Step, Views, Visible
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp
from benchmark.nets.momentum import MomentumCopy, check_momentum
from benchmark.nets.queue import KeyQueue
from benchmark.nets.split_norm import split_batch_norms
from benchmark.randomness import Draws


@gin.register
class MoCo(Siamese):
    """Each query is contrasted with its key, from a momentum copy, against a queue of past keys (Eq. 1).

    `symmetric` uses both views as query and sums the two directions; otherwise view 1 is the key of view 0. On an
    encoder with batch norm, `splits` parts of the batch are normalised apart in query and key network, and keys are
    shuffled before and put back after: what shuffled batch norm does on several devices, as the authors' CIFAR-10
    demonstration does on one. The queue receives the keys after the backward pass, so no key is its own negative.

    Differs from the paper: the projector is linear - ReLU - linear without batch norm on every encoder, its hidden
    layer as wide as the encoder (v2), or with `projector_layers` = 1 a linear layer (v1). The momentum copy moves after
    the optimiser's step instead of before the next forward pass, which is the same sequence.
    """

    target: MomentumCopy

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive,
        momentum: float,
        queue_size: Count,
        projector_width: Count,
        projector_layers: Count = 2,
        symmetric: bool,
        splits: Count,
    ) -> None:
        self.shuffled = splits > 1 and split_batch_norms(encoder, splits)
        projector = mlp(
            encoder.width, encoder.width, projector_width, layers=projector_layers, batch_norm=False, bias=True
        )
        super().__init__(encoder, projector)
        self.target = MomentumCopy(self.encoder, self.projector)
        self.queue = KeyQueue(queue_size, projector_width)
        self.temperature, self.momentum = temperature, check_momentum(momentum, "MoCo.momentum")
        if not symmetric:
            self.online_views, self.target_views, self.directions = (0,), (1,), ((0, 1),)

    def targets(
        self, views: Views, online: dict[int, Branch], draws: Draws, visible: Visible | None = None
    ) -> dict[int, Tensor]:
        """Return the keys of the target views, without gradient."""
        keys = {}
        for k in self.target_views:
            view, ids = views[k], None if visible is None else visible[k]
            if not self.shuffled:
                keys[k] = self.target(view, ids)
                continue
            order = draws.shared(("shuffle", k), len(view)).argsort()
            keys[k] = self.target(view[order], None if ids is None else ids[order])[order.argsort()]
        return keys

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return info_nce_queue(prediction, target, self.queue.keys, temperature=self.temperature)

    def carry(self, targets: dict[int, Tensor]) -> dict[str, Tensor]:
        keys = torch.cat([targets[k].float() for k in self.target_views])
        return {"keys": F.normalize(keys, dim=1)}

    def after_backward(self, step: Step) -> None:
        self.queue.push(step.carry["keys"])

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, self.projector, self.momentum)
