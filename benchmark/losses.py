"""Losses that several methods share: pure functions, in float32 whatever the precision of their input.

Autocast is off inside, because similarities, log-softmaxes and correlations lose their small differences in bf16.
float64 input stays float64, so that tests can check gradients numerically.
"""

from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.errors import ConfigError

P = ParamSpec("P")


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a loss run with autocast off and half-precision tensors widened to float32."""

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return in_full_precision(loss, *args, **kwargs)

    return wrapped


def in_full_precision(function: Callable[P, Tensor], *args: P.args, **kwargs: P.kwargs) -> Tensor:
    """Call a function with autocast off and half-precision tensors widened to float32."""
    device = next(a.device.type for a in args if isinstance(a, Tensor))
    with torch.autocast("cpu" if device == "meta" else device, enabled=False):
        return function(*(_widen(a) for a in args), **kwargs)  # type: ignore[arg-type]


def _widen(value: object) -> object:
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value  # type: ignore[attr-defined]


def _positive(temperature: float | Tensor) -> float | Tensor:
    """Return a temperature; that of a schedule is a tensor, whose value cannot be read while a step is priced."""
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise ConfigError(f"temperature = {temperature}: a contrastive loss needs one above 0.")
    return temperature


@full_precision
def nt_xent(a: Tensor, b: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Normalised-temperature cross entropy over both views (Chen et al. 2020, arXiv:2002.05709, Eq. 1).

    `a`, `b`: `(batch, dim)`. Each of the 2 * batch rows has one positive and 2 * batch - 2 negatives; the result is
    the mean over the rows. Constant embeddings give log(2 * batch - 1).
    """
    z = F.normalize(torch.cat([a, b]), dim=1)
    n = len(z)
    itself = torch.eye(n, dtype=torch.bool, device=z.device)
    logits = (z @ z.T / _positive(temperature)).masked_fill(itself, float("-inf"))
    return F.cross_entropy(logits, torch.arange(n, device=z.device).roll(n // 2))


@full_precision
def info_nce(queries: Tensor, keys: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Cross entropy of each query against all keys of the batch (van den Oord et al. 2018, arXiv:1807.03748, Eq. 4).

    `queries`, `keys`: `(batch, dim)`; the key of the same row is the positive. Mean over rows, one direction.
    """
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / _positive(temperature)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


@full_precision
def info_nce_queue(queries: Tensor, keys: Tensor, queue: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Cross entropy of each query's key against a queue of other keys (He et al. 2020, arXiv:1911.05722, Eq. 1).

    `queries`, `keys`: `(batch, dim)`; `queue`: `(size, dim)` unit vectors. Constant embeddings in a queue of the same
    vector give log(1 + size).
    """
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    positive = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([positive, queries @ queue.to(queries.dtype).T], dim=1) / _positive(temperature)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


@full_precision
def info_nce_patches(queries: Tensor, keys: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Cross entropy of each patch against the patches of its own image (van den Oord et al. 2018, Eq. 4).

    `queries`, `keys`: `(batch, patches, dim)`; key j of an image is the positive of its query j and a negative of its
    other queries. Constant queries give log(patches).
    """
    queries, keys = F.normalize(queries, dim=2), F.normalize(keys, dim=2)
    logits = queries @ keys.transpose(1, 2) / _positive(temperature)
    batch, patches, _ = logits.shape
    return F.cross_entropy(logits.flatten(0, 1), torch.arange(patches, device=logits.device).repeat(batch))


@full_precision
def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of minus the cosine of `(batch, dim)` rows, in [-1, 1]; neither side is detached."""
    return -(F.normalize(predictions, dim=1) * F.normalize(targets, dim=1)).sum(1).mean()


@full_precision
def soft_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean over rows of the cross entropy of `logits` with given `probabilities`, both `(batch, classes)`."""
    return -(probabilities * F.log_softmax(logits, dim=1)).sum(1).mean()


@full_precision
def masked_soft_cross_entropy(logits: Tensor, probabilities: Tensor, masked: Tensor) -> Tensor:
    """Cross entropy as above, the mean over the masked tokens of an image and then over all images.

    `logits`, `probabilities`: `(images, tokens, classes)`; `masked`: `(images, tokens)`, 1 where a token counts. An
    image without masked tokens contributes 0 (Zhou et al. 2022, arXiv:2111.07832, authors' code).
    """
    entropy = -(probabilities * F.log_softmax(logits, dim=2)).sum(2)
    return ((entropy * masked).sum(1) / masked.sum(1).clamp(min=1)).mean()


@full_precision
def cross_correlation(a: Tensor, b: Tensor, *, redundancy_weight: float) -> Tensor:
    """Distance of the cross-correlation matrix from the identity (Zbontar et al. 2021, arXiv:2103.03230, Eq. 1).

    `a`, `b`: `(batch, dim)`, standardised per dimension with the biased variance and eps 1e-5, as a batch norm
    without affine does. Sum of the squared diagonal errors plus `redundancy_weight` times the other squares.
    """
    correlation = _standardise(a).T @ _standardise(b) / len(a)
    diagonal = correlation.diagonal()
    redundancy = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + redundancy_weight * redundancy


def _standardise(z: Tensor) -> Tensor:
    return (z - z.mean(0)) * (z.var(0, unbiased=False) + 1e-5).rsqrt()


@full_precision
def reconstruction(
    prediction: Tensor,
    patches: Tensor,
    masked: Tensor,
    *,
    masked_weight: float,
    visible_weight: float,
    kind: Literal["l2", "l1"] = "l2",
    reduction: Literal["mean", "sum"] = "mean",
    standardised: bool = True,
) -> Tensor:
    """Weighted error of reconstructed patches (He et al. 2022, arXiv:2111.06377, section 3).

    `prediction`, `patches`: `(batch, tokens, pixels)`; `masked`: `(batch, tokens)`, 1 where the encoder saw nothing.
    `standardised` targets have zero mean and unit (unbiased) variance per patch. The error of a patch is the mean or
    the sum over its pixels; masked and visible patches are averaged apart, and an empty set contributes 0.
    """
    if standardised:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) * (variance + 1e-6).rsqrt()
    difference = prediction - patches
    error = difference.square() if kind == "l2" else difference.abs()
    error = error.mean(-1) if reduction == "mean" else error.sum(-1)
    weights = masked.to(error.dtype)
    return masked_weight * _average(error, weights) + visible_weight * _average(error, 1 - weights)


def _average(error: Tensor, weights: Tensor) -> Tensor:
    return (error * weights).sum() / weights.sum().clamp(min=1)
