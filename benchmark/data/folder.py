"""Which files of a folder are its images, and what is said of those that are not read."""

import glob
import stat
from collections import Counter
from pathlib import Path

from PIL import Image

from benchmark.data.formats import PROGRAMS
from benchmark.errors import MissingError
from benchmark.runtime.progress import announce

NAMED = 3  # files in a message

READERS = {
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".jxl": "pillow-jxl-plugin",
    ".dcm": "pydicom",
    ".nii": "nibabel",
    ".npy": "NumPy",
    ".npz": "NumPy",
    ".mat": "SciPy",
    ".exr": "OpenEXR",
    ".svg": "CairoSVG",
    ".eps": "Ghostscript",
    ".ps": "Ghostscript",
    **dict.fromkeys((".arw", ".cr2", ".dng", ".nef", ".raw"), "rawpy"),
    "": "its first bytes (by the command `file`)",
}
"""What reads images that Pillow does not, by suffix."""

NOTES = frozenset(
    (".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".pdf", ".py", ".tsv", ".txt", ".xml", ".yaml")
)
"""Suffixes of files that lie beside images and are none, so that nothing is said of them."""

UNNAMED = frozenset({"COPYING", "LICENSE", "MD5SUMS", "README", "SHA256SUMS"})
"""The same of files without a suffix."""


def readable() -> frozenset[str]:
    """Return the suffixes of the images that are read."""
    formats = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in formats if name in Image.OPEN and name not in PROGRAMS)


def images_below(folder: Path) -> list[Path]:
    """Return the images below a folder, relative to it and in order, and say which files are left out.

    Raises MissingError where more files of a class, or of the folder itself, would be left out than read, for a link to
    a folder around it, and for what is no file, such as a pipe.
    """
    # Sorted, because folders list their files in no particular order. Unlike Path.rglob, glob leaves hidden files out
    # and follows links, of which subsets of large data sets are often made.
    names = [Path(name) for name in sorted(glob.glob("**/*", root_dir=folder, recursive=True))]  # noqa: PTH207
    suffixes = readable()
    files = [name for name in names if name.suffix.lower() in suffixes and _is_file(folder / name)]
    _check_links(folder, files)
    others = [name for name in names if name.suffix.lower() not in suffixes | NOTES and name.name not in UNNAMED]
    left_out = [name for name in others if (folder / name).is_file()]
    if not left_out:
        return files
    read, unread = (Counter(file.parts[:-1][:1] for file in several) for several in (files, left_out))
    says = _says(folder, left_out)
    for place, n in unread.items():
        if n > read[place]:
            raise MissingError(f"{says} Of {folder.joinpath(*place)} that is more than is read ({read[place]}).")
    announce(f"warning: {says}")
    return files


def _is_file(path: Path) -> bool:
    """Return whether what is named like an image is a file: a folder is not. Raises MissingError for all else."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return True  # a link to nothing is reported where it is read
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise MissingError(f"{path} is named like an image and is no file. Remove it.")
    return stat.S_ISREG(mode)


def _check_links(folder: Path, files: list[Path]) -> None:
    """Raise MissingError where a folder on the way to an image is a link to a folder around it."""
    for place in sorted({folder / above for file in files for above in file.parents[:-1]}):
        if place.is_symlink() and place.parent.resolve().is_relative_to(place.resolve()):
            raise MissingError(
                f"{place} is a link to a folder around it, so that the same images would be read many times. Remove it."
            )


def _says(folder: Path, left_out: list[Path]) -> str:
    shown = ", ".join(map(str, left_out[:NAMED])) + (", ..." if len(left_out) > NAMED else "")
    suffixes = dict.fromkeys(file.suffix.lower() for file in left_out)
    known = [f"{suffix or 'one without a suffix'} by {READERS[suffix]}" for suffix in suffixes if suffix in READERS]
    reading = f" They can be read, {', '.join(known)}, and saved as PNG." if known else ""
    files = "1 file is" if len(left_out) == 1 else f"{len(left_out):,} files are"
    return f"{folder}: {files} left out, because Pillow reads no such suffix: {shown}.{reading}"
