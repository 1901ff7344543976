"""Average precision of boxes, as COCO defines it, for all images or for resampled ones.

It is computed here and not by a library, since the interval over test images needs the score of a thousand resamples:
boxes are matched once, and a resample only weighs images. Numbers are those of pycocotools (cocodataset/cocoapi,
cocoeval.py): `evaluateImg` is `_matched`, `accumulate` is `average_precision`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.data.boxes import Objects

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # of the intersection over union (IoU)
RECALLS = torch.from_numpy(np.linspace(0, 1, 101))  # by numpy, whose last bits are those of pycocotools
MOST = 100  # detections of a class in an image, those with the highest scores
TINY = float(np.spacing(1))


@dataclass(frozen=True)
class Detections:
    """What is found in an image, in pixels of the stored image: boxes `(n, 4)`, class indices and scores `(n,)`."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Matches:
    """The detections of one class in all images, with the highest score first, and how they match its objects.

    `images` and `scores` are `(n,)`. `is_right` and `is_ignored`, `(thresholds, n)`, say which are matched to an object
    and which to a crowd. `objects` are how many there are in each image, without crowds.
    """

    images: Tensor
    scores: Tensor
    is_right: Tensor
    is_ignored: Tensor
    objects: Tensor


def matches(found: Sequence[Detections], truth: Sequence[Objects], classes: int) -> list[Matches]:
    """Match what is found in each image with its objects; of equal scores the earlier image and place come first."""
    result = []
    for label in range(classes):
        objects = torch.zeros(len(truth), dtype=torch.int64)
        parts = []
        for i, (detections, there) in enumerate(zip(found, truth, strict=True)):
            mine, is_of_class = detections.labels == label, there.labels == label
            objects[i] = int((is_of_class & ~there.crowd).sum())
            if mine.any():
                order = detections.scores[mine].argsort(descending=True, stable=True)[:MOST]
                boxes = detections.boxes[mine][order]
                verdict = _matched(boxes, there.boxes[is_of_class], there.crowd[is_of_class])
                parts.append((torch.full((len(order),), i), detections.scores[mine][order], *verdict))
        if parts:
            images, scores, is_right, is_ignored = (torch.cat(each, -1) for each in zip(*parts, strict=True))
        else:
            images, scores = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
            is_right = is_ignored = torch.zeros(len(THRESHOLDS), 0, dtype=torch.bool)
        order = scores.argsort(descending=True, stable=True)
        result.append(Matches(images[order], scores[order], is_right[:, order], is_ignored[:, order], objects))
    return result


def _matched(boxes: Tensor, objects: Tensor, crowd: Tensor) -> tuple[Tensor, Tensor]:
    """Return which boxes match an object and which a crowd, bool `(thresholds, n)` each.

    In the order of their scores each box takes, of the objects whose IoU reaches the threshold and that no box took
    before, the one with the largest, and else a crowd, which any number of boxes may take.
    """
    overlap, is_crowd = overlaps(boxes, objects, crowd).numpy(), crowd.numpy()
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    taken = np.zeros((len(THRESHOLDS), len(objects)), dtype=bool)
    right, ignored = (np.zeros((len(THRESHOLDS), len(boxes)), dtype=bool) for _ in range(2))
    for place, row in enumerate(overlap if len(objects) else ()):
        reached = (row >= least) & ~taken
        single, joint = reached & ~is_crowd, reached & is_crowd
        right[:, place] = single.any(1)
        ignored[:, place] = ~right[:, place] & joint.any(1)
        best = len(row) - 1 - np.where(single, row, -1.0)[:, ::-1].argmax(1)  # of equals the last
        taken[right[:, place], best[right[:, place]]] = True
    return torch.from_numpy(right), torch.from_numpy(ignored)


def overlaps(boxes: Tensor, objects: Tensor, crowd: Tensor) -> Tensor:
    """Return the IoU of boxes `(n, 4)` and objects `(m, 4)`, float64 `(n, m)`; of a crowd the share of a box in it."""
    boxes, objects = boxes.double(), objects.double()
    low = torch.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, objects)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / torch.where(crowd, areas[0][:, None], union)


def average_precision(of_class: Matches, weights: Tensor) -> Tensor:
    """Return the average precision of a class at each threshold, `(resamples, thresholds)`.

    `weights`, float64 `(resamples, images)`, say how often a resample has each image. The average precision is the mean
    over 101 recalls of the best precision at that recall or a higher one. It is NaN where there is no object.
    """
    total = weights @ of_class.objects.double()
    weight = weights[:, of_class.images][:, None]  # (resamples, 1, detections)
    right = (weight * of_class.is_right).cumsum(2)
    wrong = (weight * ~(of_class.is_right | of_class.is_ignored)).cumsum(2)
    recall = right / total[:, None, None]
    precision = (right / (right + wrong + TINY)).flip(2).cummax(2).values.flip(2)
    places = torch.searchsorted(recall.nan_to_num(), RECALLS.expand(*recall.shape[:2], -1).contiguous())
    padded = torch.cat([precision, precision.new_zeros(*precision.shape[:2], 1)], dim=2)
    return padded.gather(2, places).mean(2).where(total[:, None] > 0, torch.nan)
