"""Loading images: every way to give them, every kind of image, every way in which they can be wrong."""

import io
import itertools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from benchmark.data.dataset import Dataset
from benchmark.data.decode import decode, square
from benchmark.data.formats import opened
from benchmark.data.images import Images
from benchmark.data.white import White, each
from benchmark.errors import ConfigError, MissingError

DATA = os.environ.get("SSL_BENCHMARK_DATA")
LABELS = [0, 0, 1, 1, 2, 2]
NAMES = ["ant", "bee", "cow"]
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_8 = "63c5ead8a44d06e5cefc50f21b82e98f79b8ad1ff8ec1593f3b9dc5520dc2b38"

pytestmark = pytest.mark.usefixtures("no_other_data")


def picture(seed: int, width: int = 4, height: int = 4) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def write_parquet(
    file: Path,
    images: Sequence[bytes | None] | None = None,
    labels: Sequence[Any] | None = LABELS,
    kind: str | Sequence[str] = NAMES,
    image: str = "image",
    label: str = "label",
) -> None:
    """Write one split; `kind` is the labels' type or their class names."""
    images = [encode(picture(i)) for i in range(len(labels or LABELS))] if images is None else images
    columns: dict[str, Any] = {image: [None if data is None else {"bytes": data, "path": None} for data in images]}
    features: dict[str, Any] = {image: datasets.Image()}
    if labels is not None:
        columns[label] = labels
        features[label] = datasets.Value(kind) if isinstance(kind, str) else datasets.ClassLabel(names=list(kind))
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(file)


