"""Stored files are opened by Pillow, or it is said what they are."""

import io
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from benchmark.data.splits import LFS
from benchmark.data.white import NotReadError

# Told apart by their first bytes alone. Pillow tries WebP last of all formats, which takes a third of the whole time.
COMMON = ("PNG", "JPEG", "PPM", "WEBP")
PROGRAMS = frozenset({"EPS"})  # formats that are programs, which Pillow would let Ghostscript run
HEAD = 160  # bytes at the beginning of a file by which a format is known
TIFF = "a TIFF whose bands, bits or compression Pillow does not read; save three of its bands as an RGB PNG"
NOT_READ = "which Pillow does not read; save it as PNG, of 16 bits where it has more than 8"
FOREIGN = (
    (0, LFS, "a pointer of Git LFS, whose content git lfs pull fetches"),
    (0, b"%!PS", "PostScript, a program, which is not run; save it as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript, a program, which is not run; save it as PNG"),
    *((0, start, TIFF) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((4, b"ftyp" + brand, f"HEIC, {NOT_READ}") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (128, b"DICM", f"DICOM, {NOT_READ}"),
    (0, b"\x93NUMPY", f"an array of NumPy, {NOT_READ}, or as a column of lists"),
    (0, b"%PDF", f"PDF, {NOT_READ}"),
    (0, b"<svg", f"SVG, {NOT_READ}"),
    (0, b"<?xml", f"XML, such as SVG, {NOT_READ}"),
)
"""Files that Pillow does not read although they may be whole: offset and bytes, and what is said of them."""


def opened(item: Any) -> Image.Image:
    """Open a stored file, whose pixels are not read yet."""
    if item is None or (item["bytes"] is None and item["path"] is None):
        raise NotReadError("its row has no image; give it one, or remove the row from the source")
    file = item["path"] if item["bytes"] is None else io.BytesIO(item["bytes"])
    try:
        return _open(file)
    except Image.DecompressionBombError as error:
        raise NotReadError(
            f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the limit of Pillow ({error}); it may be "
            f"whole: save a smaller copy, since its shorter side becomes Images.size anyway"
        ) from error


def _open(file: str | io.BytesIO) -> Image.Image:
    try:
        return Image.open(file, formats=COMMON)
    except UnidentifiedImageError:
        pass
    Image.init()
    try:
        return Image.open(file, formats=[name for name in Image.ID if name not in PROGRAMS])
    except UnidentifiedImageError as error:
        start = _start(file)
        for offset, signature, what in FOREIGN:
            if start[offset:].startswith(signature):
                raise NotReadError(f"it is {what}") from error
        raise ValueError("its first bytes are those of no format that Pillow reads") from error


def _start(file: str | io.BytesIO) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:HEAD]
    with Path(file).open("rb") as stream:
        return stream.read(HEAD)
