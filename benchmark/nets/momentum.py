"""Momentum copies: target networks that follow the online one and never see a gradient."""

import copy

import torch
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.schedules import half_cosine


class MomentumCopy(nn.Module):
    """Copies of an encoder and its projector whose parameters are an exponential moving average of the originals'.

    Only parameters are averaged. Batch-norm statistics are not: the copy stays in train mode, normalises by its own
    batch and keeps its own running statistics, as in the public code of its sources (He et al. 2020,
    arXiv:1911.05722; Grill et al. 2020, arXiv:2006.07733). The originals are not registered here, so no parameter
    is counted twice.
    """

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.projector = copy.deepcopy(projector).requires_grad_(False)

    def forward(self, view: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the projection `(batch, dim)` of a view, without gradient."""
        return self.encode(view, visible)[0]

    @torch.no_grad()
    def encode(self, view: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Features]:
        """Return the projection `(batch, dim)` of a view and the features that it comes from, without gradient."""
        features = self.encoder(view, visible)
        return self.projector(features.pooled), features

    @torch.no_grad()
    def follow(self, encoder: Encoder, projector: nn.Module, momentum: float) -> None:
        """Move every parameter: copy <- momentum * copy + (1 - momentum) * original, in float32."""
        originals: list[Tensor] = [*encoder.parameters(), *projector.parameters()]
        copies: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(copies, originals, 1 - momentum)


def check_momentum(momentum: float, name: str) -> float:
    """Return a momentum between 0 (the copy is the original) and 1 (it never moves); raises ConfigError for others."""
    if not 0 <= momentum <= 1:
        raise ConfigError(f"{name} = {momentum}: a momentum is at least 0 and at most 1, usually 0.99 or more.")
    return momentum


def cosine_momentum(start: float, progress: float) -> float:
    """Return the momentum at `progress`: `start` at 0, 1 at 1, a half cosine between (Grill et al. 2020, 3.3)."""
    return 1 - (1 - start) * half_cosine(progress)