def write_folder(root: Path, ids: Sequence[int]) -> None:
    """Write the rows of `write_parquet` as <split>/<class>/<id>.png, in the order of `ids`."""
    for split in ("train", "test"):
        for i in ids:
            folder = root / split / NAMES[LABELS[i]]
            folder.mkdir(parents=True, exist_ok=True)
            picture(i).save(folder / f"{i}.png")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with the same six labelled images as train and as test split."""
    root = tmp_path / "toy"
    root.mkdir()
    write_parquet(root / "train.parquet")
    write_parquet(root / "test.parquet")
    return root


def load(source: str | Path, size: int = 4, **arguments: Any) -> Dataset:
    if isinstance(source, Path):
        source = f"parquet:{source}"
    return Images(name="toy", source=source, size=size, **arguments)()


def labels(data: Dataset) -> tuple[list[int], list[int]]:
    return data.train.labels.tolist(), data.test.labels.tolist()


def test_digits() -> None:
    """Oracle: scikit-learn's own arrays, the documented share of each class, and a fingerprint once written down."""
    from sklearn.datasets import load_digits

    data, bunch = load("sklearn:digits", size=8), load_digits()
    train, test = labels(data)
    counts = np.bincount(bunch.target)
    assert np.bincount(test).tolist() == [n // 5 for n in counts]
    assert np.bincount(train).tolist() == [n - n // 5 for n in counts]
    grey = torch.cat([data.train.images, data.test.images]).numpy()
    assert (grey == grey[:, :1]).all()
    ours = Counter((image[0].tobytes(), label) for image, label in zip(grey, train + test, strict=True))
    rounded = np.floor(bunch.images * 255 / 16 + 0.5).astype(np.uint8)
    assert ours == Counter((image.tobytes(), label) for image, label in zip(rounded, bunch.target, strict=True))
    assert data.classes == tuple("0123456789")
    assert data.fingerprint == DIGITS_8


def test_digits_need_no_other_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the fingerprint, where these cannot be imported; and by scikit-learn's reader once its file has moved."""
    with monkeypatch.context() as patch:
        for name in ("datasets", "sklearn.datasets"):
            patch.setitem(sys.modules, name, None)
        assert load("sklearn:digits", size=8).fingerprint == DIGITS_8
    monkeypatch.setattr("benchmark.data.sources.DIGITS", "elsewhere.csv.gz")
    assert load("sklearn:digits", size=8).fingerprint == DIGITS_8


def test_parquet(toy: Path) -> None:
    """Oracle: the images and labels that were written; pretraining shares the train split's memory."""
    data = load(toy)
    assert data.name == "toy"
    assert data.classes == tuple(NAMES)
    assert data.size == 4
    assert labels(data) == (LABELS, LABELS)
    assert torch.equal(data.train.images, torch.stack([pixels(picture(i)) for i in range(6)]))
    assert torch.equal(data.train.images, data.test.images)
    assert data.pretrain is data.train.images
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.is_contiguous()


def test_parquet_shards_are_joined_in_order(toy: Path) -> None:
    """Oracle: the split in one file; a file of another split that lies between them is not read."""
    whole = load(toy).fingerprint
    (toy / "train.parquet").unlink()
    for part in range(2):
        rows = range(3 * part, 3 * part + 3)
        write_parquet(
            toy / f"train-{part:05}-of-00002.parquet",
            [encode(picture(i)) for i in rows],
            LABELS[rows.start : rows.stop],
        )
    write_parquet(toy / "unlabeled.parquet", labels=None)
    assert load(toy).fingerprint == whole
    assert load(f"parquet:{toy}/t*.parquet").fingerprint == whole


def test_parquet_file_is_the_train_split(tmp_path: Path) -> None:
    """Oracle: the written labels; without a test split there is an empty one."""
    write_parquet(tmp_path / "anything [1].parquet")
    data = load(tmp_path / "anything [1].parquet", test=None)
    assert data.train.labels.tolist() == LABELS
    assert data.test.images.shape == (0, 3, 4, 4)
    assert data.test.labels is None


def test_folder_equals_parquet(tmp_path: Path, toy: Path) -> None:
    """Oracle: the fingerprint of the same rows in Parquet, whatever the order of writing and the name of the folder."""
    write_folder(tmp_path / "a [1] *", range(6))
    write_folder(tmp_path / "b", range(6)[::-1])
    (tmp_path / "b/train/ant/notes.txt").write_text("not an image")
    (tmp_path / "b/train/ant/.0.png").write_bytes(b"hidden")
    expected = load(toy).fingerprint
    assert load(f"folder:{tmp_path}/a [1] *").fingerprint == expected
    assert load(f"folder:{tmp_path}/b").fingerprint == expected


def test_folder_follows_links_to_classes(tmp_path: Path) -> None:
    """Oracle: the fingerprint of the folder that is linked to."""
    write_folder(tmp_path / "real", range(6))
    for split in ("train", "test"):
        (tmp_path / "subset" / split).mkdir(parents=True)
        for name in NAMES:
            (tmp_path / "subset" / split / name).symlink_to(tmp_path / "real" / split / name)
    assert load(f"folder:{tmp_path}/subset").fingerprint == load(f"folder:{tmp_path}/real").fingerprint


def test_folder_refuses_loops_and_pipes(tmp_path: Path) -> None:
    """Oracle: the link to a folder around it, which would show each image many times, and the pipe, which would never
    end, each by its path; a folder that is named like an image is only a folder."""
    write_folder(tmp_path, range(6))
    place = tmp_path / "train" / NAMES[0]
    (place / "x.png").mkdir()
    assert len(load(f"folder:{tmp_path}").train.labels) == 6
    (place / "around").symlink_to("..")
    with pytest.raises(MissingError, match=f"{place}/around is a link to a folder around it"):
        load(f"folder:{tmp_path}")
    (place / "around").unlink()
    os.mkfifo(place / "pipe.png")
    with pytest.raises(MissingError, match=r"pipe\.png is named like an image and is no file"):
        load(f"folder:{tmp_path}")


def test_folder_test_split_lacks_a_class(tmp_path: Path) -> None:
    """Oracle: the classes' places among all three, not among the two that the test split has."""
    write_folder(tmp_path, range(6))
    for file in (tmp_path / "test/ant").iterdir():
        file.unlink()
    (tmp_path / "test/ant").rmdir()
    assert labels(load(f"folder:{tmp_path}"))[1] == [1, 1, 2, 2]


def test_folder_without_labels(tmp_path: Path) -> None:
    """Oracle: the written images in the order of their names; no classes, no labels."""
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    data = load(f"folder:{tmp_path}", test=None)
    assert torch.equal(data.pretrain, torch.stack([pixels(picture(i)) for i in range(3)]))
    assert data.train.labels is None
    assert data.classes == ()


def test_labels_need_train_labels(toy: Path) -> None:
    """Oracle: the classes are those of the train split, which has none here, so the test labels mean nothing."""
    write_parquet(toy / "train.parquet", labels=None)
    data = load(toy)
    assert data.classes == ()
    assert data.test.labels is None


def test_pretrain_split(toy: Path) -> None:
    """Oracle: the written images; labels of -1 are not read, since nothing but images is pretrained on."""
    write_parquet(toy / "unlabeled.parquet", [encode(picture(9))] * 2, [-1, -1], kind="int64")
    data = load(toy, pretrain="unlabeled")
    assert torch.equal(data.pretrain, torch.stack([pixels(picture(9))] * 2))
    assert torch.equal(data.train.images, load(toy).train.images)
    assert data.fingerprint != load(toy).fingerprint


def test_local_folder_replaces_the_hub(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the same rows read directly, as Parquet and as image folder."""
    expected = load(toy).fingerprint
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(tmp_path))
    assert load("hub:nobody/else").fingerprint == expected
    write_folder(tmp_path / "other/toy", range(6))
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(tmp_path / "other"))
    assert load("hub:nobody/else").fingerprint == expected


def test_hub(monkeypatch: pytest.MonkeyPatch, toy: Path) -> None:
    """Oracle: the same rows from Parquet; the library is asked for the repository, and a configuration if named."""
    splits = {split: datasets.Dataset.from_parquet(str(toy / f"{split}.parquet")) for split in ("train", "test")}
    hub = {("owner/toy", None): splits, ("owner/toy", "small"): splits}
    monkeypatch.setattr(datasets, "load_dataset", lambda *asked: hub[asked])
    assert load("hub:owner/toy").fingerprint == load(toy).fingerprint
    assert load("hub:owner/toy:small").fingerprint == load(toy).fingerprint


def test_fingerprint_sees_pixels_labels_classes_and_size(toy: Path) -> None:
    """Oracle: six data sets that differ in one thing each have six fingerprints; a reread has the same."""
    prints = [load(toy).fingerprint, load(toy, size=5).fingerprint, load(toy, test=None).fingerprint]
    changed = picture(5)
    changed.putpixel((0, 0), tuple(value ^ 1 for value in changed.getpixel((0, 0))))
    images = [encode(picture(i)) for i in range(5)]
    write_parquet(toy / "test.parquet", [*images, encode(changed)])
    prints.append(load(toy).fingerprint)
    write_parquet(toy / "test.parquet", labels=[*LABELS[:-1], 1])
    prints.append(load(toy).fingerprint)
    write_parquet(toy / "train.parquet", kind=[*NAMES, "dog"])
    write_parquet(toy / "test.parquet")
    prints.append(load(toy).fingerprint)
    assert len(set(prints)) == len(prints)
    write_parquet(toy / "train.parquet")
    assert load(toy).fingerprint == prints[0]
    assert Images(name="renamed", source=f"parquet:{toy}", size=4)().fingerprint == prints[0]


def test_copies_of_test_images_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: by hand: two of three test images are written among the others too, one of them to pretrain on alone."""
    for split, ids in (("train", (0, 1, 2, 3)), ("more", (4, 5)), ("test", (3, 5, 9))):
        images = [encode(picture(i)) for i in ids]
        write_parquet(tmp_path / f"{split}.parquet", images, [0, 1, 1, 0][: len(ids)], NAMES[:2])
    load(f"parquet:{tmp_path}", pretrain="more")
    assert capsys.readouterr().err.startswith("note: 2 of 3 test images of toy are also among")
    load(f"parquet:{tmp_path}")
    assert capsys.readouterr().err.startswith("note: 1 of 3 test images")
    load(f"parquet:{tmp_path}", test="more")
    assert capsys.readouterr().err == ""


def test_mean_and_std(toy: Path) -> None:
    """Oracle: torch's mean and population standard deviation of the train pixels in float64."""
    write_parquet(toy / "test.parquet", [encode(Image.new("RGB", (4, 4), "white"))], [0])
    data = load(toy)
    values = data.train.images.double() / 255
    assert data.mean == tuple(round(value, 6) for value in values.mean((0, 2, 3)).tolist())
    assert data.std == tuple(round(value, 6) for value in values.std((0, 2, 3), correction=0).tolist())


RED = (200, 30, 90)


def _palette() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    return image


def _upright(orientation: int) -> bytes:
    """A 4 x 4 image whose upper left pixel is red, stored turned, with the tag that turns it back."""
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image = Image.new("RGB", (4, 4))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image.transpose(turn[orientation]), exif=exif)


def _sixteen(values: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4), values, dtype=np.uint16))


