"""Boxes: where the objects of an image are and of which class, and the readers of COCO's and VOC's annotations."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from benchmark.data.decode import stored_size
from benchmark.data.sources import Loader, Table
from benchmark.data.white import Items
from benchmark.errors import BenchmarkError, ConfigError, MissingError, suggest
from benchmark.runtime import progress

BEYOND = 1.0  # our choice: pixels that a box may reach beyond its image, by rounding; they are cut off
COCO_FILE = "instances_"  # what the names of COCO's files begin with, before the split
KEYS = ("bbox", "category")
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Objects:
    """The objects of an image of `size` (height, width), in pixels of the stored image.

    `boxes` are float32 `(n, 4)`: left, top, right, bottom. `labels` are class indices, int64 `(n,)`. Those in `crowd`,
    bool `(n,)`, mark an area in which detections of the class are not judged: a crowd, or what is too hard to tell.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    size: tuple[int, int]


class Boxes:
    """The objects of each image of a split, checked against the size of the image when they are indexed.

    `rows` have for each image the lists `bbox`, with left, top, width and height, and `category`, with names or numbers
    of `classes`; with `iscrowd` too, boxes may be marked. `images` are the stored images that they belong to. `where`
    names the split in messages.
    """

    def __init__(self, rows: Sequence[Any], images: Items, classes: Sequence[str], where: str) -> None:
        self._rows, self._images, self._classes, self._where = rows, images, tuple(classes), where
        self._ids: Sequence[int] = range(len(rows))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Objects:
        """Return the objects of an image. Raises MissingError for a box that cannot be where it is said to be."""
        row = self._ids[index]
        try:
            size = stored_size(self._images([row])[0])
            return _objects(self._rows[row], size, self._classes)
        except BenchmarkError:
            raise
        except Exception as error:  # a decoder fed broken bytes raises whatever it likes
            said = str(error).rstrip(".")
            raise MissingError(
                f"The boxes of image {row} of {self._where} cannot be used: {said}{'' if said.endswith('?') else '.'} "
                f"No box is left out: correct it, or remove it from the source."
            ) from error

    def __iter__(self) -> Iterator[Objects]:
        return (self[index] for index in progress.each(range(len(self)), "boxes"))

    def subset(self, ids: Tensor) -> Self:
        """Return the boxes of some of the images, int64 `(n,)`, as boxes of their own."""
        chosen = type(self)(self._rows, self._images, self._classes, self._where)
        chosen._ids = [self._ids[index] for index in ids.tolist()]
        return chosen


def check_settings(boxes: str | None, classes: Sequence[str], others: Mapping[str, str | None]) -> None:
    """Raise ConfigError for settings of `Images` that contradict each other; `others` name other columns of labels."""
    if boxes is None:
        if classes:
            raise ConfigError("Images.box_classes are those of boxes, but Images.boxes names no column of them.")
        return
    if not classes or len(set(classes)) < len(classes):
        raise ConfigError(
            f"Images.box_classes has {len(classes)} names: expected different ones, at least one, in the order of the "
            f"numbers that boxes have."
        )
    for name, value in others.items():
        if value is not None:
            raise ConfigError(f"Images.{name} = {value!r}: images with boxes have no other labels. Leave it None.")


def with_names(rows: Sequence[Any], feature: object) -> Sequence[Any]:
    """Return rows whose numbers of classes are names, where the type of their column declares names for them."""
    categories = feature.get("category") if isinstance(feature, Mapping) else None
    names = getattr(getattr(categories, "feature", None), "names", None)
    if names is None:
        return rows
    numbers = [number for row in rows if row for number in row["category"] or ()]
    if unnamed := [number for number in numbers if number not in range(len(names))]:
        raise ConfigError(
            f"An object has the class number {unnamed[0]}, but the type of its column has {len(names)} names, for the "
            f"numbers 0 to {len(names) - 1}. Correct the column, or give it numbers without names."
        )
    return [
        {**row, "category": [names[number] for number in row["category"]]} if row and row["category"] else row
        for row in rows
    ]


def _objects(row: Any, size: tuple[int, int], classes: tuple[str, ...]) -> Objects:
    """Return the objects of a row. Raises ValueError with what is wrong."""
    if not isinstance(row, Mapping) or any(not isinstance(row.get(key), list) for key in KEYS):
        raise ValueError(f"expected the lists {' and '.join(KEYS)}, got {row!r:.80}")
    crowd = row["iscrowd"] if row.get("iscrowd") is not None else [0] * len(row["bbox"])
    if len({len(row["bbox"]), len(row["category"]), len(crowd)}) > 1:
        lengths = len(row["bbox"]), len(row["category"]), len(crowd)
        raise ValueError("there are {} boxes, {} categories and {} marks of crowds".format(*lengths))
    boxes = [_box(box, place, size) for place, box in enumerate(row["bbox"])]
    labels = [_label(value, place, classes) for place, value in enumerate(row["category"])]
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor([bool(mark) for mark in crowd], dtype=torch.bool),
        size,
    )


