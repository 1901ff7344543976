"""Images with masks: which numbers are which classes, at which size, and what is refused."""

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.images import Images
from benchmark.data.masks import UNLABELLED
from benchmark.errors import ConfigError, MissingError

CLASSES = ("sky", "road", "car")
MASK = np.array([[0, 1, 2], [2, 9, 0]], dtype=np.uint8)  # 9 is not labelled


def picture(mask: np.ndarray, mode: str = "L") -> Image.Image:
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    return image if mode in ("L", "P") else image.convert(mode)


def write(folder: Path, masks: list[Any], size: tuple[int, int] = (3, 2), split: str = "train") -> None:
    """Write a Parquet file of one-coloured images of a width and height, with these masks."""
    images = [Image.new("RGB", size, (10 * i, 20, 30)) for i in range(len(masks))]
    kind = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_dict({"image": images, "mask": masks}, features=kind).to_parquet(folder / f"{split}.parquet")


def load(source: str, **arguments: Any) -> Dataset:
    options = {"test": None, "mask": "mask", "mask_classes": CLASSES, "mask_ignored": 9} | arguments
    return Images(name="toy", source=source, size=4, **options)()


@pytest.mark.parametrize(("first", "mode"), [(0, "L"), (0, "P"), (1, "L"), (0, "I;16")])
def test_masks_are_class_indices_at_their_own_size(tmp_path: Path, first: int, mode: str) -> None:
    """Oracle: the indices by hand; palettes hold indices; images are stretched, so that each pixel has a place."""
    stored = np.where(MASK == 9, 9, MASK + first).astype(np.uint8)
    write(tmp_path, [picture(stored, mode), picture(stored.T.copy().reshape(2, 3), mode)])
    data = load(f"parquet:{tmp_path}", mask_first=first)
    assert data.has_masks
    assert data.train.labels is None
    assert data.classes == CLASSES
    assert data.train.images.shape == (2, 3, 4, 4)
    assert data.train.masks is not None
    assert data.train.masks[0].tolist() == [[0, 1, 2], [2, UNLABELLED, 0]]
    assert data.train.masks.subset(torch.tensor([1]))[0].dtype == torch.uint8
    assert len(data.train.masks.subset(torch.tensor([1]))) == 1


def test_images_are_stretched_and_not_cropped(tmp_path: Path) -> None:
    """Oracle: both outer columns of a wide image are seen; without masks the crop leaves them out."""
    wide = np.zeros((2, 6, 3), dtype=np.uint8)
    wide[:, 0], wide[:, -1] = 250, 250
    kind = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    rows = {"image": [Image.fromarray(wide)], "mask": [picture(np.zeros((2, 6), dtype=np.uint8))]}
    datasets.Dataset.from_dict(rows, features=kind).to_parquet(tmp_path / "train.parquet")
    seen = load(f"parquet:{tmp_path}").train.images[:][0]
    assert seen[:, :, 0].min() > 60
    assert seen[:, :, -1].min() > 60
    cropped = Images(name="toy", source=f"parquet:{tmp_path}", size=4, test=None, image="image")().train.images[:]
    assert cropped.max() == 0


def test_the_fingerprint_covers_masks(tmp_path: Path) -> None:
    """Oracle: one changed pixel of a mask is another data set; its coding by other numbers is not."""
    fingerprints = []
    for name, mask, first in (("a", MASK, 0), ("b", np.where(MASK == 9, 9, MASK + 1), 1), ("c", MASK[::-1], 0)):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, [picture(np.ascontiguousarray(mask, dtype=np.uint8))])
        fingerprints.append(load(f"parquet:{folder}", mask_first=first).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (
            [picture(MASK), picture(MASK.T.copy())],
            r"Mask 1 of split 'train' of toy .* 2 x 3 pixels, and its image of 3",
        ),
        ([picture(MASK + 1)], r"Mask 0 .* the number 3; expected 0 to 2, .* or 9 where nothing is labelled"),
        ([picture(MASK, "RGB")], "its mode is RGB; a mask has one number for each pixel"),
        ([picture(MASK), None], "Mask 1 .* its row has no image"),
    ],
)
def test_bad_masks_are_refused(tmp_path: Path, masks: list[Any], says: str) -> None:
    """Oracle: the message names the mask, what it has and what is expected; nothing is skipped."""
    write(tmp_path, masks)
    with pytest.raises(MissingError, match=says):
        load(f"parquet:{tmp_path}")


def test_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    """Oracle: the message says what to save instead."""
    picture(MASK).save(tmp_path / "mask.jpg")
    write(tmp_path, [str(tmp_path / "mask.jpg")])
    with pytest.raises(MissingError, match="it is a JPEG, which changes numbers; save masks as PNG"):
        load(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mask": "maks"}, "Images.mask = 'maks': the source has no such column.*'mask'"),
        ({"mask_classes": ()}, "Images.mask_classes has 0 names"),
        ({"mask_classes": ("sky", "sky")}, "Images.mask_classes has 2 names: expected 2 to 255 different"),
        ({"mask": None}, "Images.mask names no column"),
        ({"mask_ignored": 1}, "Images.mask_ignored = 1 is the number of 'road'"),
        ({"label": "mask"}, "have no other labels"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    """Oracle: the message names the parameter."""
    write(tmp_path, [picture(MASK)])
    with pytest.raises(ConfigError, match=says):
        load(f"parquet:{tmp_path}", **arguments)


def test_pairs_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the masks by hand, for files in folders of folders; a file without a partner is named."""
    for split, names in (("training", ("b/x", "a")), ("validation", ("c",))):
        for name in names:
            image, mask = tmp_path / f"images/{split}/{name}.jpg", tmp_path / f"annotations/{split}/{name}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 2)).save(image)
            picture(np.full((2, 3), "abc".index(name[0]), dtype=np.uint8)).save(mask)
    options = {"mask": "annotations", "train": "training", "test": "validation"}
    data = load(f"folder:{tmp_path}", **options)
    assert data.train.masks is not None
    assert data.test.masks is not None
    assert [int(mask[0, 0]) for mask in (*data.train.masks, *data.test.masks)] == [0, 1, 2]
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(tmp_path.parent))
    assert load(f"local:{tmp_path.name}", **options).fingerprint == data.fingerprint
    (tmp_path / "images/training/a.jpg").unlink()
    with pytest.raises(ConfigError, match="differ: a is in one of them alone"):
        load(f"folder:{tmp_path}", **options)


def test_local_data_need_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the messages name the variable, and the folder that is absent."""
    monkeypatch.delenv("SSL_BENCHMARK_DATA", raising=False)
    with pytest.raises(MissingError, match=r"the folder toys below \$SSL_BENCHMARK_DATA, which is not set"):
        load("local:toys")
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(tmp_path))
    with pytest.raises(MissingError, match=f"cannot be read from {tmp_path}/toys"):
        load("local:toys")


def test_camvid() -> None:
    """Oracle: the counts and sizes that its authors state, at half the side, and every class is there."""
    root = os.environ.get("SSL_BENCHMARK_DATA", "")
    if not Path(root, "camvid", "test.parquet").is_file():
        pytest.skip("needs CamVid as the folder camvid below SSL_BENCHMARK_DATA")
    data = load("local:camvid", test="test", mask_classes=tuple("abcdefghijk"), mask_ignored=11)
    assert data.test.masks is not None
    assert (len(data.train.images), len(data.test.masks)) == (367, 233)
    masks = list(data.test.masks)
    assert {tuple(mask.shape) for mask in masks} == {(180, 240)}
    assert {*torch.cat([mask.unique() for mask in masks]).tolist()} == {*range(11), UNLABELLED}
