"""Which number is white, where images are numbers: arrays, floats, and grey or colour of 16 or 32 bits.

It is decided once for a data set, on the train split, and never for an image alone: two images of different brightness
stay different. A type that has one range decides by itself: truth values end at 1, `uint8` at 255, floats at 1. Other
integers hold values of 8, 10, 12, 14 or 16 bits alike, so the largest value of train decides: it must use the highest
bit of 8 or of 16. All else has to be stated.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmark.errors import ConfigError
from benchmark.runtime.progress import announce

SLICE = 512  # stored images that are read at a time
BYTE, WORD = 255, 65_535

Array = npt.NDArray[Any]
Items = Callable[[list[int] | range], list[Any]]
"""Returns stored images by their ids: arrays of numbers, or structs of `bytes` and a `path`, read without bytes."""


class NotReadError(ValueError):
    """An image is whole, but has no one reading as three channels of 8 bits; the message says what to do."""


class White:
    """The number that is white in a data set: `stated`, or what the `n` images of train show, called by `name`."""

    def __init__(
        self, stated: float | None, n: int, items: Items, opened: Callable[[Any], Image.Image], name: str
    ) -> None:
        self.stated = stated
        self.is_surveyed = False
        self.may_decide = True  # and say so, in the process that loads the data
        self._n, self._items, self._opened, self._name = n, items, opened, name
        self._top: int | None = None
        self._has_numbers: bool | None = None
        self._lock = threading.Lock()

    def scaled(self, values: Array) -> npt.NDArray[np.uint8]:
        """Return numbers as 0 .. 255. Raises NotReadError for numbers outside of the range of their data set."""
        if not (np.isfinite(values).all() and values.min() >= 0):
            raise NotReadError(f"it has the value {_least(values):g}; numbers from 0 are expected, and 0 is black")
        white = self._of(values.dtype)
        if white is None:
            if values.max() > WORD:
                raise NotReadError(f"it has the value {values.max():,}, beyond 16 bits; state what is white, {SETTING}")
            white = self._decided()
        if values.max() > white:
            raise NotReadError(
                f"it has the value {values.max():,}, but white is {white:,g}{self._reason(values.dtype)}; state what "
                f"is white, {SETTING}"
            )
        if values.dtype == np.uint8 and white == BYTE:
            return values
        return np.rint(values.astype(np.float64) * (BYTE / white)).astype(np.uint8)

    def check_high_bytes(self) -> None:
        """Raise NotReadError unless colours of 16 bits use them: of each value only the higher 8 bits are read."""
        if self.stated not in (None, WORD) or (self.stated is None and self._decided() != WORD):
            raise NotReadError(
                "it has colours of 16 bits, of which the higher 8 are read, so only 65535 can be white; scale the "
                "values to 8 bits and save them as an RGB PNG"
            )

    def refuse_if_stated(self, image: Image.Image) -> None:
        """Raise NotReadError for an image that says itself what is white, if another number is stated for none."""
        if self.stated is None:
            return
        with self._lock:
            if self._has_numbers is None:
                self._has_numbers = any(True for _ in self._numbers())
        if not self._has_numbers:
            raise NotReadError(
                f"its mode is {image.mode} in {image.format}, which says itself what is white, as all images of train "
                f"do, so Images.range = {self.stated:g} is for none; leave it out"
            )

    def _of(self, kind: np.dtype[Any]) -> float | None:
        """Return what is stated or, for a type that has one range, its end."""
        if self.stated is not None:
            return self.stated
        if kind.kind in "bf":
            return 1
        return BYTE if kind == np.uint8 else None

    def _reason(self, kind: np.dtype[Any]) -> str:
        if self.stated is not None:
            return f", by Images.range = {self.stated:g}"
        return f", by the values of train up to {self._top:,}" if self._of(kind) is None else f", by the type {kind}"

    def _decided(self) -> float:
        """Return white by the largest value of train, and say so once. Raises ConfigError where that shows nothing."""
        with self._lock:
            if not self.is_surveyed:
                if not self.may_decide:
                    raise RuntimeError("what is white is decided and said by the process that loads the data")
                self._top = max((int(values.max()) for values in self._numbers()), default=None)
                self.is_surveyed = True
                if white := _by_top(self._top):
                    announce(
                        f"{self._name}: images are numbers up to {self._top:,} in train, so white is {white:,} for all "
                        f"of them. --set Images.range={white} states it, and keeps the decoded images."
                    )
        white = _by_top(self._top)
        if white is None:
            shown = "none in train" if self._top is None else f"up to {self._top:,} in train"
            raise ConfigError(
                f"Images of {self._name} are numbers ({shown}), which do not show what is white: the highest bit of "
                f"neither 8 nor 16 bits is used. State it, {SETTING}"
            )
        return white

    def _numbers(self) -> Iterator[Array]:
        """Yield the images of train whose type does not tell their range, or that a stated one is for.

        What cannot be read is reported elsewhere.
        """
        for start in range(0, self._n, SLICE):
            for item in each(self._items, range(start, min(start + SLICE, self._n))):
                if isinstance(item, np.ndarray):
                    if item.size and (self.stated is not None or self._of(item.dtype) is None):
                        yield item
                    continue
                with suppress(Exception), self._opened(item) as image:
                    if has_high_bytes(image):
                        yield np.asarray(image).astype(np.int64) * (WORD // BYTE)
                    elif is_number(image) or (self.stated is not None and image.mode == "F"):
                        yield np.asarray(image)


def each(items: Items, ids: list[int] | range) -> list[Any]:
    """Return stored images; where one of them cannot be had, its error stands in its place."""
    try:
        return items(ids)
    except NotReadError as error:
        return [error] if len(ids) == 1 else [item for index in ids for item in each(items, [index])]


SETTING = "for instance --set Images.range=255 for values of 8 bits, 4095 of 12, 65535 of 16."


def is_number(image: Image.Image) -> bool:
    """Return whether an image has integers of more than 8 bits, whose range its file does not tell."""
    return image.mode.startswith("I") and image.format != "PPM"  # Pillow scales PGM files to 16 bits by their header


def has_high_bytes(image: Image.Image) -> bool:
    """Return whether an image that is not loaded yet has channels of 16 bits, of which Pillow keeps the higher 8.

    Pillow names the order of their bytes, as in `RGB;16B`; the three channels of `BGR;16` have 16 bits together.
    """
    tiles = getattr(image, "tile", ())
    return not image.mode.startswith("I") and any(re.search(";16[BLN]", str(tile.args)) for tile in tiles)


def _by_top(top: int | None) -> int | None:
    """Return 255 or 65,535, of whose bits the largest value uses the highest; None where it does neither."""
    return next((white for white in (BYTE, WORD) if top is not None and white // 2 < top <= white), None)


def _least(values: Array) -> Any:
    return values[~np.isfinite(values)][0] if not np.isfinite(values).all() else values.min()