def _corner() -> Tensor:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[:, 0, 0] = torch.tensor(RED)
    return image


def _flat(red: int, green: int, blue: int) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)


MODES = {
    "1": (encode(Image.new("1", (4, 4), 1)), _flat(255, 255, 255)),
    "L": (encode(Image.new("L", (4, 4), 77)), _flat(77, 77, 77)),
    "LA": (encode(Image.new("LA", (4, 4), (200, 51))), _flat(40, 40, 40)),
    "P": (encode(_palette()), _flat(*RED)),
    "P transparent": (encode(_palette(), transparency=1), _flat(0, 0, 0)),
    "RGB": (encode(Image.new("RGB", (4, 4), RED)), _flat(*RED)),
    "RGB with a transparent colour": (encode(Image.new("RGB", (4, 4), RED), transparency=RED), _flat(0, 0, 0)),
    "RGBA": (encode(Image.new("RGBA", (4, 4), (*RED, 102))), _flat(80, 12, 36)),
    "RGBA opaque": (encode(Image.new("RGBA", (4, 4), (*RED, 255))), _flat(*RED)),
    "CMYK": (encode(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), _flat(255, 0, 0)),
    "I;16": (encode(_sixteen(0x8080)), _flat(128, 128, 128)),
    "I;16 dark": (encode(_sixteen(300)), _flat(1, 1, 1)),
    "I": (encode(Image.new("I", (4, 4), 65_535), "TIFF"), _flat(255, 255, 255)),
    "F": (encode(Image.new("F", (4, 4), 0.2), "TIFF"), _flat(51, 51, 51)),
    "animated": (
        encode(Image.new("RGB", (4, 4), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]),
        _flat(255, 0, 0),
    ),
    "turned by 180 degrees": (_upright(3), _corner()),
    "turned left": (_upright(6), _corner()),
    "turned right": (_upright(8), _corner()),
}


