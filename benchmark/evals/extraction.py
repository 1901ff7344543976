"""The features that an evaluation asks for: of which images, whole or as random views, and encoded by which ranks."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.data.dataset import Dataset
from benchmark.data.pixels import Pixels
from benchmark.data.streaming import ahead, is_cropped_stored
from benchmark.evals.features import Prepare, extract
from benchmark.nets.attention import choose_attention
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws
from benchmark.runtime import ranks
from benchmark.views.colour import normalise
from benchmark.views.recipes import DRAWS, View, ViewLimits

Part = Literal["train", "test"]
Encode = Callable[[Part, int | None, int], dict[str, Tensor]]
"""Returns the features of a split by so many last layers: of random views by their number, or of whole images."""


def encoding(
    encoder: Encoder,
    dataset: Dataset,
    device: torch.device,
    *,
    limits: ViewLimits,
    projector: nn.Module | None,
    divided: bool,
) -> Encode:
    """Return what extracts an encoder's features; if `divided`, together with the ranks that `follow`."""
    mean, std = encoder.statistics or (dataset.mean, dataset.std)

    def features(split: Part, number: int | None, layers: int) -> dict[str, Tensor]:
        if divided and ranks.rank() == 0:
            ranks.told((split, number, layers))
        images, view = inputs(dataset, limits, split, number)

        def prepare(batch: Tensor, ids: Tensor) -> Tensor:
            return normalise(view(batch, ids), mean, std)

        head = projector if layers == 1 else None
        return extract(encoder, images, prepare, device, head, layers=layers, divided=divided)

    return features


def follow(
    encoder: Encoder, dataset: Dataset, device: torch.device, *, limits: ViewLimits, projector: nn.Module | None
) -> None:
    """Extract features with rank 0, in a process of another rank, until rank 0 says that it has what it needs.

    Images with masks or boxes are evaluated by rank 0 alone.
    """
    if dataset.has_masks or dataset.has_boxes:
        return
    choose_attention(encoder, device, "float32")
    features = encoding(encoder, dataset, device, limits=limits, projector=projector, divided=True)
    while asked := ranks.told(None):
        features(*asked)


def dismiss() -> None:
    """Tell the ranks that follow that no more features are needed."""
    ranks.told(None)


def in_pixels(dataset: Dataset, limits: ViewLimits) -> Encode:
    """Return what takes raw pixels in [0, 1] for features."""

    def features(split: Part, number: int | None, layers: int) -> dict[str, Tensor]:
        images, view = inputs(dataset, limits, split, number)
        return {"pixels": torch.cat([view(batch, ids).flatten(1) for ids, batch in ahead(images)])}

    return features


def inputs(dataset: Dataset, limits: ViewLimits, split: Part, number: int | None) -> tuple[Pixels, Prepare]:
    """Return the images of a split and what makes the `number`-th random crop and flip of each, or leaves them whole.

    Crops and flips are of train images, and the same for every encoder and seed.
    """
    if number is None:
        return (dataset.train if split == "train" else dataset.test).images, lambda images, ids: images.float() / 255
    view = limits.apply(View(crop_scale=(0.08, 1.0)))
    draws = Draws(0, number, len(dataset.train.images))
    numbers = {name: draws.rows(("evaluation", name), *shape) for name, shape in DRAWS.items()}
    if is_cropped_stored(dataset.train.images):
        crops = dataset.train.images.cut([view.cut(lambda name, *shape: numbers[name])])
        return crops, lambda images, ids: view.finish(images[:, 0], lambda name, *shape: numbers[name][ids])
    return dataset.train.images, lambda images, ids: view(images, dataset.size, lambda name, *shape: numbers[name][ids])
