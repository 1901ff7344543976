"""Decoded images on disk: a split is decoded at its first start, and read at all later ones.

A file is named by all that its pixels depend on: every stored byte, the size, what is stated to be white, the code that
decodes, and the decoder. So it is never stale, whatever happens to the dates of the source. Where the images of train
decided what is white, pixels depend on these too, and are not kept. A digest at the head of a file covers its name and
its pixels, so that a damaged or renamed file is decoded again. Files are read into memory and not mapped: a file that
another machine removes, or that a disk loses, ends no run, and the bytes that were checked are those that are used.
"""

import hashlib
import os
import platform
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import PIL
import torch
from PIL import Image, ImageFile, features
from torch import Tensor

from benchmark.data import decode, formats, white
from benchmark.errors import BenchmarkError
from benchmark.runtime.progress import announce
from benchmark.storage.claim import Lost
from benchmark.storage.files import atomic_write, cache_folder, exclusive

MOST_BYTES = 8 * 2**30  # our choice: ten times what the protocols' data sets take that are not streamed
LIBRARIES = ("jpg", "libjpeg_turbo", "webp", "libtiff", "jpg_2000", "avif")  # of Pillow, whose pixels could differ


def decoded(images: decode.Stored) -> Tensor:
    """Return all images of a split, from its file if there is a sound one. Raises MissingError as decoding does."""
    key = _key(images) if images.shape.numel() <= MOST_BYTES else None
    if key is None:
        return images.whole()
    path = folder() / key
    pixels = _read(path, images.shape)
    with ExitStack() as stack:
        if pixels is None:
            with suppress(OSError, BenchmarkError):  # where nothing can be claimed, all decode
                stack.enter_context(exclusive(path))
                pixels = _read(path, images.shape)
        if pixels is None:
            pixels = images.whole()
            # else files changed meanwhile, or what is white was decided by images of another split
            if _key(images) == key and not images.white.is_surveyed:
                _write(path, pixels)
    return pixels


def folder() -> Path:
    """Return the folder of all files, which need not exist yet."""
    return cache_folder("pixels")


def _key(images: decode.Stored) -> str | None:
    """Return what names the pixels; None where an image is absent, which decoding reports."""
    try:
        stored = images.digest()
    except (OSError, TypeError, ValueError):
        return None
    decoder = (
        [Path(str(module.__file__)).read_bytes() for module in (decode, formats, white)],
        images.white.stated,
        images.is_whole,
        (PIL.__version__, *map(features.version, LIBRARIES), platform.machine()),
        (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
    )
    return hashlib.sha256(repr((stored, images.shape, decoder)).encode()).hexdigest()


def _digest(path: Path, pixels: Tensor) -> bytes:
    digest = hashlib.sha256(path.name.encode())
    digest.update(pixels.numpy().data)
    return digest.digest()


def _read(path: Path, shape: torch.Size) -> Tensor | None:
    """Return the pixels of a sound file, which becomes the one that was used last."""
    try:
        with path.open("rb") as file:
            digest, pixels = file.read(32), torch.empty(shape, dtype=torch.uint8)
            size = file.readinto(pixels.numpy().data)
    except OSError:
        return None
    if size < pixels.nbytes or digest != _digest(path, pixels):
        return None
    with suppress(OSError):
        os.utime(path)
    return pixels


def _write(path: Path, pixels: Tensor) -> None:
    try:
        with atomic_write(path) as partial, partial.open("wb") as file:
            file.write(_digest(path, pixels))
            file.write(pixels.numpy().data)
        _remove_oldest(path.parent)
    except Lost:
        pass  # the folder was emptied meanwhile; where the claim of a run is lost, the run notices
    except OSError as error:
        _say_once(f"decoded images are not kept in {path.parent}: {error.strerror or error}")


@cache
def _say_once(line: str) -> None:
    announce(line)


def _remove_oldest(place: Path) -> None:
    """Remove the files that were not used for longest, so that the others take at most `MOST_BYTES`."""
    files = []
    for file in place.iterdir():
        if ".claim" in file.suffixes:
            continue
        with suppress(FileNotFoundError):  # another process has removed it
            files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    total = 0
    for _, size, file in sorted(files, reverse=True):
        total += size
        if total > MOST_BYTES:
            file.unlink(missing_ok=True)
