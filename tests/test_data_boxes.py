"""Images with boxes: where they are, of which class, from Parquet, COCO and VOC, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.images import Images
from benchmark.errors import ConfigError, MissingError

CLASSES = ("cat", "dog")
GOOD = {"bbox": [[1.0, 2.0, 5.0, 4.0], [0.0, 0.0, 20.0, 10.0]], "category": ["dog", "cat"]}
NONE: dict[str, list[Any]] = {"bbox": [], "category": []}


def write(folder: Path, rows: list[Any], split: str = "train", **features: Any) -> None:
    """Write a Parquet file of images of 20 x 10 pixels with these objects."""
    images = [Image.new("RGB", (20, 10), (10 * i, 20, 30)) for i in range(len(rows))]
    category = features.pop("category", datasets.Value("string"))
    box = datasets.List(datasets.List(datasets.Value("float32")))
    kind = {"bbox": box, "category": datasets.List(category), **features}
    table = datasets.Features({"image": datasets.Image(), "objects": kind})
    datasets.Dataset.from_dict({"image": images, "objects": rows}, features=table).to_parquet(
        folder / f"{split}.parquet"
    )


def load(source: str, **arguments: Any) -> Dataset:
    options = {"test": None, "boxes": "objects", "box_classes": CLASSES} | arguments
    return Images(name="toy", source=source, size=8, **options)()


def test_boxes_stay_as_they_are_stored(tmp_path: Path) -> None:
    """Oracle: corners and classes by hand; images are stretched; names of the column come before its numbers."""
    write(tmp_path, [GOOD, NONE, {**GOOD, "iscrowd": [0, 1]}], iscrowd=datasets.List(datasets.Value("int8")))
    data = load(f"parquet:{tmp_path}")
    assert data.has_boxes
    assert data.has_regions
    assert data.train.labels is None
    assert data.classes == CLASSES
    assert data.train.images.shape == (3, 3, 8, 8)
    assert data.train.boxes is not None
    first, second, third = data.train.boxes
    assert first.boxes.tolist() == [[1, 2, 6, 6], [0, 0, 20, 10]]
    assert first.labels.tolist() == [1, 0]
    assert first.size == (10, 20)
    assert not first.crowd.any()
    assert (second.boxes.shape, second.labels.dtype) == ((0, 4), torch.int64)
    assert third.crowd.tolist() == [False, True]
    (chosen,) = data.train.boxes.subset(torch.tensor([1]))
    assert len(chosen.labels) == 0
    numbers = {**GOOD, "category": [0, 1]}
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", [numbers], category=datasets.ClassLabel(names=["dog", "cat"]))
    declared = load(f"parquet:{tmp_path / 'a'}").train.boxes
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", [numbers], category=datasets.Value("int64"))
    plain = load(f"parquet:{tmp_path / 'b'}").train.boxes
    assert declared is not None
    assert plain is not None
    assert (declared[0].labels.tolist(), plain[0].labels.tolist()) == ([1, 0], [0, 1])


def test_the_fingerprint_covers_boxes(tmp_path: Path) -> None:
    """Oracle: one pixel of a box, one class and one mark of a crowd each make another data set."""
    crowd = {"iscrowd": datasets.List(datasets.Value("int8"))}
    changes = ({}, {"bbox": [[1.0, 2.0, 5.0, 5.0], GOOD["bbox"][1]]}, {"category": ["dog", "dog"]}, {"iscrowd": [1, 0]})
    fingerprints = set()
    for i, change in enumerate(changes):
        folder = tmp_path / str(i)
        folder.mkdir()
        write(folder, [GOOD | {"iscrowd": [0, 0]} | change], **crowd)
        fingerprints.add(load(f"parquet:{folder}").fingerprint)
    assert len(fingerprints) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"bbox": [[1.0, 2.0, 5.0, 9.5], [0, 0, 1, 1]]},
            r"image 1 of split 'train' of toy .* box 0, of 5 x 9.5",
        ),
        ({"bbox": [[1.0, 2.0, 5.0, 9.5], [0, 0, 1, 1]]}, r"reaches 1.5 px beyond the image of 20 x 10 px"),
        ({"bbox": [[0, 0, 1, 1], [-3.0, 2.0, 5.0, 4.0]]}, r"box 1.*reaches 3 px beyond"),
        ({"bbox": [[1.0, 2.0, 0.0, 4.0], [0, 0, 1, 1]]}, r"box 0, of 0 x 4 px at \(1, 2\), has no area"),
        ({"bbox": [[20.0, 2.0, 1.0, 4.0], [0, 0, 1, 1]]}, r"box 0.*has no area within the image of 20 x 10 px"),
        ({"bbox": [[0, 0, 1, 1], [1.0, -0.6, 4.0, 0.5]]}, r"box 1.*has no area within the image of 20 x 10 px"),
        ({"bbox": [[1.0, 2.0, 4.0], [0, 0, 1, 1]]}, r"box 0 is \[1.0, 2.0, 4.0\]; expected four numbers"),
        ({"bbox": [[1.0, 2.0, float("nan"), 4.0], [0, 0, 1, 1]]}, r"box 0 is .* expected four numbers"),
        (
            {"category": ["dgo", "cat"]},
            r"box 0 has the class 'dgo', which is none of .*. Did you mean dog[?] No box",
        ),
        ({"category": ["dog"]}, r"there are 2 boxes, 1 categories"),
        ({"category": None}, r"expected the lists bbox and category, got"),
    ],
)
def test_bad_boxes_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Oracle: the message names the image and the box, what it has and what is expected; nothing is left out."""
    write(tmp_path, [GOOD, GOOD | change])
    with pytest.raises(MissingError, match=says):
        load(f"parquet:{tmp_path}")


