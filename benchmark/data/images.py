"""Images of a data set: one specification in, the square uint8 images of each split out.

Everything later (views, evaluations, records) sees pixels, labels and a fingerprint of both, never a path or a
format. An image that cannot be read stops the run, since a silently shorter data set would be another benchmark.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import gin

from benchmark.annotations import Count, Location, Positive, Range, Residence
from benchmark.data import cache
from benchmark.data.boxes import Boxes, annotations_below, check_settings, with_names
from benchmark.data.dataset import Dataset, Outline, Split, fingerprint_of, mean_and_std
from benchmark.data.decode import Stored
from benchmark.data.formats import opened
from benchmark.data.labels import Names, class_names, marked
from benchmark.data.masks import Coding, Masks
from benchmark.data.pixels import Pixels
from benchmark.data.sources import SCHEMES, Loader, Table, local_copy, paired
from benchmark.data.white import Items, White
from benchmark.errors import ConfigError, MissingError, suggest
from benchmark.runtime import progress

ROOT_VARIABLE = "SSL_BENCHMARK_DATA"
MOST_SIDE = 16_384  # our choice: an image then takes 0.8 GB
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")


@gin.register
@dataclass(frozen=True, kw_only=True)
class Images:
    """A specification of a data set; calling it loads the data set: first its `outline`, then the pixels (`decoded`).

    `source` is one of
    - `sklearn:digits`: the 1,797 digits that scikit-learn ships, with a fixed test split of a fifth of each class;
    - `hub:owner/name` or `hub:owner/name:configuration`: a data set of the Hugging Face hub, or the folder `name` of
      this specification below `$SSL_BENCHMARK_DATA` where that exists;
    - `parquet:path`: a folder or glob of files that are named by their split (`train-00000-of-00002.parquet`), a clone
      of a data set of the hub, or one file, which is then the split `train`;
    - `folder:path`: image files in `split/class/`, or without labels in `split/` or directly in the folder, which is
      then the split `train`. Where a split has an annotation file, `val/val_annotations.txt`, classes are those in it;
    - `stl10:path`: the binary files of STL-10, with the splits `train`, `test` and `unlabeled`;
    - `local:name`: the folder `name` below `$SSL_BENCHMARK_DATA`, of Parquet files or image files.

    Images become RGB, `size` pixels on the shorter side (antialiased bicubic) and a centre crop of `size` x `size`.
    `image` and `label` name columns; by default they are the only image column and the only class column, else
    `image` or `img` and `label` or `fine_label`. Where the column of labels has lists of classes, an image may have
    several, see `benchmark.data.labels`. `train`, `test` and `pretrain` name splits; `test=None` means none,
    `pretrain=None` means the train split.

    With `cropped_from = "original"`, which needs `streamed`, random crops are taken from the pixels of the original, by
    whichever size it has, and resized once, antialiased. Images that are not cropped at random, such as those of test,
    then have `test_resize` pixels on the shorter side before their centre of `size` x `size` is cut out; by default 8/7
    of `size`, as the papers resize to 256 px and cut out 224. With "centre", random crops are taken from the square.

    `range` is the number that is white where images are numbers: arrays, floats, and grey of more than 8 bits. By
    default the type decides or else, for the whole data set, the largest value of train; see `benchmark.data.white`.

    `mask` names the column of masks, which give each pixel the number of a class: that of the first of `mask_classes`
    is `mask_first`, and `mask_ignored` is that of pixels without a label. Images are then stretched to the square and
    not cropped, and masks stay as large as they are stored. In a `folder:` they are the files below the folder `mask`,
    with those of the images below the folder `image`, by default `images`; see `benchmark.data.sources.paired`.

    `boxes` names the column of objects of `box_classes`, see `benchmark.data.boxes.Boxes`, or a folder with the
    annotations of COCO or VOC. Images are then stretched to the square too, and boxes stay as they are stored.

    Decoded images are kept for the next start: see `benchmark.data.cache`. `streamed` decodes them on the fly, for data
    larger than memory. Loading then decodes them too, for fingerprint and statistics: the train split twice if it is
    also pretrained on. Both are computed anew at each start, because a stored value could not show that the pixels are
    still the same.
    """

    name: str
    source: Location
    size: int
    image: str | None = None
    label: str | None = None
    train: str = "train"
    test: str | None = "test"
    pretrain: str | None = None
    range: Positive | None = None
    streamed: Residence = False
    mask: str | None = None
    mask_classes: tuple[str, ...] = ()
    mask_first: Annotated[int, Range(0)] = 0
    mask_ignored: int | None = None
    boxes: str | None = None
    box_classes: tuple[str, ...] = ()
    cropped_from: Literal["centre", "original"] = "centre"
    test_resize: Count | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("Images.name is empty: tables and folders of runs name a data set by it. Give it a name.")
        if self.size < 1:
            raise ConfigError(f"Images.size = {self.size}: the side of an image is at least 1 pixel.")
        if self.size > MOST_SIDE:
            raise ConfigError(f"Images.size = {self.size}: the side of an image is at most {MOST_SIDE:,} pixels.")
        if self.cropped_from == "original" and not self.streamed:
            raise ConfigError(
                "Images.cropped_from = 'original' takes crops where images are decoded, at each use: it needs "
                "Images.streamed = True."
            )
        if self.test_resize is not None and (self.cropped_from == "centre" or self.test_resize < self.size):
            raise ConfigError(
                f"Images.test_resize = {self.test_resize}: it is for Images.cropped_from = 'original', and at least "
                f"Images.size = {self.size}, which is cut out of it."
            )
        if self.test is not None and self.test in (self.train, self.pretrain):
            raise ConfigError(
                f"Images.test = {self.test!r} is also a split to train on, and nothing that was trained on tests "
                f"anything. Name another split, or Images.test=None for none."
            )
        Coding(self.mask_classes, self.mask_first, self.mask_ignored).check(self.mask, self.label)
        check_settings(self.boxes, self.box_classes, {"label": self.label, "mask": self.mask})

    def __call__(self) -> Dataset:
        """Load all splits."""
        return self.decoded(self.outline())

    def outline(self) -> Outline:
        """Read the tables of all splits; images are decoded when they are used.

        Raises MissingError if the source or a split's rows are missing or unreadable, and ConfigError if the
        specification names a split, column or label that the source does not have.
        """
        with progress.doing(f"reading {self.name}"):
            tables = self._tables()
            images = self._pixels(tables[self.train], self.train)
            white = images.white
            names, classes = self._class_names(tables[self.train], self.train)
            labels = None if names is None else marked(names, classes, self.train)
            train = Split(images, labels, *self._regions(tables[self.train], self.train))

            test = Split(images[:0], None)
            if self.test is not None:
                names, _ = self._class_names(tables[self.test], self.test)
                labels = None if names is None or train.labels is None else marked(names, classes, self.test)
                if labels is not None and train.labels is not None and labels.ndim != train.labels.ndim:
                    raise ConfigError(
                        f"Of the splits {self.train!r} and {self.test!r} of {self.name} one has a label an image, the "
                        f"other a list of labels. Give both the same kind, or Images.test=None."
                    )
                regions = self._regions(tables[self.test], self.test)
                test = Split(self._pixels(tables[self.test], self.test, white), labels, *regions)

            pretrain = images
            if self.pretrain not in (None, self.train):
                pretrain = self._pixels(tables[self.pretrain], self.pretrain, white)
            return Outline(self.name, classes, self.size, pretrain, train, test)

    def decoded(self, outline: Outline) -> Dataset:
        """Decode the images, unless they are `streamed` or were decoded at an earlier start.

        Raises MissingError for one that cannot be read.
        """

        def pixels(images: Pixels) -> Pixels:
            return cache.decoded(images) if isinstance(images, Stored) and not self.streamed else images

        with progress.doing(f"decoding {outline.name}"):
            train = replace(outline.train, images=pixels(outline.train.images))
            test = replace(outline.test, images=pixels(outline.test.images))
            is_train = outline.pretrain is outline.train.images
            pretrain = train.images if is_train else pixels(outline.pretrain)
            fingerprint, counts, copies = fingerprint_of(self.size, outline.classes, pretrain, train, test)
        if copies:
            print(
                f"note: {copies:,} of {len(test.images):,} test images of {outline.name} are also among those that are "
                f"trained on, pixel by pixel. Scores count what was seen: take them out of one of the splits.",
                file=sys.stderr,
            )
        mean, std = mean_and_std(counts)
        return Dataset(outline.name, outline.classes, self.size, pretrain, train, test, fingerprint, mean, std)

    def _tables(self) -> dict[str, Table]:
        """Return the rows of the configured splits, by name."""
        where, read = self._reader()
        tables: dict[str, Table] = {}
        what = f"Data set {self.name!r}"
        try:
            splits = read()
            for parameter, split in (("train", self.train), ("test", self.test), ("pretrain", self.pretrain)):
                if split is not None and split not in tables:
                    if split not in splits:
                        raise _unknown(parameter, split, "split", splits)
                    what = f"Split {split!r} of data set {self.name!r}"
                    tables[split] = splits[split]()
        except (OSError, ValueError, RuntimeError) as error:
            raise MissingError(
                f"{what} cannot be read from {where} ({error}). Give it in one of three ways: "
                "--set Images.source=parquet:/path or folder:/path; "
                f"{ROOT_VARIABLE}=/data with a folder /data/{self.name}, if the source begins with 'hub:' or 'local:'; "
                "or --set Images.source=hub:owner/name with access to the hub."
            ) from error
        for split, table in tables.items():
            if table.rows == 0:
                raise MissingError(f"Split {split!r} of data set {self.name!r} ({where}) is empty; expected images.")
        return tables

    def _reader(self) -> tuple[str, Callable[[], dict[str, Loader]]]:
        """Return where the data lie, and what reads the splits there."""
        scheme, _, place = self.source.partition(":")
        if scheme not in (*SCHEMES, "local") or not place:
            raise ConfigError(
                f"Images.source = {self.source!r}: expected 'sklearn:digits', 'hub:owner/name', 'parquet:path', "
                "'folder:path', 'stl10:path' or 'local:name'."
            )
        root = os.environ.get(ROOT_VARIABLE)
        if scheme == "local":
            if root is None:
                raise MissingError(
                    f"Data set {self.name!r} is the folder {place} below ${ROOT_VARIABLE}, which is not set. Set it to "
                    f"the folder of your data sets, or give --set Images.source=parquet:/path or folder:/path."
                )
            folder, configuration = Path(root, place), ""
        elif scheme == "hub" and root is not None and Path(root, self.name).is_dir():
            folder, configuration = Path(root, self.name), place.partition(":")[2]
        elif scheme == "folder" and (self.mask or self.boxes) is not None:
            folder, configuration = Path(place).expanduser(), ""
        else:
            return f"{scheme}:{place}", partial(SCHEMES[scheme], place)
        if self.mask is not None and (folder / self.mask).is_dir():
            return str(folder), partial(paired, folder, self.image or "images", self.mask)
        if self.boxes is not None and (folder / self.boxes).is_dir():
            return str(folder), partial(annotations_below, folder, self.boxes)
        return str(folder), partial(local_copy, folder, configuration)

    def _pixels(self, table: Table, split: str, white: White | None = None) -> Stored:
        """Return the images of a split in its order, uint8 `(n, 3, size, size)`, to be decoded.

        `white` is that of the train split, None for the train split itself.
        """
        encoded = self._encoded_images(table, split)
        white = white or White(self.range, table.rows, encoded, opened, self.name)
        where, is_whole = f"split {split!r} of {self.name}", (self.mask or self.boxes) is not None
        shorter = None if self.cropped_from == "centre" else self.test_resize or round(self.size * 8 / 7)
        return Stored(table.rows, encoded, self.size, where, white, shorter=shorter, is_whole=is_whole)

    def _encoded_images(self, table: Table, split: str) -> Items:
        images = [column for column in table.images if column != self.mask]
        column = self._column(table, "image", self.image, images, IMAGE_COLUMNS)
        if column is None:
            raise ConfigError(
                f"Split {split!r} of {self.name} has {len(images) or 'no'} image columns and none called "
                f"{' or '.join(IMAGE_COLUMNS)}; set Images.image to one of {', '.join(table.features)}."
            )
        return _encoded(table, "image", column, split)

    def _regions(self, table: Table, split: str) -> tuple[Masks | None, Boxes | None]:
        """Return the masks and the boxes of a split in its order; None where the specification names none."""
        for parameter, column in (("mask", self.mask), ("boxes", self.boxes)):
            if column is not None and column not in table.features:
                raise _unknown(parameter, column, "column", table.features)
        images, where = self._encoded_images(table, split), f"split {split!r} of {self.name}"
        masks = objects = None
        if self.mask is not None:
            coding = Coding(self.mask_classes, self.mask_first, self.mask_ignored)
            masks = Masks(table.rows, _encoded(table, "mask", self.mask, split), images, coding, where)
        if self.boxes is not None:
            rows = with_names(table.values(self.boxes), table.features[self.boxes])
            objects = Boxes(rows, images, self.box_classes, where)
        return masks, objects

    def _class_names(self, table: Table, split: str) -> tuple[Names | None, tuple[str, ...]]:
        """Return the class names of each row (None without labels), and all class names in the order of their index."""
        if self.mask is not None or self.boxes is not None:
            return None, self.mask_classes or self.box_classes
        column = self._column(table, "label", self.label, list(table.classes or table.multilabel), LABEL_COLUMNS)
        if column is None:
            return None, ()
        declared = {**table.classes, **table.multilabel}.get(column)
        return class_names(table.values(column), declared, f"split {split!r} (column {column!r})")

    def _column(
        self, table: Table, parameter: str, name: str | None, typed: list[str], conventional: Iterable[str]
    ) -> str | None:
        """Return the named column, else the only one of the right type, else the first with a conventional name."""
        if name is not None:
            if name not in table.features:
                raise _unknown(parameter, name, "column", table.features)
            return name
        if len(typed) == 1:
            return typed[0]
        return next((name for name in conventional if name in table.features), None)


def _encoded(table: Table, parameter: str, column: str, split: str) -> Items:
    """Give access to a column of stored images. Raises ConfigError for any other column."""
    try:
        return table.encoded(column)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"Images.{parameter} = {column!r}: expected a column of images, got {table.features[column]} in split "
            f"{split!r}; the columns are {', '.join(table.features)}."
        ) from error


def _unknown(parameter: str, value: str, kind: str, available: Iterable[str]) -> ConfigError:
    names = sorted(available)
    return ConfigError(
        f"Images.{parameter} = {value!r}: the source has no such {kind}; it has {', '.join(names) or 'none'}."
        + suggest(repr(value), map(repr, names))
        + (" Where there is none, give Images.test=None and experiment.evaluations=()." if parameter == "test" else "")
    )
