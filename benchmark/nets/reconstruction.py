"""Restoring masked views: a decoder and the error of what it predicts."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.losses import reconstruction
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.masking import check_visible, masked_tokens, patchify, unpatchify


class Restoration(nn.Module):
    """Scores how well a decoder restores a view from what the encoder saw of it.

    The weights, `kind`, `reduction` and `standardised` are those of `benchmark.losses.reconstruction`. With `whole`, a
    view without a mask is restored whole: all its patches count as masked ones.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Callable[[Encoder], nn.Module],
        *,
        masked_weight: float,
        visible_weight: float = 0.0,
        kind: Literal["l2", "l1"] = "l2",
        reduction: Literal["mean", "sum"] = "mean",
        standardised: bool = True,
    ) -> None:
        super().__init__()
        self.decoder = decoder(encoder)
        self.tokens, self.patch = encoder.patch_grid()
        self.masked_weight, self.visible_weight = masked_weight, visible_weight
        self.kind, self.reduction, self.standardised = kind, reduction, standardised

    def check(self, ratio: float, name: str) -> float:
        """Return a mask ratio that leaves a visible patch; raises ConfigError, naming the parameter, for others."""
        return check_visible(ratio, self.tokens, name)

    def share(self, visible: Tensor | None) -> Tensor:
        """Return the share of patches that are masked where those `visible` are not, for the logs of a step."""
        return torch.tensor(0.0 if visible is None else 1 - visible.shape[1] / self.tokens)

    def forward(self, view: Tensor, features: Features, *, whole: bool = False) -> Tensor:
        """Return the weighted error of restoring `view` `(batch, 3, height, width)` from `features`."""
        if not (self.masked_weight or self.visible_weight):
            return view.new_zeros(())
        return reconstruction(
            self.decoder(features),
            patchify(view, self.patch),
            self._masked(view, features, whole),
            masked_weight=self.masked_weight,
            visible_weight=self.visible_weight,
            kind=self.kind,
            reduction=self.reduction,
            standardised=self.standardised,
        )

    def pictures(
        self, view: Tensor, features: Features, figure: str = "reconstructions", *, whole: bool = False
    ) -> dict[str, Tensor]:
        """Return the view, what the encoder saw of it if not all, and the same with masked patches restored.

        A patch that was standardised in the loss gets the mean and variance of the original. There are no pictures
        where nothing is masked or the decoder did not learn to restore it. Names and images are as for
        `benchmark.method.Method.pictures`.
        """
        if (features.visible is None and not whole) or not self.masked_weight:
            return {}
        masked = self._masked(view, features, whole)[..., None].bool()
        patches, restored = patchify(view, self.patch), self.decoder(features)
        if self.standardised:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            restored = restored * (variance + 1e-6).sqrt() + mean
        images = {"original": view}
        if features.visible is not None:
            images["visible"] = unpatchify(patches.masked_fill(masked, torch.nan), self.patch)
        images["restored"] = unpatchify(torch.where(masked, restored, patches), self.patch)
        return {f"{figure}/{row}": image for row, image in images.items()}

    def _masked(self, view: Tensor, features: Features, whole: bool) -> Tensor:
        """Return `(batch, tokens)` floats, 1 where a patch counts as masked."""
        if whole and features.visible is None:
            return torch.ones(len(view), self.tokens, device=view.device)
        return masked_tokens(features.visible, len(view), self.tokens, view.device)
