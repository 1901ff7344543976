"""Optimisers and the schedule of their rates, a function of progress alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gin
import torch

from benchmark.errors import ConfigError
from benchmark.method import ParamGroup
from benchmark.nets.schedules import half_cosine


class OptimiserSpec(Protocol):
    """What a configuration chooses to train by: settings that become an optimiser once the parameters exist."""

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Rates:
    """What all optimisers have: a peak rate of `base_rate * batch_size / 256`, its warm-up, and weight decay."""

    base_rate: float
    weight_decay: float
    warmup: float = 0.1
    decay: Literal["all", "weights"] = "weights"

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"{name}.warmup = {self.warmup} is a fraction of the steps; use at least 0 and below 1.")
        if not (self.base_rate > 0 and self.weight_decay >= 0):
            raise ConfigError(
                f"{name} needs a base_rate above 0 and a weight_decay of at least 0; got {self.base_rate} and "
                f"{self.weight_decay}."
            )

    def _grouped(
        self, groups: Sequence[ParamGroup], batch_size: int, vector_rate: float | None = None
    ) -> list[dict[str, Any]]:
        """Return torch's parameter groups, each of weights alone or of vectors and scalars alone."""
        settings: list[dict[str, Any]] = []
        for group in groups:
            decay = self.weight_decay if group.decay is None else group.decay
            for weights in (True, False):
                params = [p for p in group.params if (p.ndim > 1) == weights]
                if params:
                    rate = self.base_rate if weights or vector_rate is None else vector_rate
                    settings.append(
                        {
                            "params": params,
                            "peak": rate * batch_size / 256 * group.rate_scale,
                            "scheduled": group.scheduled,
                            "weight_decay": decay if weights or self.decay == "all" else 0.0,
                        }
                    )
        return settings


@gin.register
@dataclass(frozen=True, kw_only=True)
class AdamW(_Rates):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); with a weight decay of 0 it is Adam.

    The peak rate is `base_rate * batch_size / 256`. `weight_decay` acts on tensors with two dimensions or more, which
    spares biases and norm gains (He et al. 2022, arXiv:2111.06377), or on "all". `warmup` is a fraction of the steps.
    """

    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"AdamW needs betas in [0, 1); got {self.betas}.")

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings = self._grouped(groups, batch_size)
        return Optimiser(torch.optim.AdamW(settings, lr=0.0, betas=self.betas, fused=True), self.warmup)


@gin.register
@dataclass(frozen=True, kw_only=True)
class SGD(_Rates):
    """Stochastic gradient descent with momentum, in torch's form: buffer <- momentum * buffer + gradient.

    Rate, decay and warm-up are those of `AdamW`, but weight decay is part of the gradient.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum("SGD", self.momentum)

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings = self._grouped(groups, batch_size)
        return Optimiser(torch.optim.SGD(settings, lr=0.0, momentum=self.momentum, fused=True), self.warmup)


@gin.register
@dataclass(frozen=True, kw_only=True)
class LARS(_Rates):
    """SGD whose steps are in proportion to each weight tensor: layer-wise adaptive rates (You et al. 2017,
    arXiv:1708.03888) in the form of Zbontar et al. 2021 (arXiv:2103.03230).

    `trust` is the length of a gradient's step at a rate of 1, relative to its tensor. Biases and norm gains are not
    adapted; `vector_rate` is their base rate, that of the weights where it is None. The rest is as in `SGD`.
    """

    momentum: float = 0.9
    trust: float = 0.001
    vector_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum("LARS", self.momentum)
        if not self.trust > 0 or not (self.vector_rate is None or self.vector_rate > 0):
            raise ConfigError(
                f"LARS needs a trust above 0, and a vector_rate above 0 or None; got {self.trust} and "
                f"{self.vector_rate}."
            )

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings = [
            group | {"adapted": group["params"][0].ndim > 1}
            for group in self._grouped(groups, batch_size, self.vector_rate)
        ]
        return Optimiser(_LARS(settings, self.momentum, self.trust), self.warmup)


class _LARS(torch.optim.Optimizer):
    """The steps of `LARS`. With d the decayed gradient of a tensor p, in an adapted group

        q = trust * |p| / |d|, or 1 where a norm is 0;  buffer <- momentum * buffer + q * d;  p <- p - rate * buffer

    and in any other q = 1. The state is one buffer per tensor, of its type.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, trust: float) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            directions = torch._foreach_add([p.grad for p in params], params, alpha=group["weight_decay"])
            if group["adapted"]:
                sizes = torch.stack(torch._foreach_norm(params))
                slopes = torch.stack(torch._foreach_norm(directions))
                ratios = torch.where((sizes > 0) & (slopes > 0), group["trust"] * sizes / slopes, 1.0)
                torch._foreach_mul_(directions, ratios.unbind())
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, directions)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])


class Optimiser:
    """A torch optimiser whose rates are set from progress before each step; it keeps no schedule state."""

    def __init__(self, inner: torch.optim.Optimizer, warmup: float) -> None:
        self.inner = inner
        self.warmup = warmup

    def scale(self, factor: float) -> None:
        """Make all rates `factor` times what they are."""
        for group in self.inner.param_groups:
            group["peak"] *= factor

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
    return half_cosine(progress - warmup, 1 - warmup)


def _check_momentum(name: str, momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise ConfigError(f"{name} needs a momentum in [0, 1); got {momentum}.")
