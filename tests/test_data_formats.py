"""The same images in other people's files: the same pixels, a conversion that is said, or a refusal."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import ExifTags, Image

from benchmark.data.dataset import Dataset
from benchmark.data.decode import decode, stored_size
from benchmark.data.formats import opened
from benchmark.data.images import Images
from benchmark.data.white import White
from benchmark.errors import BenchmarkError, ConfigError, MissingError

N = 6
GREY = np.random.default_rng(0).integers(0, 256, (N, 4, 4), dtype=np.uint8)
GREY[0, 0, :2] = 0, 255  # 16 bits and 8 are then told apart whatever the others are
COLOUR = np.random.default_rng(1).integers(0, 256, (N, 4, 4, 3), dtype=np.uint8)
LABELS = [0, 1, 0, 1, 0, 1]
NAMES = ["ant", "bee"]

pytestmark = pytest.mark.usefixtures("no_other_data")


def load(source: str | Path, **arguments: Any) -> Dataset:
    source = f"parquet:{source}" if isinstance(source, Path) else source
    return Images(**{"name": "toy", "source": source, "size": 4, "test": None} | arguments)()


def encode(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, kind, **options)
        return file.getvalue()


def write(file: Path, images: Sequence[Any], feature: Any, labels: Sequence[int] = LABELS) -> Path:
    """Write a column of images of a declared feature, and labels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(image=feature, label=datasets.ClassLabel(names=NAMES))
    rows = {"image": list(images), "label": list(labels)[: len(images)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return file


def stored(contents: Sequence[bytes | None]) -> list[dict[str, Any] | None]:
    return [None if content is None else {"bytes": content, "path": None} for content in contents]


def lists(kind: str) -> Any:
    return datasets.Sequence(datasets.Sequence(datasets.Value(kind)))


def nested(kind: str, arrays: np.ndarray, file: Path) -> Path:
    """Write numbers by pyarrow, without the features of `datasets`."""
    table = pa.table({"image": pa.array(arrays.tolist(), pa.list_(pa.list_(getattr(pa, kind)()))), "label": LABELS})
    pyarrow.parquet.write_table(table, file)
    return file


def folder(root: Path, arrays: np.ndarray, suffix: str = "png") -> str:
    for i, array in enumerate(arrays):
        place = root / "train" / NAMES[LABELS[i]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(place / f"{i}.{suffix}")
    return f"folder:{root}"


WIDE = GREY.astype(np.uint16) * 257

SAME_GREY: dict[str, Callable[[Path], Any]] = {
    "PNG in Parquet": lambda p: write(p / "x.parquet", stored([encode(a) for a in GREY]), datasets.Image()),
    "Image() of uint8": lambda p: write(p / "x.parquet", GREY, datasets.Image()),
    "Image() of int64": lambda p: write(p / "x.parquet", GREY.astype(np.int64), datasets.Image()),
    "Image() of int32": lambda p: write(p / "x.parquet", GREY.astype(np.int32), datasets.Image()),
    "Image() of uint16": lambda p: write(p / "x.parquet", GREY.astype(np.uint16), datasets.Image()),
    "Image() of uint16 in full range": lambda p: write(p / "x.parquet", WIDE, datasets.Image()),
    "16-bit PNG": lambda p: write(p / "x.parquet", stored([encode(a) for a in WIDE]), datasets.Image()),
    "16-bit TIFF": lambda p: write(p / "x.parquet", stored([encode(a, "TIFF") for a in WIDE]), datasets.Image()),
    "16-bit PGM": lambda p: write(
        p / "x.parquet", stored([b"P5 4 4 65535\n" + a.astype(">u2").tobytes() for a in WIDE]), datasets.Image()
    ),
    "12-bit PGM": lambda p: write(
        p / "x.parquet",
        stored([b"P5 4 4 4080\n" + (a.astype(">u2") * 16).astype(">u2").tobytes() for a in GREY]),
        datasets.Image(),
    ),
    "lists of int64": lambda p: write(p / "x.parquet", GREY.astype(int).tolist(), lists("int64")),
    "lists of uint8": lambda p: write(p / "x.parquet", GREY.tolist(), lists("uint8")),
    "lists of uint16 in full range": lambda p: write(p / "x.parquet", WIDE.tolist(), lists("uint16")),
    "lists of floats to 1": lambda p: write(p / "x.parquet", (GREY / 255).tolist(), lists("float64")),
    "lists without features": lambda p: nested("int32", GREY, p / "x.parquet"),
    "Array2D of uint8": lambda p: write(p / "x.parquet", GREY, datasets.Array2D((4, 4), "uint8")),
    "Array2D of int32": lambda p: write(p / "x.parquet", GREY.astype(np.int32), datasets.Array2D((4, 4), "int32")),
    "Array3D of one channel": lambda p: write(p / "x.parquet", GREY[:, None], datasets.Array3D((1, 4, 4), "uint8")),
}

SAME_COLOUR: dict[str, Callable[[Path], Any]] = {
    "PNG in Parquet": lambda p: write(p / "x.parquet", stored([encode(a) for a in COLOUR]), datasets.Image()),
    "Array3D, channels last": lambda p: write(p / "x.parquet", COLOUR, datasets.Array3D((4, 4, 3), "uint8")),
    "Array3D, channels first": lambda p: write(
        p / "x.parquet", COLOUR.transpose(0, 3, 1, 2), datasets.Array3D((3, 4, 4), "uint8")
    ),
    "lists of int64": lambda p: write(p / "x.parquet", COLOUR.astype(int).tolist(), datasets.Sequence(lists("int64"))),
    "16-bit PNG": lambda p: write(p / "x.parquet", stored([png16(a) for a in COLOUR]), datasets.Image()),
}


def infrared(extra: int | None) -> bytes:
    """Encode four bands as a TIFF, whose tag of extra samples says that the fourth is no transparency, or is absent."""
    four = np.random.default_rng(3).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    if extra == 0:
        with io.BytesIO() as file:
            Image.frombytes("RGBX", (4, 4), four.tobytes()).save(file, "TIFF")
            return file.getvalue()
    said, unsaid = (struct.pack("<HHL", tag, 3, 1) for tag in (338, 65_000))
    contents = encode(four, "TIFF")
    assert contents.count(said) == 1
    return contents.replace(said, unsaid)


def png16(array: np.ndarray, transparent: bytes = b"") -> bytes:
    """Encode grey or colours as a PNG of 16 bits, as Pillow cannot write it, maybe with a transparent colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in (array.astype(np.uint16) * 257).astype(">u2"))
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2 if array.ndim == 3 else 0, 0, 0, 0)
    colour = chunk(b"tRNS", transparent) if transparent else b""
    parts = (chunk(b"IHDR", head), colour, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp16(array: np.ndarray) -> bytes:
    """Encode colours of 5, 6 and 5 bits as a BMP, which has 16 bits for all three together."""
    colours = array[::-1].astype("<u2") @ np.array([1 << 11, 1 << 5, 1], "<u2")
    head = struct.pack("<IiiHHIIiiII", 40, array.shape[1], array.shape[0], 1, 16, 3, colours.nbytes, 0, 0, 0, 0)
    head += struct.pack("<III", 31 << 11, 63 << 5, 31)
    return (
        b"BM" + struct.pack("<IHHI", 14 + len(head) + colours.nbytes, 0, 0, 14 + len(head)) + head + colours.tobytes()
    )


@pytest.mark.parametrize("name", SAME_GREY)
def test_grey_images_have_one_fingerprint(name: str, tmp_path: Path) -> None:
    """Oracle: the written values, and the fingerprint of 8-bit PNG files in Parquet; class names do not enter here."""
    data = load(SAME_GREY[name](tmp_path))
    expected = torch.from_numpy(GREY)[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(data.train.images, expected)
    if name != "lists without features":
        assert data.fingerprint == load(SAME_GREY["PNG in Parquet"](tmp_path / "eight")).fingerprint


@pytest.mark.parametrize("name", SAME_COLOUR)
def test_colours_have_one_fingerprint(name: str, tmp_path: Path) -> None:
    """Oracle: the written values, and the fingerprint of 8-bit PNG files in Parquet."""
    data = load(SAME_COLOUR[name](tmp_path))
    assert torch.equal(data.train.images, torch.from_numpy(COLOUR).permute(0, 3, 1, 2))
    assert data.fingerprint == load(SAME_COLOUR["PNG in Parquet"](tmp_path / "eight")).fingerprint


@pytest.mark.parametrize("arrays", [GREY, WIDE, COLOUR], ids=["8 bits", "16 bits", "colour"])
def test_a_folder_has_the_fingerprint_of_parquet(arrays: np.ndarray, tmp_path: Path) -> None:
    """Oracle: Parquet of 8-bit PNG files in the folder's order; the hub's own reader gives the same."""
    eight = arrays if arrays.dtype == np.uint8 else GREY
    order = sorted(range(N), key=lambda i: (LABELS[i], i))
    file = write(tmp_path / "x.parquet", stored([encode(eight[i]) for i in order]), datasets.Image(), sorted(LABELS))
    assert load(folder(tmp_path / "folder", arrays)).fingerprint == load(file).fingerprint


def test_the_hub_has_the_fingerprint_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: Parquet of 8-bit PNG files; the library's table of lists in place of the hub's."""
    expected = load(SAME_GREY["PNG in Parquet"](tmp_path)).fingerprint
    file = SAME_GREY["lists of int64"](tmp_path / "hub")
    table = datasets.Dataset.from_parquet(str(file))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": table})
    assert load("hub:owner/toy").fingerprint == expected


def test_one_range_for_all_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: arithmetic by hand: a dark image stays dark, in train and in test, and the output says what is white."""
    bright, dark = np.full((4, 4), 65_535), np.full((4, 4), 200)
    write(tmp_path / "train.parquet", [bright, dark], lists("int64"))
    write(tmp_path / "test.parquet", [dark], lists("int64"))
    data = load(tmp_path, test="test")
    assert data.train.images.flatten(1).unique(dim=1).tolist() == [[255], [1]]
    assert data.test.images.unique().tolist() == [1]
    assert "numbers up to 65,535 in train, so white is 65,535 for all" in capsys.readouterr().out
    assert load(tmp_path, test="test", streamed=True).fingerprint == data.fingerprint


@pytest.mark.parametrize("top", [1, 16, 127, 256, 1023, 4095, 32_767])
def test_a_range_that_does_not_show_is_asked_for(top: int, tmp_path: Path) -> None:
    """Oracle: the value that was written; with the range that is stated, white is white and black is black."""
    image = np.zeros((4, 4), dtype=np.uint16)
    image[0] = top
    for number, contents in enumerate(([encode(image)] * 2, [encode(image, "TIFF")] * 2)):
        file = write(tmp_path / f"{number}.parquet", stored(contents), datasets.Image())
        with pytest.raises(ConfigError, match=rf"up to {top:,} in train.*--set Images.range=255"):
            load(file)
    file = write(tmp_path / "lists.parquet", [image.tolist()] * 2, lists("int32"))
    with pytest.raises(ConfigError, match=rf"up to {top:,} in train"):
        load(file)
    assert load(file, range=top).train.images.unique().tolist() == [0, 255]
    assert load(tmp_path / "0.parquet", range=top).train.images.unique().tolist() == [0, 255]


REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "floats beyond 1": ([np.full((4, 4), 200.0)], lists("float32"), {}, r"value 200.0.* white is 1, by the type"),
    "negative floats": ([np.full((4, 4), -0.5)], lists("float32"), {}, "value -0.5"),
    "not a number": ([np.full((4, 4), np.nan)], lists("float32"), {}, "value nan"),
    "beyond what is stated": ([np.full((4, 4), 300)], lists("int64"), {"range": 255}, "by Images.range = 255"),
    "32 bits": ([np.full((4, 4), 70_000)], lists("int64"), {}, "value 70,000, beyond 16 bits"),
    "unequal rows": ([[[1, 2], [3]]], lists("int64"), {}, "not of one length"),
    "absent numbers": ([[[1, None], [3, 4]]], lists("int64"), {}, "numbers are absent"),
    "no rows": ([[]], lists("int64"), {}, "not of one length|without any pixel"),
    "no image": ([None], lists("int64"), {}, "row has no image"),
    "four channels": (np.zeros((1, 4, 4, 4), np.uint8), datasets.Array3D((4, 4, 4), "uint8"), {}, "neither end is 1"),
    "two ends": (np.zeros((1, 3, 4, 3), np.uint8), datasets.Array3D((3, 4, 3), "uint8"), {}, "either end may be"),
    "a flat row": ([[1, 2, 3, 4]], datasets.Sequence(datasets.Value("int64")), {}, "expected a column of images"),
    "an empty row": (stored([None]), datasets.Image(), {}, "row has no image"),
    "8 bits with a range": (stored([encode(GREY[0])]), datasets.Image(), {"range": 255}, "says itself what is white"),
    "dark 16-bit colours": (stored([png16(COLOUR[0] // 16)]), datasets.Image(), {}, "do not show what is white"),
    "16-bit colours of 12": (stored([png16(COLOUR[0])]), datasets.Image(), {"range": 4095}, "the higher 8 are read"),
    "a transparent grey of 16 bits": (stored([png16(GREY[0], b"\0\0")]), datasets.Image(), {}, "one colour that is"),
    "a transparent colour of 16 bits": (
        stored([png16(COLOUR[0], bytes(6))]),
        datasets.Image(),
        {},
        "one colour that is",
    ),
    "infrared": (stored([infrared(0)]), datasets.Image(), {}, "4 bands, of which 1 are neither a colour"),
    "infrared, of which nothing is said": (stored([infrared(None)]), datasets.Image(), {}, "4 bands, of which 1 are"),
    "pages": (
        stored([encode(GREY[0], "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))] * 12)]),
        datasets.Image(),
        {},
        "13 pages",
    ),
    "PostScript": (stored([encode(COLOUR[0], "EPS")]), datasets.Image(), {}, "PostScript, a program"),
    "a pointer": (stored([b"version https://git-lfs.github.com/spec/v1\n"]), datasets.Image(), {}, "git lfs pull"),
    "HEIC": (
        stored([b"\0\0\0\x18ftypheic" + bytes(50)]),
        datasets.Image(),
        {},
        "it is HEIC, which Pillow does not read",
    ),
    "DICOM": (stored([bytes(128) + b"DICM" + bytes(50)]), datasets.Image(), {}, "it is DICOM"),
    "a file of NumPy": (stored([b"\x93NUMPY" + bytes(50)]), datasets.Image(), {}, "an array of NumPy"),
    "a strange TIFF": (stored([b"II*\0" + bytes(20)]), datasets.Image(), {}, "a TIFF whose bands"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_said(name: str, tmp_path: Path) -> None:
    """Oracle: what was written; a whole image is not called damaged."""
    images, feature, arguments, message = REFUSED[name]
    file = write(tmp_path / "x.parquet", images, feature)
    with pytest.raises(BenchmarkError, match=message) as refusal:
        load(file, **arguments)
    assert "Restore it" not in str(refusal.value)


def test_images_of_8_bits_beside_wider_ones(tmp_path: Path) -> None:
    """Oracle: the written values, whether train decides or the number is stated, which is for the wider ones alone."""
    file = write(tmp_path / "x.parquet", stored([encode(GREY[0]), encode(WIDE[0])]), datasets.Image())
    for arguments in ({}, {"range": 65_535}):
        images = load(file, **arguments).train.images
        assert torch.equal(images[0], images[1])
        assert torch.equal(images[0, 0], torch.from_numpy(GREY[0]))


def test_colours_of_16_bits_together_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: arithmetic by hand: 5 and 6 bits fill 8 bits; a dark image needs no decision."""
    bits = COLOUR[0] // np.array([16, 8, 16], np.uint8)
    file = write(tmp_path / "x.parquet", stored([bmp16(bits)]), datasets.Image())
    expected = torch.from_numpy(bits.astype(int) * 255 // np.array([31, 63, 31])).permute(2, 0, 1)
    assert torch.equal(load(file).train.images[0], expected.to(torch.uint8))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("row", "message"), [([[1, 2], [3]], "are not of one length"), ([[], []], "shape is .2, 0., without any pixel")]
)
def test_the_image_that_cannot_be_read_is_named(row: list[list[int]], message: str, tmp_path: Path) -> None:
    """Oracle: the row that the test writes last, while the first one asks what is white in all of train."""
    file = write(tmp_path / "x.parquet", [*GREY[:3].tolist(), row], lists("int64"))
    with pytest.raises(MissingError, match=rf"Image 3 of split 'train' .*{message}") as refusal:
        load(file)
    assert "Restore it" not in str(refusal.value)


def test_declared_transparency_of_a_tiff_is_read(tmp_path: Path) -> None:
    """Oracle: PNG files with the same four bands."""
    four = np.random.default_rng(2).integers(0, 256, (N, 4, 4, 4), dtype=np.uint8)
    prints = set()
    for kind in ("PNG", "TIFF"):
        file = write(tmp_path / f"{kind}.parquet", stored([encode(image, kind) for image in four]), datasets.Image())
        prints.add(load(file).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_stored_size_is_that_of_the_upright_image(kind: str, orientation: int) -> None:
    """Oracle: the decoded image, whose mask or boxes are measured by it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    item = {"bytes": encode(np.zeros((4, 6, 3), np.uint8), kind, exif=exif), "path": None}
    height, width = stored_size(item)
    assert (
        (width, height)
        == decode(item, White(None, 1, lambda ids: [item], opened, "toy")).size
        == ((4, 6) if orientation > 4 else (6, 4))
    )


def test_more_pixels_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the limit that the test sets; the image is whole."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = write(tmp_path / "x.parquet", stored([encode(np.zeros((20, 20), np.uint8))]), datasets.Image())
    with pytest.raises(MissingError, match=r"more than 200 pixels.*may be whole") as refusal:
        load(file)
    assert "Restore it" not in str(refusal.value)


def test_what_train_decided_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: at each start it is decided and said again, so that another train split decides anew."""
    one = np.full((4, 4), 200)
    for top, expected in ((200, 200), (65_535, 1), (200, 200)):
        write(tmp_path / "train.parquet", [np.full((4, 4), top)] * 2, datasets.Image())
        write(tmp_path / "test.parquet", [one], datasets.Image())
        assert load(tmp_path, test="test").test.images.unique().tolist() == [expected]
        assert f"up to {top:,} in train" in capsys.readouterr().out
    assert not re.search("up to", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("label", "kind"), [("", "string"), ("  ", "string"), (True, "bool")], ids=["empty", "blank", "bool"]
)
def test_labels_that_name_no_class(label: Any, kind: str, tmp_path: Path) -> None:
    """Oracle: the label that was written."""
    features = datasets.Features(image=datasets.Image(), label=datasets.Value(kind))
    rows = {"image": stored([encode(GREY[0])] * 2), "label": [label, label]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match=rf"Label {label!r} of image 0"):
        load(tmp_path / "x.parquet")
