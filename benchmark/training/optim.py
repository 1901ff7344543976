"""Optimisers and the schedule of their learning rates, which depends only on the progress of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gin
import torch

from benchmark.annotations import Fraction, NonNegative, Positive
from benchmark.method import ParamGroup
from benchmark.nets.schedules import half_cosine

Curve = Literal["cosine", "constant"]


class OptimiserSpec(Protocol):
    """The settings of an optimiser, which is built once the parameters exist."""

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Rates:
    """The settings that all optimisers have.

    With a `final_decay` the weight decay moves from `weight_decay` to it on a half cosine over the schedule. With a
    `clip` all gradients of a step are scaled by one factor where their joint norm exceeds it (Pascanu et al. 2013,
    arXiv:1211.5063); those of parameters that rest do not count.
    """

    base_rate: Positive
    weight_decay: NonNegative
    warmup: Fraction = 0.1
    decay: Literal["all", "weights"] = "weights"
    curve: Curve = "cosine"
    final_decay: NonNegative | None = None
    clip: Positive | None = None

    def _grouped(
        self, groups: Sequence[ParamGroup], batch_size: int, vector_rate: float | None = None
    ) -> list[dict[str, Any]]:
        """Return torch's parameter groups, each of weights only or of vectors and scalars only."""
        settings: list[dict[str, Any]] = []
        for group in groups:
            decay = self.weight_decay if group.decay is None else group.decay
            for weights in (True, False):
                params = [p for p in group.params if (p.ndim > 1) == weights]
                decays = weights or self.decay == "all"
                if params:
                    rate = self.base_rate if weights or vector_rate is None else vector_rate
                    settings.append(
                        {
                            "params": params,
                            "peak": rate * batch_size / 256 * group.rate_scale,
                            "scheduled": group.scheduled,
                            "weight_decay": decay if decays else 0.0,
                        }
                    )
                    # Only where they are used: a state without them keeps the digest that it always had.
                    if group.frozen:
                        settings[-1]["frozen"] = group.frozen
                    if decays and group.decay is None and self.final_decay is not None:
                        settings[-1]["decay_range"] = (self.weight_decay, self.final_decay)
        return settings

    def _optimiser(self, inner: torch.optim.Optimizer) -> "Optimiser":
        return Optimiser(inner, self.warmup, self.curve, self.clip)


@gin.register
@dataclass(frozen=True, kw_only=True)
class AdamW(_Rates):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); with a weight decay of 0 it is Adam.

    The peak learning rate is `base_rate * batch_size / 256`. `weight_decay` acts on tensors with two dimensions or
    more, so not on biases and norm gains (He et al. 2022, arXiv:2111.06377), or with `decay` = "all" on all tensors.
    `warmup` is a fraction of the schedule; after it the rate falls by a half cosine, or with `curve` = "constant"
    stays.
    """

    betas: tuple[Fraction, Fraction] = (0.9, 0.95)

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings = self._grouped(groups, batch_size)
        return self._optimiser(torch.optim.AdamW(settings, lr=0.0, betas=self.betas, fused=True))


@gin.register
@dataclass(frozen=True, kw_only=True)
class Adam(_Rates):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with weight decay as part of the gradient; the rest as `AdamW`."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings = self._grouped(groups, batch_size)
        return self._optimiser(torch.optim.Adam(settings, lr=0.0, betas=self.betas, fused=True))


@gin.register
@dataclass(frozen=True, kw_only=True)
class SGD(_Rates):
    """Stochastic gradient descent with momentum, in torch's form: buffer <- momentum * buffer + gradient.

    Learning rate, decay and warm-up are as in `AdamW`, but weight decay is part of the gradient.
    """

    momentum: Fraction = 0.9

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings = self._grouped(groups, batch_size)
        return self._optimiser(torch.optim.SGD(settings, lr=0.0, momentum=self.momentum, fused=True))


@gin.register
@dataclass(frozen=True, kw_only=True)
class LARS(_Rates):
    """SGD with steps in proportion to the norm of each weight tensor: layer-wise adaptive rates (You et al. 2017,
    arXiv:1708.03888) in the form of Zbontar et al. 2021 (arXiv:2103.03230).

    `trust` is the norm of a gradient's step at a learning rate of 1, relative to that of its tensor. Biases and norm
    gains are not adapted; `vector_rate` is their base rate, by default that of the weights. The rest is as in `SGD`.
    """

    momentum: Fraction = 0.9
    trust: Positive = 0.001
    vector_rate: Positive | None = None

    def build(self, groups: Sequence[ParamGroup], batch_size: int) -> "Optimiser":
        """Build the optimiser for a method's groups and the global batch."""
        settings = self._grouped(groups, batch_size, self.vector_rate)
        for group in settings:
            group["adapted"] = group["params"][0].ndim > 1
        return self._optimiser(_LARS(settings, self.momentum, self.trust))


class _LARS(torch.optim.Optimizer):
    """The steps of `LARS`. With d the decayed gradient of a tensor p, in an adapted group

        q = trust * |p| / |d|, or 1 where a norm is 0;  buffer <- momentum * buffer + q * d;  p <- p - rate * buffer

    and in any other group q = 1. The state is one buffer per tensor, of its type.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, trust: float) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the learning rate of each group."""
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
    """A torch optimiser whose learning rates and decays are set from the progress before each step, without state."""

    def __init__(
        self, inner: torch.optim.Optimizer, warmup: float, curve: Curve = "cosine", clip: float | None = None
    ) -> None:
        self.inner = inner
        self.warmup, self.curve, self.clip = warmup, curve, clip

    def scale(self, factor: float) -> None:
        """Multiply all learning rates by `factor`."""
        for group in self.inner.param_groups:
            group["peak"] *= factor

    def load(self, state: dict[str, Any]) -> None:
        """Take over the state of an optimiser that has taken steps.

        Raises ValueError, or what torch raises, where it does not belong to these parameters.
        """
        self.inner.load_state_dict(state)
        moments = self.inner.state
        tensors = ((p, value) for p, of_tensor in moments.items() for value in of_tensor.values() if value.ndim)
        has_none = isinstance(self.inner, torch.optim.SGD) and self.inner.defaults["momentum"] == 0
        if len({frozenset(of_tensor) for of_tensor in moments.values()}) != (0 if has_none else 1):
            raise ValueError("its optimiser lacks moments")
        if any(value.shape != p.shape for p, value in tensors):
            raise ValueError("its moments have other shapes than the weights")

    def step(self, progress: float) -> None:
        """Take one step at `progress` in [0, 1) and clear the gradients."""
        factor = schedule(progress, self.warmup, self.curve)
        for group in self.inner.param_groups:
            group["lr"] = group["peak"] * (factor if group["scheduled"] else 1.0)
            if "decay_range" in group:
                first, last = group["decay_range"]
                group["weight_decay"] = last + (first - last) * half_cosine(progress)
            if progress < group.get("frozen", 0.0):
                for parameter in group["params"]:
                    parameter.grad = None  # so that neither decay nor momentum moves it
        if self.clip is not None:
            parameters = [parameter for group in self.inner.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)


def schedule(progress: float, warmup: float, curve: Curve = "cosine") -> float:
    """Return the share of the peak rate: linear from 0 over `warmup`, then 1 or a half cosine to 0 at progress 1."""
    if progress < warmup:
        return progress / warmup
    return 1.0 if curve == "constant" else half_cosine(progress - warmup, 1 - warmup)
