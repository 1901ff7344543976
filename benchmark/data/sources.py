"""Where images come from: one reader for each kind of source, which returns the rows of its splits."""

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data.folder import images_below, readable
from benchmark.data.splits import annotated, check_shards, configured, files_of_splits, is_pointer, parquet_below
from benchmark.data.subsets import hashed_order
from benchmark.data.white import Items
from benchmark.errors import ConfigError
from benchmark.runtime import hub

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Table:
    """The rows of a split: the types of its columns, and the class names of those that have them.

    `values` returns a column as it is; `encoded` gives access to its stored images, or raises TypeError, ValueError or
    NotImplementedError if it has none. `images` are the columns that are declared to hold images. `multilabel` are
    the class names of the columns that are declared to hold a list of classes in each row.
    """

    rows: int
    features: Mapping[str, object]
    images: list[str]
    classes: Mapping[str, list[str]]
    values: Callable[[str], list[Any]]
    encoded: Callable[[str], Items]
    multilabel: Mapping[str, list[str]] = field(default_factory=dict)


Loader = Callable[[], Table]

DIGITS = "datasets/data/digits.csv.gz"  # inside scikit-learn, whose own reader takes a second to import


def _digits(place: str) -> dict[str, Loader]:
    """Return the splits of scikit-learn's digits: the first fifth of each class in hashed order is the test split."""
    if place != "digits":
        raise ConfigError(f"Images.source = 'sklearn:{place}': expected 'sklearn:digits', the only one of its kind.")
    grey, classes = _grey_and_classes()
    pixels, labels = np.rint(grey * (255 / 16)).astype(np.uint8), torch.from_numpy(classes)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for order in hashed_order(labels, "digits", "test"):
        is_test[order[: len(order) // 5]] = True

    def rows(mask: Tensor) -> Table:
        ids = mask.nonzero().flatten().tolist()
        images = [{"bytes": b"P5 8 8 255\n" + pixels[i].tobytes(), "path": None} for i in ids]  # PGM files
        columns = {"image": images, "label": labels[ids].tolist()}

        def encoded(column: str) -> Items:
            if column != "image":
                raise TypeError(column)
            return lambda ids: [images[i] for i in ids]

        features = {"image": "Image", "label": "ClassLabel"}
        return Table(len(ids), features, ["image"], {"label": list("0123456789")}, columns.__getitem__, encoded)

    return {"train": partial(rows, ~is_test), "test": partial(rows, is_test)}


def _grey_and_classes() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the digits, 64 values from 0 to 16 each, and their classes."""
    package = find_spec("sklearn")
    try:
        table = np.loadtxt(Path(str(package and package.origin)).parent / DIGITS, delimiter=",", dtype=np.int64)
    except OSError:
        from sklearn.datasets import load_digits

        grey, classes = load_digits(return_X_y=True)
        return grey, classes
    return table[:, :-1], table[:, -1]


@contextmanager
def _library(files: Sequence[Path] = ()) -> Iterator[Any]:
    """Yield the library `datasets`; its errors become OSError, which names the damaged one of `files`."""
    import datasets

    datasets.disable_progress_bars()
    try:
        yield datasets
    except (datasets.exceptions.DatasetsError, ValueError) as error:  # the latter also by pyarrow
        raise OSError(_damage(files) or str(error.__cause__ or error)) from error


def _table(rows: "datasets.Dataset") -> Table:
    import datasets

    from benchmark.data import arrays  # with pyarrow, which `datasets` has imported

    def encoded(column: str) -> Items:
        if arrays.is_numbers(rows.data.schema.field(column).type):
            return arrays.items(rows, column)
        images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        return lambda ids: images[ids][column]

    features = rows.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    items = {name: getattr(feature, "feature", None) for name, feature in features.items()}  # of lists
    multilabel = {name: item.names for name, item in items.items() if isinstance(item, datasets.ClassLabel)}
    return Table(len(rows), features, images, classes, lambda column: rows[column][:], encoded, multilabel)


def _hub(place: str) -> dict[str, Loader]:
    repository, _, configuration = place.partition(":")
    hub.only_cached_if_unreachable()
    with _library() as datasets:
        tables = datasets.load_dataset(repository, configuration or None)
    return {split: partial(_table, tables[split]) for split in tables}


def local_copy(folder: Path, configuration: str) -> dict[str, Loader]:
    """Return the splits of a folder that takes the place of a data set of the hub: Parquet files, or image files."""
    return _parquet(str(folder), configuration) if next(parquet_below(folder), None) else _folder(str(folder))


def _parquet(place: str, configuration: str = "") -> dict[str, Loader]:
    path = Path(place).expanduser()
    if path.is_file():
        splits = {"train": [path]}
    elif path.is_dir():
        inside = path / configuration
        root = inside if inside.is_dir() else path
        splits = configured(path, configuration) or files_of_splits(root, parquet_below(root))
    else:
        splits = files_of_splits(path.parent, path.parent.glob(path.name))
    if not splits:
        raise FileNotFoundError("no Parquet file there")
    return {split: partial(_rows_of_parquet, files, path.is_dir()) for split, files in splits.items()}


def _rows_of_parquet(files: list[Path], is_whole: bool) -> Table:
    if is_whole:
        check_shards(files)
    for file in files:
        if is_pointer(file):
            raise OSError(f"{file} is a pointer of Git LFS, whose content was not fetched: git lfs pull fetches it")
    with _library(files) as datasets:
        # Unlike load_dataset("parquet"), this reports no download to the hub.
        return _table(datasets.Dataset.from_parquet([glob.escape(str(file)) for file in files]))


def _damage(files: Sequence[Path]) -> str:
    """Return which file cannot be read, and why; '' where each can."""
    import pyarrow.parquet

    for file in files:
        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                for _ in table.iter_batches():
                    pass
        except (OSError, ValueError) as error:
            return f"{file}: {error}"
    return ""


def _folder(place: str) -> dict[str, Loader]:
    root = Path(place).expanduser()

    def rows(folder: Path) -> Table:
        files = images_below(folder)
        columns: dict[str, list[str]] = {"image": [str(folder / file) for file in files]}
        depths = {len(file.parts) > 1 for file in files}
        annotations = annotated(folder)
        if depths == {True, False}:
            raise ConfigError(
                f"{folder} has images both directly and in class folders: expected one or the other; move them."
            )
        with _library() as datasets:
            features = datasets.Features(image=datasets.Image())
            if annotations is not None or depths == {True}:
                columns["label"] = [_class_of(file, folder, annotations) for file in files]
                features["label"] = datasets.ClassLabel(names=sorted(set(columns["label"])))
            return _table(datasets.Dataset.from_dict(columns, features=features))

    children, suffixes = sorted(root.iterdir()), readable()
    folders = [child for child in children if child.is_dir()]
    if any(child.suffix.lower() in suffixes for child in children) or (children and not folders):
        return {"train": partial(rows, root)}
    return {child.name: partial(rows, child) for child in folders}


def paired(root: Path, images: str, masks: str) -> dict[str, Loader]:
    """Return the splits of images and masks in two folders, `root/images/split/a.jpg` and `root/masks/split/a.png`.

    Files that belong together have the same place and name but for the suffix; the columns have the names of the
    folders. Raises ConfigError for an image without a mask, and the other way round.
    """

    def rows(split: str) -> Table:
        columns: dict[str, list[str]] = {}
        named: list[list[Path]] = []
        for column in (images, masks):
            folder = root / column / split
            files = images_below(folder)
            columns[column] = [str(folder / file) for file in files]
            named.append([file.with_suffix("") for file in files])
        if named[0] != named[1]:
            alone = min(set(named[0]) ^ set(named[1]), default=None)
            what = f"{alone} is in one of them alone" if alone else "two files have the same name but for the suffix"
            raise ConfigError(f"{root / images / split} and {root / masks / split} differ: {what}. Pair each image.")
        with _library() as datasets:
            features = datasets.Features({column: datasets.Image() for column in columns})
            return _table(datasets.Dataset.from_dict(columns, features=features))

    return {folder.name: partial(rows, folder.name) for folder in sorted((root / masks).iterdir()) if folder.is_dir()}


def _class_of(file: Path, folder: Path, annotations: Mapping[str, str] | None) -> str:
    """Return the class of an image: its folder's name, or what an annotation file says of its own name."""
    if annotations is None:
        return file.parts[0]
    if file.name not in annotations:
        raise ConfigError(f"{folder / file} has no line in the annotation file of {folder}. Restore it.")
    return annotations[file.name]


STL10_SIDE = 96


def _stl10(place: str) -> dict[str, Loader]:
    """Return the splits of STL-10's binary files, of which images are read from disk when they are used."""
    root = Path(place).expanduser()
    names = (root / "class_names.txt").read_text().split()

    def rows(file: Path) -> Table:
        # each channel lies column by column: to rows, columns, channels
        pixels = np.memmap(file, np.uint8, "r").reshape(-1, 3, STL10_SIDE, STL10_SIDE).transpose(0, 3, 2, 1)
        labels = file.with_name(file.name.replace("_X", "_y"))
        columns: dict[str, list[int]] = {"image": []}
        if labels.is_file():
            columns["label"] = (np.fromfile(labels, np.uint8).astype(int) - 1).tolist()
            if len(columns["label"]) != len(pixels):
                raise OSError(f"{file} has {len(pixels)} images and {labels} {len(columns['label'])} labels")

        def encoded(column: str) -> Items:
            if column != "image":
                raise TypeError(column)
            return lambda ids: [np.ascontiguousarray(pixels[i]) for i in ids]

        classes = {"label": names} if "label" in columns else {}
        features = dict.fromkeys(columns, "column of STL-10")
        return Table(len(pixels), features, ["image"], classes, columns.__getitem__, encoded)

    return {file.name.removesuffix("_X.bin"): partial(rows, file) for file in sorted(root.glob("*_X.bin"))}


SCHEMES: dict[str, Callable[[str], dict[str, Loader]]] = {
    "sklearn": _digits,
    "hub": _hub,
    "parquet": _parquet,
    "folder": _folder,
    "stl10": _stl10,
}
