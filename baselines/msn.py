"""MSN (Assran et al. 2022, arXiv:2204.07141): views with few patches belong to the prototypes that a whole one has."""

import math

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, Natural, NonNegative, Positive
from benchmark.losses import full_precision, soft_cross_entropy
from benchmark.method import Method, ParamGroup, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import Head, Prototypes, mlp
from benchmark.nets.masking import check_visible, visible_tokens
from benchmark.nets.momentum import MomentumCopy, check_momentum
from benchmark.randomness import Draws


@full_precision
def balanced(logits: Tensor, rounds: int) -> Tensor:
    """Return softmax(logits), `(batch, prototypes)`, with more equal shares of the prototypes, by Sinkhorn's algorithm.

    A round scales each prototype to a sum of 1 over the batch, then each image to a sum of 1 over the prototypes.
    """
    scores = logits.log_softmax(dim=1)
    for _ in range(rounds):
        scores = scores - scores.logsumexp(0)
        scores = scores - scores.logsumexp(1, keepdim=True)
    return scores.exp()


@full_precision
def mean_entropy_gap(logits: Tensor) -> Tensor:
    """Return log(prototypes) - entropy of the mean of softmax(logits) over all rows; 0 where prototypes share alike."""
    mean = logits.softmax(dim=1).mean(0)
    return math.log(len(mean)) + (mean * mean.log()).sum()


@gin.register
class MSN(Method):
    """Anchors are a random view without a share of its patches, and small views; the target is another random view.

    p = softmax(cosines with the prototypes / temperature), of an anchor by the encoder and projector, of the target by
    their momentum copies. loss = cross entropy of each anchor's p with the target's sharpened p^(1 / sharpening) /
    sum, averaged over anchors and images, + entropy_weight * (log(prototypes) - entropy of the mean p over anchors and
    images) (Eq. 1). Sharpened targets pass `sinkhorn_rounds`. They send no gradient back, not even to the prototypes.
    The momentum rises to 1 on a line, and prototypes do not decay.

    Differs from the paper: gradients are not clipped; the weight decay is the protocol's, where the authors' rises; a
    ViT has fixed positions; the projector starts from torch's weights; each image has a mask of its own, where the
    authors' code drops the same patches in a whole batch; momentum reaches 1 at the end, where that code would after
    1.25 times the run; crops are resized bicubically.
    """

    takes_more_views = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive,
        sharpening: Positive,
        sinkhorn_rounds: Natural,
        entropy_weight: NonNegative,
        mask_ratio: float,
        momentum: float,
        prototypes: Count,
        head_hidden: Count,
        projector_width: Count,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.width, head_hidden, projector_width, layers=3, bias=True, gelu=True)
        self.target = MomentumCopy(encoder, self.projector)
        self.prototypes = Head(Prototypes(projector_width, prototypes))
        self.temperature, self.sharpening, self.sinkhorn_rounds = temperature, sharpening, sinkhorn_rounds
        self.tokens, _ = encoder.patch_grid()
        self.mask_ratio = check_visible(mask_ratio, self.tokens, "MSN.mask_ratio")
        self.momentum, self.entropy_weight = check_momentum(momentum, "MSN.momentum"), entropy_weight

    def forward(self, views: Views, draws: Draws) -> Step:
        visible = visible_tokens(draws.rows("mask", self.tokens), self.mask_ratio)
        pooled = [self.encoder(views[1], visible).pooled]
        if views[2:]:
            pooled.append(self.encoder(torch.cat(list(views[2:]))).pooled)
        anchors = self.prototypes(torch.cat([self.projector(each) for each in pooled])) / self.temperature
        targets = self.targets(views[0]).repeat(len(views) - 1, 1)
        agreement, gap = soft_cross_entropy(anchors, targets), mean_entropy_gap(anchors)
        logs = {"agreement_loss": agreement.detach(), "entropy_gap": gap.detach()}
        return Step(agreement + self.entropy_weight * gap, logs)

    @torch.no_grad()
    def targets(self, view: Tensor) -> Tensor:
        """Return the probabilities `(batch, prototypes)` that all anchors of an image should have."""
        logits = self.prototypes(self.target(view)) / (self.temperature * self.sharpening)
        return balanced(logits, self.sinkhorn_rounds)

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, self.projector, self.momentum + (1 - self.momentum) * progress)

    def param_groups(self) -> list[ParamGroup]:
        """Return the prototypes, which do not decay, and all else."""
        free = list(self.prototypes.parameters())
        others = [p for p in self.parameters() if p.requires_grad and all(p is not each for each in free)]
        return [ParamGroup(others), ParamGroup(free, decay=0.0)]

    def projection_head(self) -> Head:
        return self.projector
