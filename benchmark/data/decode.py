"""One stored image becomes square uint8 RGB pixels."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

# Told apart by their first bytes alone. Pillow tries WebP last of all formats, which takes a third of the whole time.
COMMON = ("PNG", "JPEG", "PPM", "WEBP")


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
