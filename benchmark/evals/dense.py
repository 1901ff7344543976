"""What evaluations by masks share: maps of an encoder, shares of classes under their cells, and the score.

An encoder turns an image into a map of `rows x columns` cells. A dense evaluation turns maps into scores of classes,
which are interpolated to the size of each mask before the best class of a pixel is taken.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from benchmark.data.dataset import Dataset
from benchmark.data.masks import UNLABELLED, Masks
from benchmark.data.pixels import Pixels
from benchmark.data.streaming import ahead, at_once
from benchmark.data.subsets import holdout
from benchmark.errors import BenchmarkError
from benchmark.evals import pictures
from benchmark.evals.evaluation import Evaluation, Results, check, results_of
from benchmark.evals.features import CPU_BATCH, Choices, encoders_at_once
from benchmark.evals.scoring import Score, Sealed, middle, resamples
from benchmark.randomness import derive
from benchmark.runtime import progress
from benchmark.runtime.threads import side_by_side
from benchmark.storage.files import make_folder

AT_ONCE = 16  # images whose scores are computed together
RESAMPLES = 2000  # of the bootstrap over images
COLOUR_CELLS = 20  # cells a side, at least, of the maps of raw colours; our choice: those of a patch of 4 px at 80 px
RIGHT, ACTUAL, PREDICTED = range(3)  # what a tally counts for each class

Encode = Callable[[Tensor], Tensor]
"""Turns uint8 images `(batch, 3, size, size)` into maps `(batch, width, rows, columns)`."""

Scores = Callable[[Tensor], Tensor]
"""Turns maps `(batch, width, rows, columns)` into scores of classes `(batch, classes, rows, columns)`."""


@dataclass(frozen=True)
class Segmentation:
    """The result of a dense evaluation before it is scored: its `scores`, with all choices made."""

    scores: Scores
    choices: Choices
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class DenseBank:
    """Everything a dense evaluation may see: maps and classes of train, and no test image.

    `maps` are float16 `(n, width, rows, columns)`, on disk. `shares` `(n, rows * columns, classes)` are the shares of a
    cell's pixels that each class has; they add up to the share of pixels with a label. `fit` and `held` are disjoint
    ids of train images. `dataset` is the name by which cells are drawn.
    """

    maps: Tensor
    shares: Tensor
    fit: Tensor
    held: Tensor
    classes: int
    dataset: str
    device: torch.device


def stored(shape: Sequence[int], kind: type[np.generic], folder: Path | None) -> Tensor:
    """Return zeros in a file without a name, which takes no memory that is needed and is gone when the tensor is."""
    if folder is not None:
        make_folder(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        return torch.from_numpy(np.memmap(file, dtype=kind, mode="w+", shape=tuple(shape)))


@torch.no_grad()
def extract_maps(
    encode: Encode, images: Pixels, device: torch.device, folder: Path | None, *, diverged: bool = False
) -> Tensor:
    """Return the maps of all images in float16, on disk in `folder`.

    On a processor several batches are encoded at once, so `encode` may not keep a state.

    Raises BenchmarkError for values that float16 does not hold; if the encoder's run `diverged` they become 0.
    """
    maps, size = torch.empty(0), at_once(images, CPU_BATCH)
    batches, workers = ahead(images, device=device, batch_size=size), encoders_at_once(images, size, device)
    for ids, part in side_by_side(lambda batch: (batch[0], encode(batch[1]).half().cpu()), batches, workers):
        if not part.isfinite().all():
            if not diverged:
                raise BenchmarkError(
                    f"Maps of images {int(ids[0])} to {int(ids[-1])} have values that are not finite or above 65,504, "
                    f"which float16 does not hold, so they cannot be scored. Give other weights, or pretrain with a "
                    f"lower learning rate."
                )
            part = part.where(part.isfinite(), 0.0)
        if not len(maps):
            maps = stored((len(images), *part.shape[1:]), np.float16, folder)
        maps[ids] = part
    return maps


def colours(images: Tensor) -> Tensor:
    """Return raw colours as maps: each cell has the pixels of its square, in [0, 1]; `size / 20` or fewer a side."""
    size = images.shape[-1]
    side = max(side for side in range(1, max(1, size // COLOUR_CELLS) + 1) if size % side == 0)
    return F.pixel_unshuffle(images.float() / 255, side)


def shares_of(masks: Masks, rows: int, columns: int, classes: int, folder: Path | None) -> Tensor:
    """Return the shares of classes under each cell of all masks, float32 `(n, rows * columns, classes)`, on disk."""
    shares = stored((len(masks), rows * columns, classes), np.float32, folder)
    for place, mask in zip(shares, masks, strict=True):
        place.copy_(cell_shares(mask, rows, columns, classes))
    return shares


def cell_shares(mask: Tensor, rows: int, columns: int, classes: int) -> Tensor:
    """Return the share of each class among the pixels whose centre lies in a cell, `(rows * columns, classes)`.

    The shares of a cell add up to the share of its pixels that have a label; a cell without a pixel has none.
    """
    places = [
        ((2 * torch.arange(length) + 1) * cells).div(2 * length, rounding_mode="floor")
        for length, cells in zip(mask.shape, (rows, columns), strict=True)
    ]
    cells = (places[0][:, None] * columns + places[1]).flatten()
    labels = mask.flatten().long()
    labelled = labels != UNLABELLED
    counts = (cells[labelled] * classes + labels[labelled]).bincount(minlength=rows * columns * classes)
    pixels = cells.bincount(minlength=rows * columns)
    return counts.view(-1, classes) / pixels[:, None].clamp(min=1)


def tallied(scores: Scores, maps: Tensor, masks: Masks, ids: Tensor, classes: int) -> Tensor:
    """Return for each image its pixels of each class that are right, that there are, and that are predicted.

    The result is int64 `(n, 3, classes)`. Scores are interpolated bilinearly to the size of the mask, and pixels
    without a label do not count.
    """
    tallies = []
    for part in progress.each(ids.split(AT_ONCE), "masks"):
        for index, score in zip(part.tolist(), scores(maps[part]), strict=True):
            tallies.append(tally(upsampled(score, masks[index].shape), masks[index], classes))
    return torch.stack(tallies)


def upsampled(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Return the best class of each pixel, int64 of `size`, by scores `(classes, rows, columns)`."""
    return F.interpolate(scores[None].float(), tuple(size), mode="bilinear", align_corners=False)[0].max(0).indices


