"""MRCL (arXiv:2211.09013): a two-view method on masked views, plus reconstruction of masked and visible patches."""

from collections.abc import Callable
from typing import Literal

import gin
import torch
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.method import Container, Draws, Siamese, Step, Views
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.masking import kept, masked_tokens, patchify, visible_tokens
from benchmark.objectives import reconstruction


@gin.register
class MRCL(Container):
    """Both views lose random patches; the base's loss acts on what is left, and a decoder restores each whole view.

    loss = base + sum over views of masked_weight * E(masked patches) + visible_weight * E(visible patches), Eq. 16
    with alpha = `masked_weight` and lambda (beta in section 4.3) = `visible_weight`. Base targets see the same masked
    views (Eq. 15). Without a base one view is masked and restored, which is He et al. 2022 (arXiv:2111.06377).

    Differs from the paper: what it leaves open is our choice. Masks of the two views are independent; the pooled
    feature is the class token; the error is the mean over a patch's pixels and over patches (`reduction`), on
    targets standardised per patch (`standardised`). Eq. 16 as printed lacks the minus sign of its contrastive term
    and has neither temperature nor both directions: the base's own loss is used instead.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Callable[[Encoder], Siamese] | None,
        decoder: Callable[[Encoder], nn.Module],
        mask_ratio: float,
        masked_weight: float,
        visible_weight: float,
        reduction: Literal["mean", "sum"] = "mean",
        standardised: bool = True,
    ) -> None:
        super().__init__(encoder, base)
        self.decoder = decoder(encoder)
        self.tokens, self.patch = encoder.patch_grid()
        if not 0 <= mask_ratio < 1 or kept(self.tokens, mask_ratio) < 1:
            raise ConfigError(
                f"MRCL.mask_ratio = {mask_ratio} leaves no visible patch of {self.tokens}; "
                f"use at least 0 and at most {1 - 1 / self.tokens:.3f}."
            )
        self.n_views = 1 if base is None else 2
        self.mask_ratio, self.masked_weight, self.visible_weight = mask_ratio, masked_weight, visible_weight
        self.reduction, self.standardised = reduction, standardised

    def forward(self, views: Views, draws: Draws) -> Step:
        visible = [visible_tokens(draws.rows(("mask", k), self.tokens), self.mask_ratio) for k in range(self.n_views)]
        if self.base is None:
            features = {0: self.encoder(views[0], visible[0])}
            loss, carry = views[0].new_zeros(()), {}
        else:
            online, targets = self.base.passes(views, draws, visible)
            features = {k: branch.features for k, branch in online.items()}
            loss, carry = self.base.objective(online, targets), self.base.carry(targets)
        logs = {"base_loss": loss.detach()}
        if self.masked_weight or self.visible_weight:
            restored = [self._restore(views[k], features[k]) for k in features]
            logs["reconstruction_loss"] = torch.stack(restored).sum().detach()
            loss = loss + sum(restored)
        return Step(loss, logs, carry)

    def _restore(self, view: Tensor, features: Features) -> Tensor:
        return reconstruction(
            self.decoder(features),
            patchify(view, self.patch),
            masked_tokens(features.visible, len(view), self.tokens, view.device),
            masked_weight=self.masked_weight,
            visible_weight=self.visible_weight,
            reduction=self.reduction,
            standardised=self.standardised,
        )
