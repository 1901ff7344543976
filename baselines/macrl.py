"""MACRL (arXiv:2211.06012): a masked query against a key that is masked less, and restoration of both views."""

from collections.abc import Callable
from typing import Literal

import gin
from torch import Tensor, nn

from benchmark.annotations import NonNegative
from benchmark.errors import ConfigError
from benchmark.method import Branch, Container, Siamese, Step, Views
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.masking import visible_tokens
from benchmark.nets.reconstruction import Restoration
from benchmark.randomness import Draws


@gin.register
class MACRL(Container):
    """The strong view loses patches and is the query; the weak view is the key; a decoder restores both.

    loss = contrast_weight * base + R(query) + R(key), where R = masked_weight * E(masked patches) + visible_weight *
    E(visible patches), and the base is a one-sided contrast of view 0 with a momentum copy's keys of view 1 and a
    queue. Views are restored as they were augmented, before masking. All patches of a key without mask count as masked.

    The key is restored from the momentum encoder's features, which have no gradient: R(key) trains the decoder alone.
    Both branches share the decoder. With a momentum copy of it R(key) would have no gradient at all, and with a decoder
    of the key's own it could not change the encoder. Without `restore_key` the loss has no R(key), and a step costs
    less.

    Differs from the paper: no public code was found, so mask ratios, loss weights, temperature, momentum, queue and
    projector are our choice, and so is what makes an augmentation strong or weak. The projected feature is the class
    token. Views are restored to their own augmented pixels. The branches share the decoder, and their errors are
    summed. Without `restore_key` only the query is restored. The L1 error is averaged over a patch's pixels and over
    patches, on targets standardised per patch (`kind`, `standardised`).
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
        restore_key: bool = False,
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
                f"MACRL.mask_ratio = 0 masks no patch, so MACRL.masked_weight = {masked_weight} weighs nothing of the "
                f"query; use a ratio above 0, or bind masked_weight to 0 (and visible_weight to more)."
            )
        if restore_key and self.base.target is None:
            raise ConfigError(
                f"MACRL.restore_key = True decodes what a momentum encoder makes of the key, and "
                f"{type(self.base).__name__} has none. Use a base with one, such as MACRL.base = @MoCo, or "
                f"MACRL.restore_key = False."
            )
        if restore_key and not masked_weight and not (visible_weight and key_mask_ratio):
            raise ConfigError(
                f"MACRL.restore_key = True restores nothing of the key: its patches at MACRL.key_mask_ratio = "
                f"{key_mask_ratio} have weight 0. Bind masked_weight to more than 0, or use MACRL.restore_key = False."
            )
        self.contrast_weight, self.restore_key = contrast_weight, restore_key

    def forward(self, views: Views, draws: Draws) -> Step:
        visible = self._visible(draws)
        online, targets, key = self._passes(views, draws, visible)
        contrast = self.base.objective(online, targets)
        restored = self.restore(views[0], online[0].features)
        loss = self.contrast_weight * contrast + restored
        logs = {
            "base_loss": contrast.detach(),
            "reconstruction_loss": restored.detach(),
            "mask_ratio": self.restore.share(visible[0]),
            "key_mask_ratio": self.restore.share(visible[1]),
        }
        if key is not None:
            restored_key = self.restore(views[1], key, whole=True)
            loss = loss + restored_key
            logs["key_reconstruction_loss"] = restored_key.detach()
        return Step(loss, logs, self.base.carry(targets))

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        visible = self._visible(draws)
        pictures = self.restore.pictures(views[0], self.encoder(views[0], visible[0]))
        if self.restore_key:
            assert self.base.target is not None
            _, key = self.base.target.encode(views[1], visible[1])
            pictures |= self.restore.pictures(views[1], key, "keys", whole=True)
        return pictures

    def _passes(
        self, views: Views, draws: Draws, visible: list[Tensor | None]
    ) -> tuple[dict[int, Branch], dict[int, Tensor], Features | None]:
        """Run the base's forward passes; with `restore_key`, return also what the momentum encoder makes of the key."""
        if not self.restore_key:
            return *self.base.passes(views, draws, visible), None
        assert self.base.target is not None
        (query,) = self.base.encode(views[:1], visible[:1])
        projection, key = self.base.target.encode(views[1], visible[1])
        return {0: query}, {1: projection}, key

    def _visible(self, draws: Draws) -> list[Tensor | None]:
        tokens = self.restore.tokens
        return [visible_tokens(draws.rows(("mask", k), tokens), ratio) for k, ratio in enumerate(self.mask_ratios)]
