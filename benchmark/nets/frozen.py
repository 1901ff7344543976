"""Networks that are used but no longer trained."""

from typing import Self

import torch
from torch import Tensor, nn

from benchmark.nets.encoders import Encoder, Features


class Frozen(nn.Module):
    """An encoder without gradients that stays in eval mode, whatever the mode of the method around it."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, view: Tensor) -> Features:
        """Encode a whole view."""
        features: Features = self.encoder(view)
        return features
