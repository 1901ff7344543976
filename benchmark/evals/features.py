"""Frozen features, extracted once per encoder and shared by every frozen evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from benchmark.annotations import Range
from benchmark.data.pixels import Pixels
from benchmark.data.streaming import BATCH, ahead, at_once
from benchmark.errors import BenchmarkError
from benchmark.nets.encoders import Encoder
from benchmark.nets.encoders import Features as Encoded
from benchmark.runtime import ranks
from benchmark.runtime.threads import side_by_side
from benchmark.views.recipes import ViewLimits

Prepare = Callable[[Tensor, Tensor], Tensor]
"""Turns uint8 images `(batch, 3, height, width)` and their ids `(batch,)` into the encoder's inputs."""

Choices = dict[str, str | float | int]
Fraction = Annotated[float, Range(0, 1, below=True)]

CPU_BATCH = 64  # images that a processor encodes at once: few enough for its cache, and a quarter faster than 512


@dataclass(frozen=True)
class Network:
    """What an evaluation that trains the encoder itself needs besides labels.

    `copy()` returns a new encoder with the pretrained weights. `train` and `test` are uint8 images `(n, 3, size, size)`
    on the host, to be normalised by `mean` and `std`; `limits` hold for their random views. An evaluation saves its
    state in `folder`, if there is one, to resume after an interruption. `fingerprint` is that of the data set: of its
    pixels, their size, labels and splits.
    """

    copy: Callable[[], Encoder]
    train: Pixels
    test: Pixels
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    limits: ViewLimits
    device: torch.device
    folder: Path | None

    @property
    def terms(self) -> tuple[object, ...]:
        """All that what is trained depends on besides weights and settings: a saved state of others is not taken up."""
        return self.fingerprint, self.mean, self.std, self.limits, str(self.device)


@dataclass(frozen=True)
class Bank:
    """Everything an evaluation may see: train features and labels, the hold-out, test features, no test label.

    `train` and `test` map the name of a feature to `(n, dim)` float32. Several names are several ways to pool; an
    evaluation chooses among them on the hold-out. `fit` and `held` are disjoint ids of train images. `dataset` is the
    name by which subsets of train are drawn. `views(i)` returns the features of the i-th random crop and flip of each
    train image. `layers(n)` returns the features of train and of test by the last n layers of the encoder, n above 1;
    None for raw pixels. `projected` are the projector's outputs for train and test, `(n, dim)`, if there is a
    projector. `network` is the encoder itself; None for raw pixels.
    """

    train: dict[str, Tensor]
    test: dict[str, Tensor]
    labels: Tensor
    fit: Tensor
    held: Tensor
    classes: int
    dataset: str
    views: Callable[[int], dict[str, Tensor]]
    layers: Callable[[int], tuple[dict[str, Tensor], dict[str, Tensor]]] | None = None
    projected: tuple[Tensor, Tensor] | None = None
    network: Network | None = None


@dataclass(frozen=True)
class Neighbours:
    """For each test image the labels of its nearest train images, nearest first, `(n_test, depth)`.

    `counts` `(classes,)` are the train images of each class; `depth` is at least the largest count.
    """

    labels: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Ranking:
    """The result of an evaluation before it is scored.

    `classes` are the best classes of each test image, best first: `(n_test, min(5, classes))`, or with a dimension of
    draws in front if there were several draws of training data, whose scores are averaged. `scores` `(n_test, classes)`
    are the logits by which images with several labels are scored; others do without. `details` are rankings
    under other settings; a record stores their top-1. `measures` are further numbers for the record. `curve` is the
    accuracy on the hold-out after each epoch.
    """

    classes: Tensor
    choices: Choices
    flags: tuple[str, ...] = ()
    scores: Tensor | None = None
    details: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    neighbours: Neighbours | None = None


def at_edge(setting: str) -> str:
    """Return the flag of a ranking whose chosen setting is the first or last of its grid."""
    return f"the best {setting} lies at the edge of the grid"


def flags_of(rate: float, rates: Sequence[float], held: Tensor) -> tuple[str, ...]:
    """Return what is said of a learning rate that was chosen among others on the images `held`."""
    if len(rates) < 2:
        return ()
    if not len(held):
        return (f"nothing could be held out, so the learning rate is {rate:g} by rule",)
    return (at_edge("learning rate"),) if rate in (min(rates), max(rates)) else ()


