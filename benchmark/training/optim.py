"""Optimisers and the schedule of their rates, a function of progress alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gin
import torch

from benchmark.errors import ConfigError
from benchmark.method import ParamGroup


@gin.register
@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with linear warm-up and a half cosine to zero.

    The peak rate is `base_rate * batch_size / 256`. Weight decay applies to tensors with two dimensions or more:
    biases and norm gains are exempt (He et al. 2022, arXiv:2111.06377). `warmup` is a fraction of the steps.
    """

    base_rate: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"AdamW.warmup = {self.warmup} is a fraction of the steps; use at least 0 and below 1.")
        if self.base_rate <= 0 or self.weight_decay < 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"AdamW needs a base_rate above 0, a weight_decay of at least 0 and betas in [0, 1); got "
                f"{self.base_rate}, {self.weight_decay} and {self.betas}."
            )

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings: list[dict[str, Any]] = []
        for group in groups:
            peak = self.base_rate * batch_size / 256 * group.rate_scale
            decay = self.weight_decay if group.decay is None else group.decay
            for matrices in (True, False):
                params = [p for p in group.params if (p.ndim > 1) == matrices]
                if params:
                    weight_decay = decay if matrices else 0.0
                    settings.append(
                        {"params": params, "peak": peak, "scheduled": group.scheduled, "weight_decay": weight_decay}
                    )
        return Optimiser(torch.optim.AdamW(settings, lr=0.0, betas=self.betas, fused=True), self.warmup)


class Optimiser:
    """A torch optimiser whose rates are set from progress before each step; it keeps no schedule state."""

    def __init__(self, inner: torch.optim.Optimizer, warmup: float) -> None:
        self.inner = inner
        self.warmup = warmup

    def step(self, progress: float) -> None:
        """Take one step at `progress` in [0, 1) and clear the gradients."""
        factor = schedule(progress, self.warmup)
        for group in self.inner.param_groups:
            group["lr"] = group["peak"] * (factor if group["scheduled"] else 1.0)
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)


def schedule(progress: float, warmup: float) -> float:
    """Return the share of the peak rate: linear from 0 over `warmup`, then a half cosine to 0 at progress 1."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
