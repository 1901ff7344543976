"""CAN (Mishra et al. 2022, arXiv:2210.16870): contrast of noisy, masked views, their restoration, and their noise."""

import math
from collections.abc import Callable
from dataclasses import replace

import gin
import torch
from torch import Tensor, nn

from benchmark.annotations import NonNegative, Positive
from benchmark.errors import ConfigError
from benchmark.losses import reconstruction
from benchmark.method import Container, Siamese, Step, Views
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.masking import masked_tokens, patchify, visible_tokens
from benchmark.nets.reconstruction import Restoration
from benchmark.randomness import Draws

WAVES = 64
"""Frequencies of the embedding of a noise level, from 1 down to 1 / 10,000 (authors' code)."""


@gin.register
class CAN(Container):
    """Both views get Gaussian noise and lose patches; the decoder restores masked patches and predicts the noise.

    The deviation of an image's noise is uniform below `noise`. loss = contrast_weight * base + the sum of
    restored_weight * E(masked patches) and noise_weight * E(noise of visible patches), the mean of both views; E is the
    mean squared error of the one output that the decoder has for a patch. Masked patches are restored without noise.
    Before it decodes, an embedding of the deviation is added to all tokens: its sines and cosines through two layers.

    Chosen over CMAE (Huang et al. 2022, arXiv:2207.13532) as the method that is masked and contrastive in one: it has
    no momentum network, no second decoder and no shifted views, its authors' code is public, and prediction of noise is
    what no other method here has, where CMAE's masked query against a whole key is what MACRL has.

    Differs from the paper: the class token is projected, which the harness evaluates, and not the mean of all tokens;
    the base's projector is the protocol's; the decoder's size is too; masked patches are restored without their noise,
    as in a re-implementation (bwconrad/can), while the authors' code adds the noise to the images that it restores.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Callable[[Encoder], Siamese],
        decoder: Callable[[Encoder], nn.Module],
        mask_ratio: float,
        noise: Positive,
        contrast_weight: NonNegative,
        restored_weight: NonNegative,
        noise_weight: NonNegative,
        standardised: bool = False,
    ) -> None:
        super().__init__(encoder, base)
        if mask_ratio == 0:
            raise ConfigError("CAN.mask_ratio = 0 masks no patch that could be restored; use more than 0.")
        self.restore = Restoration(encoder, decoder, masked_weight=restored_weight, standardised=standardised)
        self.mask_ratio = self.restore.check(mask_ratio, "CAN.mask_ratio")
        self.embed_level = nn.Sequential(
            nn.Linear(2 * WAVES, encoder.width), nn.ReLU(inplace=True), nn.Linear(encoder.width, encoder.width)
        )
        self.noise, self.contrast_weight, self.noise_weight = noise, contrast_weight, noise_weight

    def forward(self, views: Views, draws: Draws) -> Step:
        levels, noises, visible = zip(*(self._corrupt(view, draws, k) for k, view in enumerate(views)), strict=True)
        online, targets = self.base.passes([a + b for a, b in zip(views, noises, strict=True)], draws, visible)
        contrast = self.base.objective(online, targets)
        terms = [self._errors(views[k], noises[k], levels[k], branch.features) for k, branch in online.items()]
        restored, denoised = torch.stack([torch.stack(pair) for pair in terms]).mean(0)
        loss = self.contrast_weight * contrast + self.restore.masked_weight * restored + self.noise_weight * denoised
        logs = {
            "base_loss": contrast.detach(),
            "reconstruction_loss": restored.detach(),
            "noise_loss": denoised.detach(),
            "mask_ratio": self.restore.share(visible[0]),
        }
        return Step(loss, logs, self.base.carry(targets))

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        level, noise, visible = self._corrupt(views[0], draws, 0)
        return self.restore.pictures(views[0], self._with_level(self.encoder(views[0] + noise, visible), level))

    def _corrupt(self, view: Tensor, draws: Draws, k: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw the deviations of noise `(batch,)`, the noise of a view, and the ids of its visible patches."""
        level = self.noise * draws.rows(("level", k))
        noise = level[:, None, None, None] * draws.normal(("noise", k), *view.shape[1:])
        return level, noise, visible_tokens(draws.rows(("mask", k), self.restore.tokens), self.mask_ratio)

    def _errors(self, view: Tensor, noise: Tensor, level: Tensor, features: Features) -> tuple[Tensor, Tensor]:
        """Return the errors of the decoder at masked patches of a view and at the noise of visible ones."""
        predicted = self.restore.decoder(self._with_level(features, level))
        masked = masked_tokens(features.visible, len(view), self.restore.tokens, view.device)
        patches, noise = (patchify(image, self.restore.patch) for image in (view, noise))
        restored = reconstruction(
            predicted, patches, masked, masked_weight=1.0, visible_weight=0.0, standardised=self.restore.standardised
        )
        return restored, reconstruction(
            predicted, noise, masked, masked_weight=0.0, visible_weight=1.0, standardised=False
        )

    def _with_level(self, features: Features, level: Tensor) -> Features:
        """Return features that know the deviation of the noise."""
        assert features.tokens is not None
        steps = torch.arange(WAVES, device=level.device) / (WAVES - 1)
        waves = level[:, None] * (-math.log(10_000) * steps).exp()
        embedded = self.embed_level(torch.cat([waves.sin(), waves.cos()], dim=1).to(features.pooled.dtype))
        return replace(features, pooled=features.pooled + embedded, tokens=features.tokens + embedded[:, None])