def test_modes(tmp_path: Path) -> None:
    """Oracle: the colour by hand; transparency over black, 16 bits divided by 257, [0, 1] floats times 255."""
    write_parquet(tmp_path / "x.parquet", [data for data, _ in MODES.values()], [0] * len(MODES))
    images = load(tmp_path / "x.parquet", test=None).train.images
    for image, (mode, (_, expected)) in zip(images, MODES.items(), strict=True):
        assert torch.equal(image, expected), mode


FORMATS = {
    "BMP": [{}],
    "GIF": [{}],
    "JPEG": [{}, {"progressive": True, "subsampling": 2}],
    "PNG": [{}, {"interlace": 1}, {"optimize": True}],
    "PPM": [{}],
    "TIFF": [{}],
    "WEBP": [{"lossless": True}, {"quality": 50}],
}


def test_formats() -> None:
    """Oracle: Pillow's own choice of the format, conversion and resize of the same bytes, at the size and beside it."""
    for kind, options in FORMATS.items():
        for option, mode in itertools.product(options, ("RGB", "L")):
            data = encode(picture(0, 9, 9).convert(mode), kind, **option)
            for size in (9, 6):
                with Image.open(io.BytesIO(data)) as image:
                    expected = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
                item = {"bytes": data, "path": None}
                white = White(None, 1, lambda ids: [item for _ in ids], opened, "toy")  # noqa: B023
                assert np.array_equal(square(decode(item, white), size, None), np.array(expected)), (kind, option)


