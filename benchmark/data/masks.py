"""Masks: the class of each pixel of an image, read one at a time and at the size in which they are stored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from benchmark.data.decode import stored_size
from benchmark.data.formats import opened
from benchmark.data.white import Array, Items, NotReadError
from benchmark.errors import BenchmarkError, ConfigError, MissingError
from benchmark.runtime import progress

UNLABELLED = 255  # in masks as they are read: a pixel whose class is not known, which no score counts
MOST_CLASSES = 255  # that uint8 holds beside it


@dataclass(frozen=True)
class Coding:
    """How stored masks code classes: `first` is the number of the first class, `ignored` that of unlabelled pixels."""

    classes: tuple[str, ...]
    first: int = 0
    ignored: int | None = None

    def check(self, mask: str | None, label: str | None) -> None:
        """Raise ConfigError where it contradicts itself, or `Images.mask` and `Images.label`."""
        count, last = len(self.classes), self.first + len(self.classes) - 1
        if mask is None:
            if count:
                raise ConfigError("Images.mask_classes are those of masks, but Images.mask names no column of them.")
            return
        if not 2 <= count <= MOST_CLASSES or len(set(self.classes)) < count:
            raise ConfigError(
                f"Images.mask_classes has {count} names: expected 2 to {MOST_CLASSES} different ones, in the order of "
                f"the numbers that masks hold."
            )
        if label is not None:
            raise ConfigError(f"Images.label = {label!r}: images with masks have no other labels. Leave it None.")
        if self.ignored is not None and self.first <= self.ignored <= last:
            raise ConfigError(
                f"Images.mask_ignored = {self.ignored} is the number of "
                f"{self.classes[self.ignored - self.first]!r}: the classes have {self.first} to "
                f"{last} (Images.mask_first)."
            )

    def decoded(self, values: Array) -> Array:
        """Return class indices or `UNLABELLED`, uint8. Raises NotReadError for a number that is neither."""
        indices = values.astype(np.int64) - self.first
        is_ignored = np.zeros(values.shape, dtype=bool) if self.ignored is None else values == self.ignored
        wrong = ~is_ignored & ((indices < 0) | (indices >= len(self.classes)))
        if wrong.any():
            ignored = "" if self.ignored is None else f", or {self.ignored} where nothing is labelled"
            last = self.first + len(self.classes) - 1
            raise NotReadError(
                f"it has the number {values[wrong][0]}; expected {self.first} to {last}, one "
                f"for each of Images.mask_classes{ignored}. Images.mask_first and Images.mask_ignored say how classes "
                f"are numbered"
            )
        return np.where(is_ignored, UNLABELLED, indices).astype(np.uint8)


class Masks:
    """The masks of a split, uint8 `(height, width)` each, decoded when they are indexed and never kept.

    `images` are the stored images that they belong to, whose sizes must be theirs. `where` names the split in messages.
    """

    def __init__(self, n: int, items: Items, images: Items, coding: Coding, where: str) -> None:
        self._items, self._images, self._coding, self._where = items, images, coding, where
        self._ids: Sequence[int] = range(n)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Tensor:
        """Decode a mask. Raises MissingError for one that cannot be read or does not fit its image."""
        row = self._ids[index]
        try:
            values = _numbers(self._items([row])[0])
            size = stored_size(self._images([row])[0])
            if values.shape != size:
                shapes = (f"{width} x {height}" for height, width in (values.shape, size))
                raise NotReadError("it is of {} pixels, and its image of {}".format(*shapes))
            return torch.from_numpy(self._coding.decoded(values))
        except BenchmarkError:
            raise
        except Exception as error:  # a decoder fed broken bytes raises whatever it likes
            raise MissingError(
                f"Mask {row} of {self._where} cannot be read: {str(error).rstrip('.')}. No mask is skipped."
            ) from error

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in progress.each(range(len(self)), "mask"))

    def subset(self, ids: Tensor) -> Self:
        """Return some of the masks, int64 `(n,)`, as masks of their own."""
        chosen = type(self)(0, self._items, self._images, self._coding, self._where)
        chosen._ids = [self._ids[index] for index in ids.tolist()]
        return chosen


def _numbers(item: Any) -> Array:
    """Return the numbers of a stored mask. Raises NotReadError for colours and for formats that change numbers."""
    if isinstance(item, NotReadError):
        raise item
    if isinstance(item, np.ndarray):
        if item.ndim != 2 or item.dtype.kind not in "bui":
            shape = " x ".join(map(str, item.shape))
            raise NotReadError(f"it is an array of {item.dtype}, {shape}; a mask has a whole number for each pixel")
        return item
    with opened(item) as image:
        if image.format == "JPEG":
            raise NotReadError("it is a JPEG, which changes numbers; save masks as PNG")
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise NotReadError(
                f"its mode is {image.mode}; a mask has one number for each pixel: save it as a grey or palette PNG"
            )
        return np.asarray(image)
