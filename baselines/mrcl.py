"""MRCL (arXiv:2211.09013): a two-view method on masked views, plus reconstruction of masked and visible patches."""

from collections.abc import Callable
from typing import Literal

import gin
import torch
from torch import Tensor, nn

from benchmark.annotations import NonNegative
from benchmark.method import Container, Siamese, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.masking import visible_tokens
from benchmark.nets.reconstruction import Restoration
from benchmark.randomness import Draws


@gin.register
class MRCL(Container):
    """Both views lose random patches; the base's loss acts on what is left, and a decoder restores each whole view.

    loss = base + sum over views of masked_weight * E(masked patches) + visible_weight * E(visible patches), Eq. 16
    with alpha = `masked_weight` and lambda (beta in section 4.3) = `visible_weight`. Base targets see the same masked
    views (Eq. 15).

    Differs from the paper: what it leaves open is our choice. Masks of the two views are independent; the pooled
    feature is the class token; the error is the mean over a patch's pixels and over patches (`reduction`), on
    targets standardised per patch (`standardised`). Eq. 16 as printed lacks the minus sign of its contrastive term
    and has neither temperature nor both directions: the base's own loss is used instead.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Callable[[Encoder], Siamese],
        decoder: Callable[[Encoder], nn.Module],
        mask_ratio: float,
        masked_weight: NonNegative,
        visible_weight: NonNegative,
        reduction: Literal["mean", "sum"] = "mean",
        standardised: bool = True,
    ) -> None:
        super().__init__(encoder, base)
        self.restore = Restoration(
            encoder,
            decoder,
            masked_weight=masked_weight,
            visible_weight=visible_weight,
            reduction=reduction,
            standardised=standardised,
        )
        self.mask_ratio = self.restore.check(mask_ratio, "MRCL.mask_ratio")

    def forward(self, views: Views, draws: Draws) -> Step:
        visible = self._visible(draws)
        online, targets = self.base.passes(views, draws, visible)
        base = self.base.objective(online, targets)
        restored = torch.stack([self.restore(views[k], branch.features) for k, branch in online.items()]).sum()
        logs = {
            "base_loss": base.detach(),
            "reconstruction_loss": restored.detach(),
            "mask_ratio": self.restore.share(visible[0]),
        }
        return Step(base + restored, logs, self.base.carry(targets))

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        return self.restore.pictures(views[0], self.encoder(views[0], self._visible(draws)[0]))

    def _visible(self, draws: Draws) -> list[Tensor | None]:
        return [
            visible_tokens(draws.rows(("mask", k), self.restore.tokens), self.mask_ratio) for k in range(self.n_views)
        ]