def best_classes(scores: Tensor) -> Tensor:
    """Rank the classes of `(n, classes)` scores, at most 5; equal scores go to the smaller class."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :5]


def hits(classes: Tensor, labels: Tensor) -> int:
    """Count the images whose best class, the first of `(n, k)` classes, is their label."""
    return int((classes[:, 0] == labels).sum())


@torch.no_grad()
def extract(
    encoder: Encoder,
    images: Pixels,
    prepare: Prepare,
    device: torch.device,
    projector: nn.Module | None = None,
    batch_size: int | None = None,
    layers: int = 1,
    divided: bool = False,
) -> dict[str, Tensor]:
    """Return the features of uint8 `images` `(n, 3, height, width)` in eval mode and float32, on the host.

    On a processor several batches are encoded at once, so neither `prepare` nor the encoder may keep a state.

    A ViT gives its class token (`cls`), the mean of its patch tokens (`mean`) and both joined (`both`), a Swin the mean
    of its tokens (`mean`); a convolutional network gives its global average (`pooled`). With a projector, `projection`
    is its output. With several `layers`, a feature joins those of the last `layers`, see `Encoder.last`.

    `divided`: every rank encodes its part of the batches, which are those of one process, and rank 0 returns the
    features of all images; the others return their own.
    """
    nets = [encoder, *([projector] if projector else [])]
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    batch_size = batch_size or at_once(images, CPU_BATCH if device.type == "cpu" else BATCH)
    batches = torch.arange(len(images)).split(batch_size)
    shares = [torch.cat(batches[rank :: ranks.size()]) for rank in range(ranks.size())] if divided else []

    def encode(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        ids, pixels = batch
        view = prepare(pixels, ids)
        outputs = [encoder(view)] if layers == 1 else encoder.last(view, layers)
        layered = [_pooled(output, encoder) for output in outputs]
        part = {name: torch.cat([layer[name] for layer in layered], dim=1) for name in layered[-1]}
        if projector:
            part["projection"] = projector(outputs[-1].pooled).float()
        return {name: rows.cpu() for name, rows in part.items()}

    asked = ahead(images, shares[ranks.rank()] if shares else None, device, batch_size)
    parts = list(side_by_side(encode, asked, encoders_at_once(images, batch_size, device)))
    for net, training in zip(nets, modes, strict=True):
        net.train(training)
    features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: ranks.collected(rows, shares) for name, rows in features.items()} if shares else features


def encoders_at_once(images: Pixels, batch_size: int, device: torch.device) -> int:
    """Return how many batches are encoded at once: one, but on a processor one a thread, as far as memory goes.

    Together they have no more images than a GPU encodes at once: 8 batches of 64 images up to 96 px, and one of images
    of 224 px, which keeps all threads busy.
    """
    most = at_once(images, BATCH) // batch_size
    return max(1, min(most, torch.get_num_threads())) if device.type == "cpu" else 1


def _pooled(output: Encoded, encoder: Encoder) -> dict[str, Tensor]:
    pooled = output.pooled.float()
    if encoder.pools_tokens:
        return {"mean": pooled}
    if output.tokens is None:
        return {"pooled": pooled}
    mean = output.tokens.float().mean(1)
    return {"cls": pooled, "mean": mean, "both": torch.cat([pooled, mean], dim=1)}


def finite(features: dict[str, Tensor], images: str, *, diverged: bool) -> dict[str, Tensor]:
    """Return the features `(n, dim)` by name if all are finite; `images` names the images for the error message.

    If the encoder's run `diverged`, a row that is not finite becomes 0 and is scored like a constant one. Otherwise
    raises BenchmarkError.
    """
    for name, rows in features.items():
        valid = rows.isfinite().all(1, keepdim=True)
        if diverged:
            features = features | {name: rows.where(valid, 0.0)}
        elif not valid.all():
            raise BenchmarkError(
                f"The feature {name!r} of {int((~valid).sum())} of {len(rows)} {images} has values that are not finite "
                f"(NaN or infinite), so it cannot be scored. The weights of the encoder overflow or are not finite: "
                f"pretrain with a lower AdamW.base_rate (or that of your optimiser), or give other weights."
            )
    return features
