"""MACRL (arXiv:2211.06012): a masked query against an unmasked key, and restoration of the query's masked patches."""

from collections.abc import Callable
from typing import Literal

import gin
from torch import Tensor, nn

from benchmark.annotations import NonNegative
from benchmark.errors import ConfigError
from benchmark.method import Container, Siamese, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.masking import visible_tokens
from benchmark.nets.reconstruction import Restoration
from benchmark.randomness import Draws


@gin.register
class MACRL(Container):
    """The strong view loses patches and is the query; the weak view is the key; a decoder restores the query's view.

    loss = contrast_weight * base + masked_weight * E(masked patches) + visible_weight * E(visible patches), the base
    being a one-sided contrast of view 0 with a momentum copy's keys of view 1 and a queue. The decoder restores view
    0 as it was augmented, before masking; the key branch decodes nothing and gets no gradient.

    Differs from the paper: no public code was found, so mask ratios, loss weights, temperature, momentum, queue and
    projector are our choice, and so is what makes an augmentation strong or weak. The projected feature is the class
    token. Only the query is restored, to its own augmented pixels. The L1 error is averaged over a patch's pixels and
    over patches, on targets standardised per patch (`kind`, `standardised`).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Callable[[Encoder], Siamese],
        decoder: Callable[[Encoder], nn.Module],
        mask_ratio: float,
        key_mask_ratio: float,
        contrast_weight: NonNegative,
        masked_weight: NonNegative,
        visible_weight: NonNegative = 0.0,
        kind: Literal["l1", "l2"] = "l1",
        standardised: bool = True,
    ) -> None:
        super().__init__(encoder, base)
        if self.base.directions != ((0, 1),):
            raise ConfigError(
                f"MACRL masks view 0 as the query of view 1; {type(self.base).__name__} as configured also has the "
                f"directions {self.base.directions}. Use a one-sided base: MACRL.base = @MoCo, MoCo.symmetric = False."
            )
        if not (contrast_weight or masked_weight or visible_weight):
            raise ConfigError("MACRL with all three weights 0 has no loss; bind one of them to more than 0.")
        self.restore = Restoration(
            encoder,
            decoder,
            masked_weight=masked_weight,
            visible_weight=visible_weight,
            kind=kind,
            standardised=standardised,
        )
        self.mask_ratios = (
            self.restore.check(mask_ratio, "MACRL.mask_ratio"),
            self.restore.check(key_mask_ratio, "MACRL.key_mask_ratio"),
        )
        if masked_weight and mask_ratio == 0:
            raise ConfigError(
                f"MACRL.mask_ratio = 0 masks no patch, so MACRL.masked_weight = {masked_weight} weighs nothing; use a "
                f"ratio above 0, or bind masked_weight to 0 (and visible_weight to more)."
            )
        self.contrast_weight = contrast_weight

    def forward(self, views: Views, draws: Draws) -> Step:
        visible = self._visible(draws)
        online, targets = self.base.passes(views, draws, visible)
        contrast = self.base.objective(online, targets)
        restored = self.restore(views[0], online[0].features)
        logs = {
            "base_loss": contrast.detach(),
            "reconstruction_loss": restored.detach(),
            "mask_ratio": self.restore.share(visible[0]),
            "key_mask_ratio": self.restore.share(visible[1]),
        }
        return Step(self.contrast_weight * contrast + restored, logs, self.base.carry(targets))

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        return self.restore.pictures(views[0], self.encoder(views[0], self._visible(draws)[0]))

    def _visible(self, draws: Draws) -> list[Tensor | None]:
        tokens = self.restore.tokens
        return [visible_tokens(draws.rows(("mask", k), tokens), ratio) for k, ratio in enumerate(self.mask_ratios)]
