"""Collapse monitors: two numbers that tell a healthy representation from a constant or a low-dimensional one."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.nets.encoders import Encoder


@dataclass(frozen=True)
class Health:
    """`feature_std` is 1 for isotropic unit vectors and 0 for a constant; `effective_rank` is at most the width."""

    feature_std: float
    effective_rank: float

    @property
    def collapsed(self) -> bool:
        """True where features are constant or span one direction: below 2 % of isotropic spread, or rank under 2."""
        return not (self.feature_std >= 0.02 and self.effective_rank >= 2)


@torch.no_grad()
def health(encoder: Encoder, images: Tensor) -> Health:
    """Measure the pooled features of normalised `images` `(n, 3, height, width)` in eval mode.

    `feature_std`: standard deviation of the L2-normalised features per dimension times sqrt(width) (Chen and He 2021,
    arXiv:2011.10566, section 4.1). `effective_rank`: exponential of the entropy of the normalised singular values of
    the centred features (Roy and Vetterli 2007; Garrido et al. 2023, arXiv:2210.02885).
    """
    training = encoder.training
    encoder.eval()
    pooled = encoder(images).pooled.float()
    encoder.train(training)
    if not bool(pooled.isfinite().all()):
        return Health(0.0, 0.0)
    spread = F.normalize(pooled, dim=1).std(0).mean() * pooled.shape[1] ** 0.5
    singular = torch.linalg.svdvals(pooled - pooled.mean(0))
    share = singular / singular.sum().clamp(min=1e-12)
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    return Health(float(spread), float(entropy.exp()))
