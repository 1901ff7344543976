"""Stored images become square uint8 RGB pixels."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmark.data.streaming import Streamed
from benchmark.errors import MissingError

# Told apart by their first bytes alone. Pillow tries WebP last of all formats, which takes a third of the whole time.
COMMON = ("PNG", "JPEG", "PPM", "WEBP")
SLICE = 512  # stored images that are hashed at a time

Items = Callable[[list[int] | range], list[Any]]
"""Returns stored images by their ids: structs of `bytes` and a `path`, which is read where there are no bytes."""


class Stored(Streamed):
    """The images of a split as its source stores them, decoded when they are indexed.

    `where` names the split in the message for an image that cannot be read.
    """

    def __init__(self, n: int, items: Items, size: int, where: str) -> None:
        super().__init__(n, size, self._decode)
        self._items = items
        self._where = where

    def _decode(self, ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        for index, item, place in zip(ids, self._items(ids), places, strict=True):
            try:
                place[:] = decode(item, self.shape[-1]).transpose(2, 0, 1)
            except Exception as error:  # a decoder fed broken bytes raises whatever it likes
                file = f" ({item['path']})" if item and item["path"] else ""
                raise MissingError(
                    f"Image {index}{file} of {self._where} cannot be read: {error}. "
                    "Restore it from the original or remove it from the source; no image is skipped or replaced."
                ) from error

    def digest(self) -> str:
        """Return the SHA-256 of every stored byte. Raises OSError or TypeError for an image that is absent."""
        total = hashlib.sha256()
        for start in range(0, len(self), SLICE):
            for item in self._items(range(start, min(start + SLICE, len(self)))):
                content = Path(item["path"]).read_bytes() if item["bytes"] is None else item["bytes"]
                total.update(b"%d " % len(content))
                total.update(content)
        return total.hexdigest()


def decode(item: dict[str, Any], size: int) -> npt.NDArray[np.uint8]:
    """Return one stored image, given as bytes or as a path, as uint8 `(size, size, 3)`."""
    with _open(item["path"] if item["bytes"] is None else io.BytesIO(item["bytes"])) as image:
        rgb = _rgb(image)
        if rgb.size != (size, size):
            rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(rgb)


def _open(file: str | io.BytesIO) -> Image.Image:
    try:
        return Image.open(file, formats=COMMON)
    except UnidentifiedImageError:
        return Image.open(file)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB, upright by its EXIF orientation; of an animation the first frame.

    Transparency is composited on black. 16-bit grey (I;16 and I) and [0, 1] float (F) images are scaled to 0 .. 255,
    where Pillow's own conversion would clip them; values outside these ranges raise ValueError.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        peak = 1 if image.mode == "F" else 65_535
        if not (values.min() >= 0 and values.max() <= peak):
            raise ValueError(f"pixels of mode {image.mode} outside of 0 .. {peak} have no defined brightness")
        image = Image.fromarray(np.rint(values * (255 / peak)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