def tally(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Return the pixels of each class that are right, that there are, and that are predicted, int64 `(3, classes)`."""
    labelled = mask != UNLABELLED
    pairs = mask[labelled].long() * classes + predicted[labelled]
    confusion = pairs.bincount(minlength=classes**2).view(classes, classes)
    return torch.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)])


def ious(tallies: Tensor) -> Tensor:
    """Return the intersection over union of each class, NaN for one that neither is there nor is predicted.

    `tallies` are `(..., 3, classes)`.
    """
    right, actual, predicted = tallies.double().unbind(-2)
    return right / (actual + predicted - right)


def mean_iou(tallies: Tensor) -> Tensor:
    """Return the mean over the classes that are there or predicted, of tallies `(..., 3, classes)`; 0 without any."""
    return ious(tallies).nanmean(-1).nan_to_num()


def interval(tallies: Tensor) -> list[float]:
    """Return the 95 % percentile interval of the mean IoU of tallies `(n, 3, classes)`, by a bootstrap over images."""
    counts = resamples(RESAMPLES, len(tallies))
    return middle(mean_iou((counts @ tallies.flatten(1).double()).view(RESAMPLES, *tallies.shape[1:])))


@dataclass(frozen=True, kw_only=True)
class DenseScore(Score):
    """Fractions over the labelled pixels of `n` test images.

    `top1` is the share of pixels whose class is right, `balanced_accuracy` its mean over the classes that are there.
    `macro_f1` and `mean_iou` are means over the classes that are there or predicted. `interval` is that of `mean_iou`
    over images. `details` has the IoU of each class, and the number of pixels.
    """

    mean_iou: float
    interval: list[float]


class SealedMasks(Sealed):
    """Test masks."""

    def __init__(self, maps: Tensor, masks: Masks, classes: Sequence[str]) -> None:
        super().__init__("masks")
        self._maps, self._masks, self._classes = maps, masks, classes

    def score(self, evaluation: str, result: Segmentation) -> tuple[DenseScore, Tensor]:
        """Score a result and return its tallies, int32; raises BenchmarkError for a second one of one evaluation."""
        self._read_for(evaluation)
        ids = torch.arange(len(self._masks))
        tallies = tallied(result.scores, self._maps, self._masks, ids, len(self._classes))
        return scored(tallies, self._classes), tallies.int()

    def picture(self, images: Pixels, dataset: str, result: Segmentation) -> Image:
        """Return what a scored result predicts for a few test images, beside their masks."""
        ids = pictures.shown(len(self._masks), dataset)
        masks = [self._masks[i] for i in ids]
        scores = result.scores(self._maps[torch.tensor(ids)])
        predicted = [upsampled(each, mask.shape) for each, mask in zip(scores, masks, strict=True)]
        return pictures.of_masks(images, ids, masks, predicted)


def scored(tallies: Tensor, classes: Sequence[str]) -> DenseScore:
    """Return the score of tallies `(n, 3, classes)`."""
    total = tallies.sum(0)
    right, actual, predicted = total.double()
    per_class = {f"iou {name}": float(iou) for name, iou in zip(classes, ious(total), strict=True) if not iou.isnan()}
    return DenseScore(
        top1=float(right.sum() / actual.sum().clamp(min=1)),
        macro_f1=float((2 * right / (actual + predicted)).nanmean().nan_to_num()),
        balanced_accuracy=float((right / actual).nanmean().nan_to_num()),
        n=len(tallies),
        details=per_class | {"pixels": float(actual.sum())},
        mean_iou=float(mean_iou(total)),
        interval=interval(tallies),
    )


def rows_of(maps: Tensor) -> Tensor:
    """Return the cells of maps `(n, width, rows, columns)` as rows `(n * rows * columns, width)`."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def as_maps(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows `(n * rows * columns, classes)` as maps of the shape of `like`, on the host."""
    n, _, height, width = like.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2).cpu()


