"""Decoded images on disk: the pixels of the source as it is now, decoded once, in bounded space."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from benchmark.data import cache, decode, formats, white
from benchmark.data.dataset import Dataset
from benchmark.data.decode import Stored
from benchmark.data.images import Images
from benchmark.errors import MissingError

N = 6
FILE_BYTES = 32 + N * 3 * 4 * 4


class Decoder:
    """Counts the images that are decoded; `pause` is the seconds that each takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.pause = 0, 0.0
        plain = decode.decode

        def counted(*arguments: Any) -> Any:
            self.calls += 1
            time.sleep(self.pause)
            return plain(*arguments)

        monkeypatch.setattr(decode, "decode", counted)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    return Decoder(monkeypatch)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of decoded images, which is empty."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ssl-benchmark/pixels"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source")


def write(root: Path, seed: int = 0) -> Path:
    """Write six images of 4 px as BMP, files of equal length, in two classes, as split `train`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (N, 4, 4, 3), dtype=np.uint8)
    for i in range(N):
        folder = root / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(folder / f"{i}.bmp")
    return root


def load(root: Path, **arguments: Any) -> Dataset:
    return Images(**{"name": "toy", "source": f"folder:{root}", "size": 4, "test": None} | arguments)()


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.stat().st_size)


def equal(a: Dataset, b: Dataset) -> bool:
    figures = all(getattr(a, name) == getattr(b, name) for name in ("fingerprint", "mean", "std", "classes", "size"))
    return figures and torch.equal(a.train.images[:], b.train.images[:]) and torch.equal(a.train.labels, b.train.labels)


def test_a_second_start_decodes_nothing(source: Path, kept: Path, decoder: Decoder) -> None:
    """Oracle: the first load, and the number of images; the tensor is a common one that may be written to."""
    first = load(source)
    assert decoder.calls == N
    second = load(source)
    assert decoder.calls == N
    assert equal(first, second)
    assert second.pretrain is second.train.images
    assert second.train.images.is_contiguous()
    second.train.images.zero_()
    assert equal(first, load(source))
    assert [file.stat().st_size for file in files(kept)] == [FILE_BYTES]


def test_the_folder_is_the_users(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the place that the manual names, where no other is set."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(source)
    assert len(files(tmp_path / "home/.cache/ssl-benchmark/pixels")) == 1


def test_every_kind_of_source(source: Path, kept: Path, tmp_path: Path, decoder: Decoder) -> None:
    """Oracle: files and the same bytes in Parquet share a file; other labels are seen; the digits are kept too."""
    first = load(source)
    paths = sorted(source.rglob("*.bmp"))
    for name, labels in (("same", "aaabbb"), ("other", "ababab")):
        rows = {"image": [{"bytes": path.read_bytes(), "path": None} for path in paths], "label": list(labels)}
        features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
        data = load(source, source=f"parquet:{tmp_path / name}.parquet")
        assert equal(first, data) == (name == "same")
        assert torch.equal(first.train.images, data.train.images)
    assert decoder.calls == N
    digits = [Images(name="digits", source="sklearn:digits", size=8)() for _ in range(2)]
    assert decoder.calls == N + 1797
    assert digits[0].fingerprint == digits[1].fingerprint


def test_changed_bytes_are_decoded(source: Path, kept: Path, decoder: Decoder) -> None:
    """Oracle: the written pixels, though name, length and date of the file are as before."""
    first = load(source)
    file = source / "train/a/0.bmp"
    before = file.stat()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    second = load(source)
    assert second.train.images[0, :, 0, 0].tolist() == [1, 2, 3]
    assert torch.equal(second.train.images[1:], first.train.images[1:])
    assert decoder.calls == 2 * N


def test_the_name_has_all_that_pixels_depend_on(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: names that differ for each change alone; and one that does not for the same bytes."""

    def name(*contents: bytes, size: int = 4, stated: float | None = None) -> str | None:
        stored = [{"bytes": content, "path": None} for content in contents]

        def items(ids: list[int] | range) -> list[Any]:
            return [stored[i] for i in ids]

        shown = white.White(stated, len(stored), items, formats.opened, "x")
        return cache._key(Stored(len(stored), items, size, "x", shown))

    names = [name(b"ab", b"c"), name(b"a", b"bc"), name(b"c", b"ab"), name(b"ab"), name(b"ab", b"c", size=5)]
    names.append(name(b"ab", b"c", stated=255))
    code = tmp_path / "decode.py"
    code.write_text("another decoder")
    for owner, attribute, value in (
        (decode, "__file__", str(code)),
        (formats, "__file__", str(code)),
        (white, "__file__", str(code)),
        (cache.PIL, "__version__", "0.1"),
        (cache.features, "version", lambda name: "0.1"),
        (Image, "MAX_IMAGE_PIXELS", 100),
        (ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, value)
            names.append(name(b"ab", b"c"))
    assert None not in names
    assert len(set(names)) == len(names)
    assert name(b"ab", b"c") == names[0]


def test_damaged_files_are_written_again(source: Path, kept: Path, tmp_path: Path, decoder: Decoder) -> None:
    """Oracle: the first load, after each damage and once more from the file that was written again."""
    first = load(source)
    (file,) = files(kept)
    sound = file.read_bytes()
    load(write(tmp_path / "other", seed=1))
    (other,) = set(files(kept)) - {file}
    for content in (
        sound[:-1],
        sound[:16],
        b"x" + sound[1:],
        sound[:-1] + bytes([sound[-1] ^ 1]),
        bytes(FILE_BYTES),
        other.read_bytes(),
    ):
        file.write_bytes(content)
        decoder.calls = 0
        assert equal(first, load(source))
        assert equal(first, load(source))
        assert decoder.calls == N
        assert file.read_bytes() == sound


def test_a_short_file_is_not_sound_whatever_memory_holds(
    source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: None, where the memory that a file is read into happens to hold the byte that it lacks."""
    pixels = load(source).train.images[:]
    (file,) = files(kept)
    assert cache._read(file, pixels.shape) is not None
    file.write_bytes(file.read_bytes()[:-1])
    with monkeypatch.context() as memory:
        memory.setattr(torch, "empty", lambda *_, **__: pixels.clone())
        assert cache._read(file, pixels.shape) is None


def test_the_oldest_use_goes_first(
    kept: Path, tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: room for two and a half: of three, the one not used for longest is decoded again.

    Where one alone is too large, it is decoded at each start.
    """
    roots = [write(tmp_path / str(seed), seed) for seed in range(3)]
    monkeypatch.setattr(cache, "MOST_BYTES", 5 * FILE_BYTES // 2)

    def decoded(root: Path) -> bool:
        before = decoder.calls
        load(root)
        time.sleep(0.01)  # a date of its own
        return decoder.calls > before

    assert [decoded(roots[i]) for i in (0, 1, 0, 2)] == [True, True, False, True]
    assert len(files(kept)) == 2
    (kept / ".x.claim").write_text("{}")
    os.utime(kept / ".x.claim", (0, 0))
    assert [decoded(roots[i]) for i in (0, 2, 1)] == [False, False, True]
    monkeypatch.setattr(cache, "MOST_BYTES", FILE_BYTES - 33)
    assert decoded(roots[2])
    assert decoded(roots[2])
    assert (kept / ".x.claim").exists()


def test_what_a_killed_process_left_is_removed(source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the files in the folder: the old part of a file goes, the new file stays."""
    kept.mkdir(parents=True)
    left = kept / ".name.0123.partial"
    left.write_bytes(bytes(FILE_BYTES))
    os.utime(left, (0, 0))
    monkeypatch.setattr(cache, "MOST_BYTES", FILE_BYTES)
    load(source)
    assert len(files(kept)) == 1
    assert not left.exists()


@contextmanager
def _full(path: Path) -> Iterator[Path]:
    yield path.with_name("partial")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_a_place_images_are_decoded(
    source: Path, kept: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the data set that was kept; one line in the system's words, where a folder cannot be made or is full."""
    first = load(source)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "atomic_write", _full)
        (kept / files(kept)[0]).unlink()
        capsys.readouterr()
        for _ in range(2):
            assert equal(first, load(source))
        assert capsys.readouterr().out == f"decoded images are not kept in {kept}: No space left on device\n"
    monkeypatch.setenv("XDG_CACHE_HOME", str(source / "train/a/0.bmp"))
    assert equal(first, load(source))
    assert capsys.readouterr().out.count("\n") == 1
    assert decoder.calls == 4 * N


def test_two_at_once_decode_once(source: Path, kept: Path, decoder: Decoder) -> None:
    """Oracle: the number of images, which take longer than both need to begin; and equal pixels."""
    decoder.pause = 0.02
    images = Images(name="toy", source=f"folder:{source}", size=4, test=None)
    outlines, results = [images.outline() for _ in range(2)], list[Any]()
    starts = [threading.Thread(target=lambda x=x: results.append(cache.decoded(x.train.images))) for x in outlines]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert decoder.calls == N
    assert torch.equal(*results)


def test_files_that_change_meanwhile_are_not_kept(source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: no file, where one was written while others were decoded; once it is at rest, the new pixels are kept."""
    outline = Images(name="toy", source=f"folder:{source}", size=4, test=None).outline()
    plain = decode.decode

    def changing(*arguments: Any) -> Any:
        Image.new("RGB", (4, 4), (1, 2, 3)).save(source / "train/b/5.bmp")
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", changing)
        cache.decoded(outline.train.images)
    assert files(kept) == []
    assert load(source).train.images[-1, :, 0, 0].tolist() == [1, 2, 3]
    assert len(files(kept)) == 1


def test_an_absent_image_is_named(source: Path, kept: Path) -> None:
    """Oracle: the message of decoding, for a file that was removed after the tables were read; nothing is kept."""
    images = Images(name="toy", source=f"folder:{source}", size=4, test=None)
    images()
    outline = images.outline()
    (source / "train/a/2.bmp").unlink()
    with pytest.raises(MissingError, match=r"Image 1 \(.*a/2.bmp\) of split 'train' of toy cannot be read"):
        images.decoded(outline)


def test_streamed_images_are_not_kept(source: Path, kept: Path, decoder: Decoder) -> None:
    """Oracle: no folder; and decoding anew, train twice, where resident images have been kept."""
    first = load(source, streamed=True)
    assert not kept.exists()
    assert equal(first, load(source))
    decoder.calls = 0
    load(source, streamed=True)
    assert decoder.calls == 2 * N
