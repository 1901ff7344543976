"""Where images come from: one reader for each kind of source, which returns the rows of its splits."""

import glob
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.data.subsets import hashed_order
from benchmark.errors import ConfigError

if TYPE_CHECKING:
    import datasets

Loader = Callable[[], "datasets.Dataset"]


def _digits(place: str) -> dict[str, Loader]:
    """Return the splits of scikit-learn's digits: the first fifth of each class in hashed order is the test split."""
    import datasets
    from sklearn.datasets import load_digits

    if place != "digits":
        raise ConfigError(f"Images.source = 'sklearn:{place}': expected 'sklearn:digits', the only one of its kind.")
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(bunch.target)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for order in hashed_order(labels, "digits", "test"):
        is_test[order[: len(order) // 5]] = True
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list("0123456789")))

    def rows(mask: Tensor) -> "datasets.Dataset":
        ids = mask.nonzero().flatten().tolist()
        columns = {"image": [Image.fromarray(pixels[i]) for i in ids], "label": labels[ids].tolist()}
        return datasets.Dataset.from_dict(columns, features=features)

    return {"train": partial(rows, ~is_test), "test": partial(rows, is_test)}


def _hub(place: str) -> dict[str, Loader]:
    import datasets

    repository, _, configuration = place.partition(":")
    tables = datasets.load_dataset(repository, configuration or None)
    return {split: partial(tables.__getitem__, split) for split in tables}


def _parquet(place: str) -> dict[str, Loader]:
    path = Path(place).expanduser()
    files: dict[str, list[str]] = {}
    if path.is_file():
        files["train"] = [str(path)]
    else:
        folder, pattern = (path, "*.parquet") if path.is_dir() else (path.parent, path.name)
        for file in sorted(folder.glob(pattern)):
            files.setdefault("".join(takewhile(str.isalpha, file.name)), []).append(str(file))
    if not files:
        raise FileNotFoundError("no Parquet file there")

    def rows(names: list[str]) -> "datasets.Dataset":
        import datasets

        # Unlike load_dataset("parquet"), this reports no download to the hub.
        return datasets.Dataset.from_parquet([glob.escape(name) for name in names])

    return {split: partial(rows, names) for split, names in files.items()}


def _folder(place: str) -> dict[str, Loader]:
    root = Path(place).expanduser()
    readable = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}

    def rows(folder: Path) -> "datasets.Dataset":
        import datasets

        # Sorted, because folders list their files in no particular order. Unlike Path.rglob, glob leaves hidden files
        # out and follows links, of which subsets of large data sets are often made.
        names = sorted(glob.glob("**/*", root_dir=folder, recursive=True))  # noqa: PTH207
        files = [Path(name) for name in names if Path(name).suffix.lower() in readable]
        columns: dict[str, list[str]] = {"image": [str(folder / file) for file in files]}
        features = datasets.Features(image=datasets.Image())
        depths = {len(file.parts) > 1 for file in files}
        if depths == {True, False}:
            raise ConfigError(
                f"{folder} has images both directly and in class folders: expected one or the other; move them."
            )
        if depths == {True}:
            columns["label"] = [file.parts[0] for file in files]
            features["label"] = datasets.ClassLabel(names=sorted(set(columns["label"])))
        return datasets.Dataset.from_dict(columns, features=features)

    children = sorted(root.iterdir())
    if any(child.suffix.lower() in readable for child in children):
        return {"train": partial(rows, root)}
    return {child.name: partial(rows, child) for child in children if child.is_dir()}


SCHEMES: dict[str, Callable[[str], dict[str, Loader]]] = {
    "sklearn": _digits,
    "hub": _hub,
    "parquet": _parquet,
    "folder": _folder,
}
