"""Frozen features, extracted once per encoder and shared by every frozen evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.data.pixels import Pixels
from benchmark.data.streaming import ahead
from benchmark.errors import BenchmarkError
from benchmark.nets.encoders import Encoder
from benchmark.views.recipes import ViewLimits

Prepare = Callable[[Tensor, Tensor], Tensor]
"""From uint8 images `(batch, 3, height, width)` and their ids `(batch,)` to what the encoder sees."""


@dataclass(frozen=True)
class Network:
    """What an evaluation that trains the encoder itself needs besides labels.

    `copy()` returns a new encoder with the weights to start from. `train` and `test` are uint8 images
    `(n, 3, size, size)` on the host, normalised by `mean` and `std`; `limits` hold for their random views. An
    evaluation keeps its state in `folder`, where there is one, and goes on from it after an interruption.
    """

    copy: Callable[[], Encoder]
    train: Pixels
    test: Pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    limits: ViewLimits
    device: torch.device
    folder: Path | None


@dataclass(frozen=True)
class Bank:
    """Everything an evaluation may see: train features and labels, the hold-out, test features, no test label.

    `train` and `test` map the name of a feature to `(n, dim)` float32; several names are several ways to pool, among
    which an evaluation chooses on the hold-out. `fit` and `held` are disjoint ids of train samples. `dataset` is the
    name under which subsets of train are drawn. `views(i)` returns the features of the i-th random crop and flip of
    every train image. `projected` are the projections of train and test, `(n, dim)`, where a method has a projector.
    `network` is the encoder itself; None for raw pixels.
    """

    train: dict[str, Tensor]
    test: dict[str, Tensor]
    labels: Tensor
    fit: Tensor
    held: Tensor
    classes: int
    dataset: str
    views: Callable[[int], dict[str, Tensor]]
    projected: tuple[Tensor, Tensor] | None = None
    network: Network | None = None


@dataclass(frozen=True)
class Neighbours:
    """For each test image the labels of its nearest train images, nearest first, `(n_test, depth)`.

    `counts` `(classes,)` is the number of train images of each class; `depth` is at least the largest.
    """

    labels: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Ranking:
    """The outcome of an evaluation before it is scored.

    `classes` `(n_test, min(5, classes))` are the best classes of each test image, best first, or
    `(draws, n_test, min(5, classes))` where an evaluation was done on several draws of its training data, whose scores
    are averaged. `details` are rankings under other settings, of which a record keeps the top-1 beside the result, and
    `measures` are further figures that it keeps. `curve` is the accuracy on the hold-out after each epoch.
    """

    classes: Tensor
    choices: dict[str, str | float | int]
    flags: tuple[str, ...] = ()
    details: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    neighbours: Neighbours | None = None


def at_edge(setting: str) -> str:
    """Return the flag of a ranking whose setting might be better chosen from a wider grid."""
    return f"the best {setting} lies at the edge of the grid"


def best_classes(scores: Tensor) -> Tensor:
    """Rank the classes of `(n, classes)` scores, at most 5; equal scores go to the smaller class."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :5]


@torch.no_grad()
def extract(
    encoder: Encoder,
    images: Pixels,
    prepare: Prepare,
    device: torch.device,
    projector: nn.Module | None = None,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Return the features of uint8 `images` `(n, 3, height, width)` in eval mode and float32, on the host.

    A ViT gives its class token (`cls`), the mean of its patch tokens (`mean`) and both joined (`both`); a
    convolutional network gives its global average (`pooled`). With a projector, `projection` is its output.
    """
    nets = [encoder, *([projector] if projector else [])]
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    parts: list[dict[str, Tensor]] = []
    for ids, batch in ahead(images, device=device, batch_size=batch_size):
        found = encoder(prepare(batch, ids))
        pooled = found.pooled.float()
        part = {"pooled": pooled}
        if found.tokens is not None:
            mean = found.tokens.float().mean(1)
            part = {"cls": pooled, "mean": mean, "both": torch.cat([pooled, mean], dim=1)}
        if projector:
            part["projection"] = projector(found.pooled).float()
        parts.append({name: rows.cpu() for name, rows in part.items()})
    for net, training in zip(nets, modes, strict=True):
        net.train(training)
    return join(parts)


def join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate features by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def finite(features: dict[str, Tensor], images: str, *, diverged: bool) -> dict[str, Tensor]:
    """Return features `(n, dim)` by name that are all finite; `images` says of what they are.

    Of an encoder that is known to have diverged, a row that is not finite becomes 0, so that it is scored like a
    constant one. Raises BenchmarkError for any other.
    """
    for name, rows in features.items():
        lost = ~rows.isfinite().all(1, keepdim=True)
        if diverged:
            features = features | {name: rows.where(~lost, 0.0)}
        elif lost.any():
            raise BenchmarkError(
                f"The feature {name!r} of {int(lost.sum())} of {len(rows)} {images} has values that are not finite "
                f"(NaN or infinite); a score would be of numbers made up. The weights of the encoder overflow or are "
                f"not finite: pretrain with a lower AdamW.base_rate (or that of your optimiser), or give other weights."
            )
    return features