def _box(box: Any, place: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a box within an image of (height, width)."""
    numbers = np.asarray(box, dtype=np.float64)
    if numbers.shape != (4,) or not np.isfinite(numbers).all():
        raise ValueError(f"box {place} is {box!r:.80}; expected four numbers: left, top, width, height")
    left, top, width, height = numbers.tolist()
    said = f"box {place}, of {width:g} x {height:g} px at ({left:g}, {top:g}),"
    if width <= 0 or height <= 0:
        raise ValueError(f"{said} has no area; expected left, top, width and height")
    beyond = max(-left, -top, left + width - size[1], top + height - size[0])
    if beyond > BEYOND:
        raise ValueError(
            f"{said} reaches {beyond:g} px beyond the image of {size[1]} x {size[0]} px; expected left, top, width and "
            f"height in pixels of the stored image"
        )
    ends = max(left, 0.0), max(top, 0.0), min(left + width, size[1]), min(top + height, size[0])
    kept = np.array(ends, dtype=np.float32)  # the precision of `Objects`
    if not (kept[:2] < kept[2:]).all():
        raise ValueError(
            f"{said} has no area within the image of {size[1]} x {size[0]} px. Is it counted from 1? Pixels are "
            f"counted from 0"
        )
    return ends


def _label(value: Any, place: int, classes: tuple[str, ...]) -> int:
    """Return the index of a class by its name or number."""
    if isinstance(value, str):
        if value not in classes:
            raise ValueError(
                f"box {place} has the class {value!r}, which is none of Images.box_classes.{suggest(value, classes)}"
            )
        return classes.index(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(classes):
        raise ValueError(
            f"box {place} has the class {value!r}; expected one of Images.box_classes or its number, 0 to "
            f"{len(classes) - 1}"
        )
    return value


def annotations_below(root: Path, annotations: str) -> dict[str, Loader]:
    """Return the splits of a folder in the layout of COCO, or of one year of VOC, whose files lie in `annotations`."""
    splits = sorted((root / annotations).glob(f"{COCO_FILE}*.json"))
    if splits:
        return {file.stem.removeprefix(COCO_FILE): partial(_coco, root, file, annotations) for file in splits}
    lists = sorted((root / "ImageSets" / "Main").glob("*.txt"))
    return {file.stem: partial(_voc, root, file, annotations) for file in lists if "_" not in file.stem}


def _coco(root: Path, file: Path, column: str) -> Table:
    """Read a file of COCO, whose images lie in the folder of the split, or in that below `images`.

    Boxes without area, of which COCO's own files have a few, are taken out, and a note counts them.
    """
    split = file.stem.removeprefix(COCO_FILE)
    folder = next((path for path in (root / split, root / "images" / split) if path.is_dir()), root / split)
    content = json.loads(file.read_text(encoding="utf-8"))
    try:
        names = {each["id"]: each["name"] for each in content["categories"]}
        of_image: dict[Any, list[Any]] = defaultdict(list)
        flat = 0
        for each in content["annotations"]:
            if min(each["bbox"][2:]) > 0:
                of_image[each["image_id"]].append((each["bbox"], names[each["category_id"]], each.get("iscrowd", 0)))
            else:
                flat += 1
        images = [(each["file_name"], of_image.get(each["id"], [])) for each in content["images"]]
        strays = of_image.keys() - (known := {each["id"]: None for each in content["images"]}.keys())
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a file of COCO's instances: it lacks {error}.") from error
    if strays:
        raise ConfigError(
            f"{file} has boxes of images that it does not list: {len(strays):,} values of image_id, such as "
            f"{min(strays, key=repr)!r}, where images have ids such as {next(iter(known), None)!r}. Correct these "
            f"annotations or remove them."
        )
    if flat:
        progress.announce(f"{file.name}: {flat} of {len(content['annotations']):,} boxes have no area and are left out")
    return _table([(folder / name, objects) for name, objects in images], column, file)


def _voc(root: Path, file: Path, column: str) -> Table:
    """Read a list of VOC's images and their files of annotations; what is `difficult` is marked as a crowd is.

    Pixels have the numbers from 1 there, and a box contains those that it ends with.
    """
    images = []
    for name in (line.split()[0] for line in file.read_text().splitlines() if line.strip()):
        try:
            tree = ElementTree.parse(root / column / f"{name}.xml")
        except (OSError, ElementTree.ParseError) as error:
            raise MissingError(f"{root / column / name}.xml cannot be read: {error}. Restore it.") from error
        objects = []
        for each in tree.iterfind("object"):
            left, top, right, bottom = (float(each.findtext(f"bndbox/{end}", "nan")) for end in SIDES)
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            objects.append((box, each.findtext("name", ""), int(each.findtext("difficult", "0"))))
        images.append((root / "JPEGImages" / f"{name}.jpg", objects))
    return _table(images, column, file)


def _table(images: list[tuple[Path, list[Any]]], column: str, file: Path) -> Table:
    """Return image files and their objects as a table. Raises MissingError for images that are not there."""
    there: dict[Path, set[str]] = {}
    for folder in {path.parent for path, _ in images}:
        there[folder] = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    absent = [path for path, _ in images if path.name not in there[path.parent]]
    if absent:
        raise MissingError(
            f"{len(absent):,} of the {len(images):,} images of {file} are not there, such as {absent[0]}. Put them "
            f"there."
        )
    rows = [dict(zip((*KEYS, "iscrowd"), map(list, zip(*objects, strict=True)), strict=False)) for _, objects in images]
    rows = [row or {key: [] for key in KEYS} for row in rows]

    def encoded(name: str) -> Items:
        if name != "image":
            raise TypeError(name)
        return lambda ids: [{"bytes": None, "path": str(images[i][0])} for i in ids]

    features = {"image": "Image", column: f"objects of {file.name}"}
    return Table(len(images), features, ["image"], {}, {column: rows}.__getitem__, encoded)