def test_resize(tmp_path: Path) -> None:
    """Oracle: torchvision's antialiased bicubic resize of the shorter side, then its centre crop, on PIL images.

    It rounds between the two, so values may differ by one; an image of the right size stays as it is.
    """
    photos = [picture(0, *sides) for sides in ((40, 20), (20, 40), (30, 30), (5, 8), (10, 10))]
    write_parquet(tmp_path / "x.parquet", [encode(photo) for photo in photos], [0] * len(photos))
    for photo, image in zip(photos, load(tmp_path / "x.parquet", size=10, test=None).train.images, strict=True):
        resized = F.resize(photo, [10], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
        expected = pixels(F.center_crop(resized, [10, 10]))
        assert (image.int() - expected.int()).abs().max() <= (photo.width != photo.height)


UNREADABLE = {
    "truncated": encode(picture(0, 64, 64), "JPEG")[:-200],
    "truncated PNG": encode(picture(0, 64, 64))[:-200],
    "empty": b"",
    "not an image": b"<html>404</html>",
    "absent": None,
    "decompression bomb": encode(Image.new("1", (200, 200))),
    "32 bits": encode(Image.new("I", (4, 4), 65_536), "TIFF"),
    "negative": encode(Image.new("I", (4, 4), -1), "TIFF"),
    "float beyond 1": encode(Image.new("F", (4, 4), 1.5), "TIFF"),
    "nan": encode(Image.new("F", (4, 4), float("nan")), "TIFF"),
}


def test_unreadable_image(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the message names the place at which the image was put."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for unreadable in UNREADABLE.values():
        write_parquet(toy / "test.parquet", [encode(picture(0)), encode(picture(1)), unreadable], [0, 1, 2])
        with pytest.raises(MissingError, match="Image 2 of split 'test' of toy cannot be read"):
            load(toy)


def test_unreadable_images_are_named_together(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the first with what is wrong, then the others, at most twenty; none where there is no time to look,
    or where the source cannot be read any further."""
    good, cut = encode(picture(1)), encode(picture(0))[:-40]
    write_parquet(toy / "test.parquet", [cut, good, cut, cut, *[good] * 40, cut], [0] * 45)
    with pytest.raises(MissingError, match=r"^Image 0 of .* Nor can, of the 44 images after it: 2, 3, 44\.$"):
        load(toy)
    write_parquet(toy / "test.parquet", [cut] * 23, [0] * 23)
    with pytest.raises(MissingError, match=r"^Image 0 of .* of the 20 images after it: 1, 2, .*, 19, 20\.$"):
        load(toy)
    monkeypatch.setattr("benchmark.data.decode.AT_ONCE", 4)

    def lost(items: Any, ids: list[int]) -> Any:
        if ids == [1, 2, 3, 4]:
            raise OSError
        return each(items, ids)

    monkeypatch.setattr("benchmark.data.decode.each", lost)
    with pytest.raises(MissingError, match=r"^Image 0 of .*replaced\.$"):
        load(toy)
    monkeypatch.undo()
    monkeypatch.setattr("benchmark.data.decode.LOOKED", 0.0)
    with pytest.raises(MissingError, match=r"^Image 0 of .*replaced\.$"):
        load(toy)


def test_labels_of_any_type(tmp_path: Path) -> None:
    """Oracle: values are sorted as what they are (4 before 30); declared classes keep their order."""
    for values, kind, classes in (
        (["cow", "ant", "bee"], "string", ("ant", "bee", "cow")),
        ([30, 4, 5], "int64", ("4", "5", "30")),
        ([2, 0, 1], ["cow", "bee", "ant"], ("cow", "bee", "ant")),
    ):
        write_parquet(tmp_path / "x.parquet", labels=values, kind=kind)
        data = load(tmp_path / "x.parquet", test=None)
        assert data.classes == classes
        assert (data.train.labels.tolist(), data.train.labels.dtype) == ([2, 0, 1], torch.int64)


def test_test_labels_mean_the_same_classes(toy: Path) -> None:
    """Oracle: the test file lists its classes in another order, so its numbers have to change."""
    write_parquet(toy / "test.parquet", labels=[0, 1, 2], kind=["cow", "bee", "ant"])
    assert labels(load(toy))[1] == [2, 1, 0]


def test_conventional_columns(tmp_path: Path) -> None:
    """Oracle: the written labels; `img` and `fine_label` are found, another class column beside them is not taken."""
    features = {"img": datasets.Image(), "extra": datasets.Image()}
    features |= {name: datasets.ClassLabel(names=NAMES) for name in ("coarse_label", "fine_label")}
    image = {"bytes": encode(picture(0)), "path": None}
    rows = {"img": [image] * 2, "extra": [None] * 2, "coarse_label": [0, 0], "fine_label": [2, 1]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(tmp_path / "x.parquet")
    data = load(tmp_path / "x.parquet", test=None)
    assert data.train.labels.tolist() == [2, 1]
    data = load(tmp_path / "x.parquet", test=None, label="coarse_label")
    assert data.train.labels.tolist() == [0, 0]


def test_columns_of_any_name(tmp_path: Path) -> None:
    """Oracle: the written rows; the only image column and the only class column need no name."""
    write_parquet(tmp_path / "x.parquet", image="photo", label="species")
    data = load(tmp_path / "x.parquet", test=None)
    assert data.classes == tuple(NAMES)
    assert torch.equal(data.train.images[0], pixels(picture(0)))


def test_images_without_embedded_features(tmp_path: Path) -> None:
    """Oracle: the image that was written as plain bytes by another library."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"image": [encode(picture(3))], "label": [0]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert torch.equal(load(tmp_path / "x.parquet", test=None).train.images[0], pixels(picture(3)))


def test_unknown_split_or_column(toy: Path) -> None:
    """Oracle: the message names the parameter, what there is and the nearest."""
    for arguments, message in (
        ({"train": "tran"}, "Images.train = 'tran': .* it has test, train.*'train'"),
        ({"test": "validation"}, "Images.test = 'validation': .* it has test, train"),
        ({"pretrain": "unlabeled"}, "Images.pretrain = 'unlabeled': "),
        ({"image": "imag"}, "Images.image = 'imag': .* it has image, label.*'image'"),
        ({"label": "labels"}, "Images.label = 'labels': .*'label'"),
        ({"image": "label"}, "Images.image = 'label': expected a column of images"),
        ({"label": "image"}, "expected a class name or an integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(toy, **arguments)
    datasets.Dataset.from_dict({"x": [1], "y": [2]}).to_parquet(toy / "x.parquet")
    with pytest.raises(ConfigError, match=r"no image columns .* one of x, y"):
        load(toy / "x.parquet", test=None)


def test_wrong_labels(toy: Path) -> None:
    """Oracle: the message names the wrong label and where it is."""
    for values, kind, message in (
        ([0, -1], "int64", "Label -1 of image 1 in split 'test'"),
        ([0, None], "int64", "Label None of image 1 in split 'test'"),
        ([0.5], "float64", r"Label 0\.5 of image 0 in split 'test'"),
        ([0, 1], ["ant", "dog"], "does not know: dog"),
        (["eel"], "string", "does not know: eel"),
    ):
        write_parquet(toy / "test.parquet", labels=values, kind=kind)
        with pytest.raises(ConfigError, match=message):
            load(toy)


def test_empty_split(toy: Path, tmp_path: Path) -> None:
    """Oracle: the message names the split that was written without rows."""
    write_parquet(toy / "test.parquet", [], [])
    with pytest.raises(MissingError, match=r"Split 'test' of data set 'toy' .*parquet"):
        load(toy)
    (tmp_path / "folder/train").mkdir(parents=True)
    with pytest.raises(MissingError, match=r"Split 'train' of data set 'toy' .* is empty"):
        load(f"folder:{tmp_path}/folder", test=None)


def test_folder_with_and_without_classes(tmp_path: Path) -> None:
    """Oracle: one image beside the class folders makes the labels undefined."""
    write_folder(tmp_path, range(6))
    picture(0).save(tmp_path / "train/stray.png")
    with pytest.raises(ConfigError, match="both directly and in class folders"):
        load(f"folder:{tmp_path}")


def test_unknown_source() -> None:
    """Oracle: the message repeats the source and shows one that works."""
    for source in ("cifar10", "parquet:", "zip:x", "sklearn:iris", "hub:"):
        with pytest.raises(ConfigError, match=rf"Images.source = '{source}': expected 'sklearn:digits'"):
            load(source)


def test_missing_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the message names what was looked for and the three ways to give it."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(tmp_path))
    (tmp_path / "corrupt.parquet").write_bytes(b"PAR1 and nothing more")
    places = (f"parquet:{tmp_path}/corrupt.parquet", f"parquet:{tmp_path}/nowhere", f"folder:{tmp_path}/nowhere")
    for source in ("hub:nobody/nothing", *places):
        with pytest.raises(MissingError) as caught:
            load(source)
        for words in (source, "source=parquet:/path or folder:/path", "SSL_BENCHMARK_DATA=/data", "access to the hub"):
            assert words in str(caught.value)


def test_prints_nothing(toy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Oracle: both streams of the process stay empty, so there is no progress bar."""
    load(toy, test=None)  # whose images are those of train
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(DATA is None, reason="SSL_BENCHMARK_DATA names no folder with real data")
def test_imagenette(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the published counts of the validation split and its class names."""
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(DATA))
    if not Path(str(DATA), "imagenette96").is_dir():
        pytest.skip("SSL_BENCHMARK_DATA has no imagenette96")
    data = Images(name="imagenette96", source="hub:absent/imagenette96", size=32, train="test", test=None)()
    assert data.train.labels.bincount().tolist() == [387, 395, 357, 386, 409, 394, 389, 419, 399, 390]
    assert data.classes[:2] == ("tench", "English springer")


@pytest.mark.long
@pytest.mark.skipif(DATA is None, reason="SSL_BENCHMARK_DATA names no folder with real data")
def test_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the published means, standard deviations and class counts of CIFAR-10."""
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(DATA))
    if not Path(str(DATA), "cifar10").is_dir():
        pytest.skip("SSL_BENCHMARK_DATA has no cifar10")
    data = Images(name="cifar10", source="hub:uoft-cs/cifar10", size=32)()
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)
    assert [np.bincount(split).tolist() for split in labels(data)] == [[5000] * 10, [1000] * 10]
    assert data.classes == CIFAR10
