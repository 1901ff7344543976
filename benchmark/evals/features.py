"""Frozen features, extracted once per encoder and shared by every frozen evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.nets.encoders import Encoder

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bank:
    """Everything an evaluation may see: train features and labels, the hold-out, test features, no test label.

    `train` and `test` map the name of a feature to `(n, dim)` float32; several names are several ways to pool, among
    which an evaluation chooses on the hold-out. `fit` and `held` are disjoint ids of train samples.
    """

    train: dict[str, Tensor]
    test: dict[str, Tensor]
    labels: Tensor
    fit: Tensor
    held: Tensor
    classes: int


@dataclass(frozen=True)
class Ranking:
    """The outcome of an evaluation before it is scored: the `(n_test, min(5, classes))` best classes, best first."""

    classes: Tensor
    choices: dict[str, str | float | int]
    flags: tuple[str, ...] = ()


def best_classes(scores: Tensor) -> Tensor:
    """Rank the classes of `(n, classes)` scores, at most 5; equal scores go to the smaller class."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :5]


@torch.no_grad()
def extract(
    encoder: Encoder, images: Tensor, normalise: Normalise, device: torch.device, batch_size: int = 512
) -> dict[str, Tensor]:
    """Return the features of uint8 `images` `(n, 3, height, width)` in eval mode and float32, on the host.

    A ViT gives its class token (`cls`), the mean of its patch tokens (`mean`) and both joined (`both`); a
    convolutional network gives its global average (`pooled`). A row that is not finite becomes 0: a diverged encoder
    is scored like a constant one.
    """
    training = encoder.training
    encoder.eval()
    parts: list[dict[str, Tensor]] = []
    for chunk in images.split(batch_size):
        found = encoder(normalise(chunk.to(device).float() / 255))
        pooled = found.pooled.float()
        if found.tokens is None:
            parts.append({"pooled": pooled.cpu()})
        else:
            mean = found.tokens.float().mean(1)
            parts.append({"cls": pooled.cpu(), "mean": mean.cpu(), "both": torch.cat([pooled, mean], dim=1).cpu()})
    encoder.train(training)
    joined = join(parts)
    return {name: rows.where(rows.isfinite().all(1, keepdim=True), 0.0) for name, rows in joined.items()}


def raw_pixels(images: Tensor) -> dict[str, Tensor]:
    """Return uint8 images as one feature, `pixels`, in [0, 1]: the floor that no encoder stands behind."""
    return {"pixels": images.flatten(1).float() / 255}


def join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate features by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
