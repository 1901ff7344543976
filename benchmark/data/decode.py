"""Stored images become square uint8 RGB pixels."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from torch import Tensor

from benchmark.data import forked
from benchmark.data.formats import opened
from benchmark.data.streaming import SMALL, Cut, Streamed
from benchmark.data.white import SLICE, Array, Items, NotReadError, White, each, has_high_bytes, is_number
from benchmark.errors import BenchmarkError, MissingError

PAGED = frozenset({"TIFF", "DCX", "IM", "SPIDER"})  # formats whose further images are no animation
CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # by a TIFF's PhotometricInterpretation
ALPHA = ((1,), (2,))  # a TIFF's ExtraSamples that declare transparency

MOST_NAMED = 20  # broken images in a message, beside the first
LOOKED = 20.0  # seconds in which others are looked for
AT_ONCE = 16  # stored images that are read for that at a time


class Stored(Streamed):
    """The images of a split as its source stores them, decoded when they are indexed.

    `where` names the split in the message for an image that cannot be read. An image that `is_whole` is stretched to
    the square. With a `shorter` side, images are resized to it before their centre is cut out, and random crops are
    taken from the stored images.
    """

    def __init__(
        self,
        n: int,
        items: Items,
        size: int,
        where: str,
        white: White,
        *,
        shorter: int | None = None,
        is_whole: bool = False,
    ) -> None:
        read_crops = None if shorter is None else self._decode_crops
        super().__init__(n, size, self._decode, read_crops=read_crops, small=_is_small(items, size))
        self._items = items
        self._where = where
        self.white = white
        self._shorter = shorter
        self.is_whole = is_whole
        self._looked_from = n  # the image after which broken ones were looked for

    def whole(self) -> Tensor:
        """Return all images, of which several processes decode small ones."""
        processes, this = forked.processes_for(len(self)) if self._small else 1, os.getpid()
        try:
            pixels = forked.shared(self.shape) if processes > 1 else None
        except OSError:
            pixels = None
        if pixels is None:
            return self[:]

        def read(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
            if os.getpid() != this:  # it is this process that says which are broken, and decides what is white
                self._looked_from, self.white.may_decide = -1, False
            self._decode(ids, places)

        forked.read_all(read, pixels, processes)
        return torch.from_numpy(pixels)

    def _decode(self, ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        def put(place: npt.NDArray[np.uint8], rgb: Image.Image, row: int) -> None:
            place[:] = square(rgb, self.shape[-1], self._shorter, self.is_whole).transpose(2, 0, 1)

        self._each(ids, places, ids, put)

    def _decode_crops(
        self, ids: list[int], places: npt.NDArray[np.uint8], cuts: Sequence[Cut], rows: list[int]
    ) -> None:
        def put(place: npt.NDArray[np.uint8], rgb: Image.Image, row: int) -> None:
            for crop, cut in zip(place, cuts, strict=True):
                top, left, height, width = cut(row, rgb.height, rgb.width)
                box = rgb.crop((left, top, left + width, top + height))
                resample = Image.Resampling[cut.interpolation.upper()]
                crop[:] = np.asarray(box.resize((self.shape[-1],) * 2, resample)).transpose(2, 0, 1)

        self._each(ids, places, rows, put)

    def _each(
        self,
        ids: list[int],
        places: npt.NDArray[np.uint8],
        rows: list[int],
        put: Callable[[npt.NDArray[np.uint8], Image.Image, int], None],
    ) -> None:
        """Decode each image and `put` it, with its row, into its place."""
        first = next(iter(ids), 0)
        span = range(first, first + len(ids))  # which a source reads in a fraction of the time of single rows
        items = each(self._items, span if ids == list(span) else ids)
        for index, item, place, row in zip(ids, items, places, rows, strict=True):
            try:
                put(place, decode(item, self.white), row)
            except BenchmarkError:
                raise
            except Exception as error:  # a decoder fed broken bytes raises whatever it likes
                whole = isinstance(error, NotReadError)
                advice = "" if whole else " Restore it from the original or remove it from the source;"
                raise MissingError(
                    f"Image {_named(index, item)} of {self._where} cannot be read: {str(error).rstrip('.')}.{advice}"
                    f"{' N' if whole else ' n'}o image is skipped or replaced.{self._others(index + 1)}"
                ) from error

    def _others(self, start: int) -> str:
        """Say which images from `start` on cannot be read either, as far as it shows in `LOOKED` seconds.

        Says nothing where they were looked for before: of several errors the first is shown, and an end waits for all.
        """
        if start > self._looked_from:
            return ""
        seen, broken, stop = 0, list[str](), time.monotonic() + LOOKED
        with suppress(Exception):  # the image that was found is said, whatever stands in the way of others
            for first in range(start, len(self), AT_ONCE):
                ids = list(range(first, min(first + AT_ONCE, len(self))))
                for index, item in zip(ids, each(self._items, ids), strict=True):
                    if len(broken) == MOST_NAMED or time.monotonic() > stop:
                        raise TimeoutError
                    seen += 1
                    try:
                        decode(item, self.white)
                    except BenchmarkError:
                        raise
                    except Exception:  # as above
                        broken.append(_named(index, item))
        self._looked_from = min(start, self._looked_from)
        return f" Nor can, of the {seen:,} images after it: {', '.join(broken)}." if broken else ""

    def digest(self) -> str:
        """Return the SHA-256 of every stored byte. Raises OSError, TypeError or ValueError where an image is absent."""
        total = hashlib.sha256()
        for start in range(0, len(self), SLICE):
            for item in self._items(range(start, min(start + SLICE, len(self)))):
                if isinstance(item, np.ndarray):
                    content = f"{item.dtype} {item.shape} ".encode() + item.tobytes()
                else:
                    content = Path(item["path"]).read_bytes() if item["bytes"] is None else item["bytes"]
                total.update(b"%d " % len(content))
                total.update(content)
        return total.hexdigest()


def _named(index: int, item: Any) -> str:
    return f"{index} ({item['path']})" if isinstance(item, dict) and item["path"] else str(index)


def decode(item: Any, white: White) -> Image.Image:
    """Return one stored image, given as an array, bytes or a path, in RGB and upright."""
    if isinstance(item, NotReadError):
        raise item
    if isinstance(item, np.ndarray):
        return Image.fromarray(white.scaled(_channels_last(item))).convert("RGB")
    with opened(item) as image:
        return _rgb(image, white)


def stored_size(item: Any) -> tuple[int, int]:
    """Return height and width of one stored image, upright; pixels are decoded of a PNG alone, whose tag may follow."""
    if isinstance(item, np.ndarray):
        height, width = _channels_last(item).shape[:2]
        return height, width
    with opened(item) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size is turned already, unlike that of other formats
            width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
        return (width, height) if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5 else (height, width)


def _is_small(items: Items, size: int) -> bool:
    """Return whether the first image has few pixels and its bytes are at hand; False where it cannot be read.

    A folder of files may be far away: several threads wait for it at once.
    """
    if size**2 > SMALL:
        return False
    with suppress(Exception):  # which decoding reports
        item = items([0])[0]
        if isinstance(item, np.ndarray):
            height, width = _channels_last(item).shape[:2]
            return bool(height * width <= SMALL)
        if item["bytes"] is not None:
            with opened(item) as image:
                return image.width * image.height <= SMALL
    return False


def _channels_last(values: Array) -> Array:
    """Return numbers as `(height, width)` or `(height, width, 3)`, whether channels come first or last.

    Raises NotReadError for another number of channels, and where either end could be the channels.
    """
    if values.size == 0:
        raise NotReadError(f"its shape is {values.shape}, without any pixel")
    if values.ndim == 2:
        return values
    first, last = (values.shape[end] in (1, 3) for end in (0, -1))
    if first == last:
        what = "either end may be the channels" if first else "neither end is 1 channel or 3"
        raise NotReadError(f"its shape is {values.shape}, where {what}; write each image as height x width x 3")
    if first:
        values = np.moveaxis(values, 0, -1)
    return values[:, :, 0] if values.shape[-1] == 1 else values


def square(rgb: Image.Image, size: int, shorter: int | None, is_whole: bool = False) -> npt.NDArray[np.uint8]:
    """Return an image as a square: all of it where it `is_whole`, else its centre.

    Its shorter side becomes `size`, or `shorter` as by torchvision's `Resize`.
    """
    if is_whole:
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    elif shorter is not None:
        sides = [shorter * side // min(rgb.size) for side in rgb.size]
        left, top = (round((side - size) / 2) for side in sides)
        rgb = rgb.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
        rgb = rgb.crop((left, top, left + size, top + size))
    elif rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _rgb(image: Image.Image, white: White) -> Image.Image:
    """Convert any mode to RGB, upright by its EXIF orientation; of an animation the first frame.

    Transparency is composited on black. What `White` says of a data set scales numbers to 0 .. 255, where Pillow's own
    conversion would clip them. Raises NotReadError for more bands or pages than a picture has.
    """
    _check_bands(image)
    deep, is_scaled = has_high_bytes(image), is_number(image) or image.mode == "F"
    if (deep or is_scaled) and "transparency" in image.info:
        raise NotReadError(
            "it has 16 bits and one colour that is transparent, which Pillow does not apply to 16 bits; save it with "
            "an alpha channel, or without transparency"
        )
    if deep:
        white.check_high_bytes()
    elif not is_scaled:
        white.refuse_if_stated(image)
    ImageOps.exif_transpose(image, in_place=True)
    if is_scaled:
        image = Image.fromarray(white.scaled(np.asarray(image)))
    elif image.mode.startswith("I"):
        image = Image.fromarray(np.rint(np.asarray(image, dtype=np.float64) * (255 / 65_535)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_bands(image: Image.Image) -> None:
    """Raise NotReadError for bands that are neither colours nor declared transparency, and for several pages."""
    pages = getattr(image, "n_frames", 1) if image.format in PAGED else 1
    if pages > 1:
        raise NotReadError(
            f"it has {pages} pages, and which of them is the image is not said; save that one, or three of them as the "
            f"channels of an RGB PNG"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bands = image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        extra = bands - CHANNELS.get(image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1), bands)
        is_alpha = extra == 1 and image.tag_v2.get(TiffImagePlugin.EXTRASAMPLES) in ALPHA
        if extra and not is_alpha:
            raise NotReadError(
                f"it has {bands} bands, of which {extra} are neither a colour nor declared to be transparency; save "
                f"the three that are to be seen as an RGB PNG"
            )
    elif image.format == "JPEG2000" and image.mode in ("LA", "RGBA"):
        raise NotReadError(
            f"it has {len(image.getbands())} bands, and whether the last is transparency is not said; save the three "
            f"that are to be seen as an RGB PNG"
        )