def batches(ids: Tensor, size: int, *purpose: str | int) -> Iterator[Tensor]:
    """Yield ids in batches, in an order that depends on nothing but the purpose."""
    generator = torch.Generator().manual_seed(derive(*purpose))
    yield from ids[torch.randperm(len(ids), generator=generator)].split(size)


def evaluate_masks(
    encode: Encode,
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    device: torch.device,
    folder: Path | None = None,
    diverged: bool = False,
) -> Results:
    """Score maps on masks: maps are extracted once for all evaluations, and test masks are read after all choices."""
    if not evaluations:
        return Results({}, {})
    check(dataset, evaluations)
    masks, test_masks = dataset.train.masks, dataset.test.masks
    assert masks is not None
    assert test_masks is not None
    with progress.doing("maps"):
        train, test = (
            extract_maps(encode, split.images, device, folder, diverged=diverged)
            for split in (dataset.train, dataset.test)
        )
        rows, columns = train.shape[2:]
        shares = shares_of(masks, rows, columns, len(dataset.classes), folder)
    fit, held = holdout(torch.zeros(len(masks), dtype=torch.int64), dataset.name)
    bank = DenseBank(train, shares, fit, held, len(dataset.classes), dataset.name, device)
    return results_of(evaluations, bank, SealedMasks(test, test_masks, dataset.classes), dataset)
