"""A data set as everything later sees it: pixels, labels, and a fingerprint of both."""

import hashlib
import json
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmark.data.boxes import Boxes
from benchmark.data.masks import Masks
from benchmark.data.pixels import Pixels
from benchmark.data.streaming import ahead


@dataclass(frozen=True)
class Split:
    """Images, uint8 `(n, 3, size, size)`, and their labels or None, both on the host.

    Labels are class indices, int64 `(n,)`, or where an image may have several classes marks of these, bool
    `(n, classes)`. Images with `masks` have a class for each pixel instead, those with `boxes` objects of classes.
    """

    images: Pixels
    labels: Tensor | None
    masks: Masks | None = None
    boxes: Boxes | None = None


@dataclass(frozen=True)
class Outline:
    """What the tables of a data set say before an image is decoded: how many images, and which labels.

    `pretrain` are the images without labels to pretrain on, uint8 `(n, 3, size, size)`; usually `train.images` itself.
    `classes` is empty without labels; `test` has no images where the specification names no test split.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    pretrain: Pixels
    train: Split
    test: Split

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.train.labels is not None and self.train.labels.ndim == 2

    @property
    def has_masks(self) -> bool:
        """Whether each pixel of an image has a label."""
        return self.train.masks is not None

    @property
    def has_boxes(self) -> bool:
        """Whether images have objects in boxes."""
        return self.train.boxes is not None

    @property
    def has_regions(self) -> bool:
        """Whether images have masks or boxes: they are then stretched, and encoders take them at any size."""
        return self.has_masks or self.has_boxes


@dataclass(frozen=True)
class Dataset(Outline):
    """A loaded data set. `mean` and `std` are those of the train pixels, in [0, 1], rounded to 6 decimals.

    `fingerprint` is the SHA-256 of all pixels, labels, masks, boxes, class names and the size, independent of origin
    and name.
    """

    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    _moved: dict[str, Pixels] = field(default_factory=dict, init=False, repr=False, compare=False)

    def pretrain_on(self, device: torch.device) -> Pixels:
        """Return `pretrain` on a device, to which all stages of an experiment together copy it once."""
        if str(device) not in self._moved:
            self._moved[str(device)] = self.pretrain.to(device)
        return self._moved[str(device)]


def mean_and_std(counts: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and population standard deviation of each channel, in [0, 1], to 6 decimals.

    `counts` `(3, 256)` are how many pixels have each value. Sums of integers are exact, so the results do not depend on
    the order of summation or the number of threads. A channel of one value gets the deviation 1 and becomes 0.
    """
    mean, std = [], []
    for channel in counts.tolist():
        n, total, squares = (sum(count * value**power for value, count in enumerate(channel)) for power in (0, 1, 2))
        mean.append(round(total / (255 * n), 6))
        std.append(round(math.sqrt(n * squares - total**2) / (255 * n), 6) or 1.0)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def fingerprint_of(
    size: int, classes: tuple[str, ...], pretrain: Pixels, train: Split, test: Split
) -> tuple[str, Tensor, int]:
    """Return the fingerprint, how many pixels of train have each value, int64 `(3, 256)`, and how many test images are
    among those that are trained on, pixel by pixel; all in one go.
    """
    seen: set[int] = set()
    copies = 0
    counts = torch.zeros(3, 256, dtype=torch.int64)
    digest = hashlib.sha256(json.dumps([size, classes, len(pretrain), len(train.images), len(test.images)]).encode())
    # Images in both `pretrain` and `train` are hashed twice: the fingerprint must not depend on how they are stored.
    for images, counted in ((pretrain, False), (train.images, True), (test.images, False)):
        for _, batch in ahead(images):
            digest.update(batch.numpy().data)
            hashes = [hash(image.tobytes()) for image in batch.numpy()]
            if images is test.images:
                copies += sum(each in seen for each in hashes)
            else:
                seen.update(hashes)
            if counted:
                counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in batch.unbind(1)])
    for labels in (train.labels, test.labels):
        digest.update(b"unlabelled" if labels is None else labels.numpy().astype("<i8").tobytes())
    for masks in (train.masks, test.masks):
        for mask in masks or ():
            digest.update(b"%d %d " % mask.shape)
            digest.update(mask.numpy().data)
    for boxes in (train.boxes, test.boxes):
        for each in boxes or ():
            digest.update(b"%d %d %d " % (*each.size, len(each.labels)))
            for part, kind in ((each.boxes, "<f4"), (each.labels, "<i8"), (each.crowd, "u1")):
                digest.update(part.numpy().astype(kind).tobytes())
    return digest.hexdigest(), counts, copies