def test_a_number_that_is_no_class_is_refused(tmp_path: Path) -> None:
    """Oracle: the message has the number and the range."""
    write(tmp_path, [{**GOOD, "category": [2, 0]}], category=datasets.Value("int64"))
    with pytest.raises(MissingError, match=r"box 0 has the class 2; expected one of .* or its number, 0 to 1"):
        load(f"parquet:{tmp_path}")
    declared = {**GOOD, "category": [0, 1]}
    (tmp_path / "named").mkdir()
    write(tmp_path / "named", [declared, declared | {"category": [1, -1]}], category=datasets.ClassLabel(names=CLASSES))
    with pytest.raises(ConfigError, match=r"class number -1, but the type of its column has 2 names, .* 0 to 1"):
        load(f"parquet:{tmp_path / 'named'}")
    write(tmp_path / "named", [declared, declared | {"category": None}], category=datasets.ClassLabel(names=CLASSES))
    with pytest.raises(MissingError, match=r"image 1 .*expected the lists bbox and category, got"):
        load(f"parquet:{tmp_path / 'named'}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"boxes": "object"}, r"Images.boxes = 'object': the source has no such column.*'objects'"),
        ({"box_classes": ()}, "Images.box_classes has 0 names"),
        ({"box_classes": ("cat", "cat")}, "Images.box_classes has 2 names: expected different ones"),
        ({"boxes": None}, "Images.boxes names no column"),
        ({"label": "objects"}, r"Images.label = 'objects': images with boxes have no other labels"),
        ({"mask": "m", "mask_classes": CLASSES}, r"Images.mask = 'm': images with boxes have no other labels"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    """Oracle: the message names the parameter."""
    write(tmp_path, [GOOD])
    with pytest.raises(ConfigError, match=says):
        load(f"parquet:{tmp_path}", **arguments)


def coco(root: Path, split: str) -> dict[str, Any]:
    """Write two images and their file of annotations; the numbers of classes have gaps, as COCO's do."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for name in ("b.jpg", "a.jpg"):
        Image.new("RGB", (20, 10)).save(root / split / name)
    boxes = [(7, 90, [1, 2, 5, 4], 0), (7, 18, [0, 0, 20, 10.4], 1), (7, 18, [3, 3, 4, 0], 0)]
    content = {
        "images": [{"id": 3, "file_name": "b.jpg"}, {"id": 7, "file_name": "a.jpg"}],
        "categories": [{"id": 18, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": number, "bbox": box, "iscrowd": crowd}
            for i, (image, number, box, crowd) in enumerate(boxes)
        ],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return content


def test_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: by hand: the order of the file, a box that rounding put beyond the border, a crowd, one without area."""
    content = coco(tmp_path, "train2017")
    coco(tmp_path, "val2017")
    options = {"boxes": "annotations", "train": "train2017", "test": "val2017"}
    data = load(f"folder:{tmp_path}", **options)
    assert data.train.boxes is not None
    first, second = data.train.boxes
    assert len(first.labels) == 0
    assert second.boxes.tolist() == [[1, 2, 6, 6], [0, 0, 20, 10]]
    assert (second.labels.tolist(), second.crowd.tolist()) == ([1, 0], [False, True])
    assert "instances_train2017.json: 1 of 3 boxes have no area and are left out" in "".join(capsys.readouterr())
    (tmp_path / "val2017" / "a.jpg").unlink()
    with pytest.raises(MissingError, match=r"1 of the 2 images of .*instances_val2017.json are not there, .*a.jpg"):
        load(f"folder:{tmp_path}", **options)
    Image.new("RGB", (20, 10)).save(tmp_path / "val2017" / "a.jpg")
    content["annotations"][0]["bbox"] = [19.9999999, 2, 0.5, 4]  # from 20 to 20 in float32
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(MissingError, match=r"box 0.*has no area within the image of 20 x 10 px"):
        load(f"folder:{tmp_path}", **options)
    content["annotations"][0]["image_id"] = "7"
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(
        ConfigError, match=r"does not list: 1 values of image_id, such as '7', where images have ids such as 3"
    ):
        load(f"folder:{tmp_path}", **options)
    del content["categories"]
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"is not a file of COCO's instances: it lacks 'categories'"):
        load(f"folder:{tmp_path}", **options)


def test_voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand: pixels from 1, ends inclusive; what is difficult is marked; lists of one class are no splits."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("000001", "000002"):
        Image.new("RGB", (20, 10)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        objects = "".join(
            f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
            f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for kind, hard, box in (("dog", 0, (2, 3, 6, 6)), ("cat", 1, (1, 1, 20, 10)))
        )
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    for split, names in (("trainval", "000001\n000002\n"), ("test", "000002\n"), ("cat_test", "000002 -1\n")):
        (tmp_path / "ImageSets/Main" / f"{split}.txt").write_text(names)
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(tmp_path.parent))
    data = load(f"local:{tmp_path.name}", boxes="Annotations", train="trainval", test="test")
    assert data.train.boxes is not None
    assert data.test.boxes is not None
    assert (len(data.train.boxes), len(data.test.boxes)) == (2, 1)
    assert data.train.boxes[0].boxes.tolist() == [[1, 2, 6, 6], [0, 0, 20, 10]]
    assert data.train.boxes[0].labels.tolist() == [1, 0]
    assert data.train.boxes[0].crowd.tolist() == [False, True]
    with pytest.raises(ConfigError, match=r"Images.train = 'cat_test': the source has no such split.*test, trainval"):
        load(f"local:{tmp_path.name}", boxes="Annotations", train="cat_test")
    (tmp_path / "Annotations" / "000001.xml").unlink()
    with pytest.raises(MissingError, match=r"000001.xml cannot be read"):
        load(f"local:{tmp_path.name}", boxes="Annotations", train="trainval", test="test")


@pytest.mark.parametrize(
    ("name", "classes", "images", "objects"),
    [("pennfudan", ("pedestrian",), (120, 50), 423), ("bccd", ("RBC", "WBC", "Platelets"), (205, 72), None)],
)
def test_real_data(name: str, classes: tuple[str, ...], images: tuple[int, int], objects: int | None) -> None:
    """Oracle: the counts of images that are stated, and of pedestrians; every box is sound."""
    if not Path(os.environ.get("SSL_BENCHMARK_DATA", ""), name, "test.parquet").is_file():
        pytest.skip(f"needs {name} as a folder below SSL_BENCHMARK_DATA")
    data = load(f"local:{name}", test="test", image="image", box_classes=classes)
    assert data.train.boxes is not None
    assert data.test.boxes is not None
    assert (len(data.train.boxes), len(data.test.boxes)) == images
    count = sum(len(each.labels) for split in (data.train.boxes, data.test.boxes) for each in split)
    assert count == (objects or count)
