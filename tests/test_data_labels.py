"""Lists of labels: which images have which classes, and what is refused."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.images import Images
from benchmark.data.subsets import holdout
from benchmark.errors import ConfigError

NAMES = ("ant", "bee", "cat", "dog")
ROWS = [[0, 2], [], [1], [2, 1, 0], [0]]
MARKS = [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]
DECLARED = datasets.Sequence(datasets.ClassLabel(names=list(NAMES)))
INTEGERS = datasets.Sequence(datasets.Value("int64"))
STRINGS = datasets.Sequence(datasets.Value("string"))


def write(file: Path, rows: list[Any], kind: Any, label: str = "label", **more: Any) -> None:
    """Write a Parquet file of grey images with these labels; `more` are other columns, as (rows, kind)."""
    images = [Image.new("RGB", (4, 4), (10 * i % 256, 20, 30)) for i in range(len(rows))]
    columns = {"image": (images, datasets.Image()), label: (rows, kind), **more}
    features = datasets.Features({name: kind for name, (_, kind) in columns.items()})
    table = {name: values for name, (values, _) in columns.items()}
    datasets.Dataset.from_dict(table, features=features).to_parquet(file)


def load(folder: Path, **arguments: Any) -> Dataset:
    return Images(name="toy", source=f"parquet:{folder}", size=4, **{"test": None} | arguments)()


@pytest.mark.parametrize(
    ("rows", "kind", "classes"),
    [
        (ROWS, DECLARED, NAMES),
        (ROWS, INTEGERS, ("0", "1", "2")),
        ([[NAMES[i] for i in row] for row in ROWS], STRINGS, NAMES[:3]),
        ([[NAMES[i] for i in row + row[:1]] for row in ROWS], STRINGS, NAMES[:3]),  # a name twice is no mark
    ],
)
def test_lists_are_marks(tmp_path: Path, rows: list[Any], kind: Any, classes: tuple[str, ...]) -> None:
    """Oracle: the marks by hand; a class that no image has is there where the feature declares it."""
    write(tmp_path / "train.parquet", rows, kind)
    data = load(tmp_path)
    assert data.classes == classes
    assert data.is_multilabel
    assert data.train.labels is not None
    assert data.train.labels.dtype == torch.bool
    assert data.train.labels.int().tolist() == [row[: len(classes)] for row in MARKS]


def test_which_column_has_the_labels(tmp_path: Path) -> None:
    """Oracle: the only declared lists, but a class column comes before them; any other column has to be named."""
    write(tmp_path / "train.parquet", ROWS, DECLARED, label="tags")
    assert load(tmp_path).is_multilabel
    single = {"species": ([0, 1, 0, 1, 0], datasets.ClassLabel(names=["x", "y"]))}
    write(tmp_path / "train.parquet", ROWS, DECLARED, label="tags", **single)
    data = load(tmp_path)
    assert (data.classes, data.is_multilabel) == (("x", "y"), False)
    assert load(tmp_path, label="tags").classes == NAMES
    write(tmp_path / "train.parquet", ROWS, INTEGERS, label="tags")
    assert load(tmp_path).train.labels is None
    assert load(tmp_path, label="tags").is_multilabel


def test_fingerprints_tell_marks_apart(tmp_path: Path) -> None:
    """Oracle: another mark is another data set; the order in a list is not."""
    prints = []
    for rows in (ROWS, [row[::-1] for row in ROWS], [*ROWS[:-1], [1]]):
        write(tmp_path / "train.parquet", rows, DECLARED)
        prints.append(load(tmp_path).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([[0], [1, -1]], INTEGERS, r"Label \[1, -1\] of image 1 .*expected a list of class names"),
        ([[0], None], INTEGERS, "Label None of image 1"),
        ([["a"], ["b", " "]], STRINGS, r"Label \['b', ' '\] of image 1"),
        ([[0.5], [1.0]], datasets.Sequence(datasets.Value("float32")), r"Label \[0.5\] of image 0"),
        ([[True, False]], datasets.Sequence(datasets.Value("bool")), r"Label \[True, False\] of image 0"),
        ([[0, 1, 0], [1, 0, 0]], INTEGERS, "may be marks, one for each class"),
        ([[0, 1], [1, 0]], INTEGERS, "may be marks, one for each class"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(tmp_path: Path, rows: list[Any], kind: Any, message: str) -> None:
    """Oracle: the row by hand, and what was expected; marks of 0 and 1 are not read as two classes."""
    write(tmp_path / "train.parquet", rows, kind)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("label", [4, [0, 4]])
def test_a_number_beyond_the_declared_names_is_refused(tmp_path: Path, label: Any) -> None:
    """Oracle: four names, for the numbers 0 to 3; a file may hold any number, whatever its type declares."""
    several, file = isinstance(label, list), tmp_path / "train.parquet"
    write(file, [[0], label] if several else [0, label], INTEGERS if several else INTEGERS.feature)
    features = datasets.Features({"image": datasets.Image(), "label": DECLARED if several else DECLARED.feature})
    pq.write_table(pq.read_table(file).replace_schema_metadata(features.arrow_schema.metadata), file)
    with pytest.raises(ConfigError, match=r"split 'train' .* is 4, but 4 names of classes are declared, .* 0 to 3"):
        load(tmp_path)


def test_splits_have_labels_of_one_kind(tmp_path: Path) -> None:
    """Oracle: a class that train does not know, and a test split of one label an image, are named."""
    write(tmp_path / "train.parquet", ROWS, INTEGERS)
    write(tmp_path / "test.parquet", [[0], [3]], INTEGERS)
    with pytest.raises(ConfigError, match="does not know: 3; expected some of 0, 1, 2"):
        load(tmp_path, test="test")
    write(tmp_path / "test.parquet", [0, 1], datasets.Value("int64"))
    with pytest.raises(ConfigError, match="'train' and 'test' of toy one has a label an image"):
        load(tmp_path, test="test")


def test_a_message_about_a_thousand_classes_is_readable(tmp_path: Path) -> None:
    """Oracle: the class that train does not know, the first twenty that it knows, and how many more there are."""
    write(tmp_path / "train.parquet", list(range(1000)), datasets.Value("int64"))
    write(tmp_path / "test.parquet", [5, 2000], datasets.Value("int64"))
    with pytest.raises(ConfigError, match=r"does not know: 2000; expected some of 0, 1, .*, 19 and 980 more\.$"):
        load(tmp_path, test="test")


def test_the_holdout_of_sets_is_a_random_tenth() -> None:
    """Oracle: its size, the same for the same name, another for another name, whatever the labels."""
    labels = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    fit, held = holdout(labels, "toy")
    assert len(held) == 20
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(200))
    assert torch.equal(held, holdout(~labels, "toy")[1])
    assert not torch.equal(held, holdout(labels, "other")[1])
