"""Which files are which split: as the library `datasets` says, and never two data sets as one."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.data_files import DataFilesDict, get_data_patterns
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.images import Images
from benchmark.data.splits import files_of_splits
from benchmark.errors import ConfigError, MissingError


def touch(root: Path, *names: str) -> list[Path]:
    files = [root / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


def splits(root: Path, *names: str) -> dict[str, list[str]]:
    """Return what we make of files, by names relative to their folder."""
    found = files_of_splits(root, touch(root, *names))
    return {split: [str(file.relative_to(root)) for file in files] for split, files in found.items()}


def of_library(root: Path) -> dict[str, list[str]]:
    """Return what the library makes of the files in a folder."""
    found = DataFilesDict.from_patterns(get_data_patterns(str(root)), base_path=str(root))
    return {split: sorted(str(Path(file).relative_to(root)) for file in files) for split, files in found.items()}


AS_THE_LIBRARY = [
    ("train.parquet", "test.parquet"),
    ("train-0.parquet", "train-1.parquet", "validation.parquet"),
    ("train0.parquet", "train1.parquet", "dev.parquet"),
    ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"),
    ("data/train-00000-of-00001.parquet", "data/train_extra-00000-of-00001.parquet"),
    ("data/test-00000-of-00001.parquet", "data/test_corrupted-00000-of-00001.parquet"),
    ("data/train-00000-of-00001-0123456789abcdef.parquet", "data/val-00000-of-00001-0123456789abcdef.parquet"),
    ("cifar_train.parquet", "cifar_test.parquet"),
    ("cifar10-train-00000-of-00001.parquet", "cifar10-test-00000-of-00001.parquet"),
    ("training.parquet", "eval.parquet", "valid.parquet"),
    ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
    ("default/train/0000.parquet", "default/validation/0000.parquet"),
    ("0000.parquet", "0001.parquet"),
    ("train/part-00000-of-00002.parquet", "train/part-00001-of-00002.parquet", "val/part-00000-of-00001.parquet"),
]


@pytest.mark.parametrize("names", AS_THE_LIBRARY)
def test_names_mean_what_they_mean_to_the_library(names: tuple[str, ...], tmp_path: Path) -> None:
    """Oracle: the library's own functions on the same files."""
    assert splits(tmp_path, *names) == of_library(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train.parquet", "train_extra.parquet"), {"train": 1, "train_extra": 1}),
        (("test.parquet", "test_corrupted-0.parquet"), {"test": 1, "test_corrupted": 1}),
        (("train.parquet", "unlabeled.parquet"), {"train": 1, "unlabeled": 1}),
        (("train_a.parquet", "train_b.parquet"), {"train_a": 1, "train_b": 1}),
        (("trainer.parquet", "contest.parquet"), {"trainer": 1, "contest": 1}),
    ],
)
def test_two_stems_are_two_splits(names: tuple[str, ...], expected: dict[str, int], tmp_path: Path) -> None:
    """Oracle: the names by hand; the library would join the files of some, and drop others."""
    assert {split: len(files) for split, files in splits(tmp_path, *names).items()} == expected


def test_two_configurations_are_not_joined(tmp_path: Path) -> None:
    """Oracle: the folders of the files."""
    with pytest.raises(ConfigError, match=r"'train' has files in 2 folders .*160px, 320px.*source=parquet:.*/160px"):
        splits(tmp_path, "160px/train-00000-of-00001.parquet", "320px/train-00000-of-00001.parquet")


def write(file: Path, value: int, n: int = 2) -> None:
    """Write `n` grey images of one value."""
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee"]))
    rows = {"image": [np.full((4, 4, 3), value, dtype=np.uint8)] * n, "label": [0, 1] * (n // 2)}
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)


def load(source: str, **arguments: object) -> Dataset:
    return Images(**({"name": "toy", "source": source, "size": 4} | arguments))()  # type: ignore[arg-type]


def values(data: Dataset) -> list[list[int]]:
    return [split.images.unique().tolist() for split in (data.train, data.test)]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a data set with two shards of train, one of test, and one of another split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "data/toy"
    for part in range(2):
        write(root / f"data/train-{part:05}-of-00002.parquet", 10 + part)
    write(root / "data/train_extra-00000-of-00001.parquet", 90)
    write(root / "data/test-00000-of-00001.parquet", 20)
    write(root / ".git/lfs/train-00000-of-00001.parquet", 99)
    return root


def test_a_clone_of_the_hub(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the written values; the library reads the same; the clone takes the place of the hub."""
    assert values(load(f"parquet:{clone}")) == [[10, 11], [20]]
    assert values(load(f"parquet:{clone}/data")) == [[10, 11], [20]]
    assert values(load(f"parquet:{clone}/data/t*.parquet")) == [[10, 11], [20]]
    assert values(load(f"parquet:{clone}", train="train_extra")) == [[90], [20]]
    theirs = datasets.load_dataset(str(clone))
    assert {split: len(rows) for split, rows in theirs.items()} == {"train": 4, "train_extra": 2, "test": 2}
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(clone.parent))
    assert values(load("hub:owner/toy")) == [[10, 11], [20]]


def test_the_card_of_a_clone_says_its_splits(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the card as the test writes it; of two configurations one has to be named."""
    write(clone / "small/one.parquet", 30)
    write(clone / "small/two.parquet", 40)
    entry = "- config_name: {0}\n  data_files:\n  - split: train\n    path: {1}\n  - split: test\n    path: {2}\n"
    whole = entry.format("whole", "data/train-*", "data/test-*")
    small = entry.format("small", "small/one.parquet", "small/two.parquet")
    (clone / "README.md").write_text(f"---\nconfigs:\n{small}---\n# Toy\n")
    assert values(load(f"parquet:{clone}")) == [[30], [40]]
    (clone / "README.md").write_text(f"---\nconfigs:\n{whole}{small}---\n# Toy\n")
    with pytest.raises(ConfigError, match="configurations whole, small, and which of them is meant is not said"):
        load(f"parquet:{clone}")
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(clone.parent))
    assert values(load("hub:owner/toy:small")) == [[30], [40]]
    assert values(load("hub:owner/toy:whole")) == [[10, 11], [20]]


def test_a_damaged_shard_is_named(clone: Path) -> None:
    """Oracle: the shard whose middle the test overwrites, and one that Git LFS has not fetched."""
    shard = clone / "data/train-00001-of-00002.parquet"
    contents = bytearray(shard.read_bytes())
    contents[4:200] = bytes(196)
    shard.write_bytes(contents)
    with pytest.raises(MissingError, match=rf"Split 'train' of data set 'toy' cannot be read .*{shard}: "):
        load(f"parquet:{clone}")
    shard.write_bytes(contents[:200])  # as an interrupted download leaves it
    with pytest.raises(MissingError, match=rf"{shard}: "):
        load(f"parquet:{clone}")
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(MissingError, match=rf"{shard} is a pointer of Git LFS.*git lfs pull"):
        load(f"parquet:{clone}")


def test_a_missing_shard_is_named(clone: Path) -> None:
    """Oracle: the shard that the test removes, and one of another count; a glob says that this is meant."""
    (clone / "data/train-00000-of-00002.parquet").unlink()
    assert values(load(f"parquet:{clone}", train="train_extra")) == [[90], [20]]  # what is not read need not be whole
    with pytest.raises(MissingError, match=r"has 1 of 2 shards of a split: 00000 is missing beside train-00001"):
        load(f"parquet:{clone}")
    assert values(load(f"parquet:{clone}/data/*.parquet")) == [[11], [20]]
    write(clone / "data/train-00000-of-00001.parquet", 12)
    with pytest.raises(
        MissingError, match="has shards of 1 and of 2 of one split, which may hold the same images twice"
    ):
        load(f"parquet:{clone}")


def test_a_file_beside_its_shards_is_refused(clone: Path) -> None:
    """Oracle: the file that the test adds, as one that joined the shards."""
    write(clone / "data/train.parquet", 10, n=4)
    with pytest.raises(MissingError, match=r"shards of 2 and all in one file of one split.*the same images twice"):
        load(f"parquet:{clone}")


def test_a_card_joins_folders_whose_shards_are_each_complete(tmp_path: Path) -> None:
    """Oracle: the written values; then a shard that the test removes, and a file that it never writes."""
    for folder, n in (("old", 2), ("new", 3)):
        for part in range(n):
            write(tmp_path / f"{folder}/train-{part:05}-of-{n:05}.parquet", 10 * n + part)
    card = "---\nconfigs:\n- config_name: one\n  data_files:\n  - split: train\n    path: {}\n---\n"
    (tmp_path / "README.md").write_text(card.format('"*/train-*"'))
    assert values(load(f"parquet:{tmp_path}", test=None)) == [[20, 21, 30, 31, 32], []]
    (tmp_path / "old/train-00001-of-00002.parquet").unlink()
    with pytest.raises(MissingError, match=r"old has 1 of 2 shards of a split: 00001 is missing"):
        load(f"parquet:{tmp_path}", test=None)
    (tmp_path / "README.md").write_text(card.format("[new/train-*, extra.parquet]"))
    with pytest.raises(MissingError, match=r"names extra.parquet as a file of the split 'train', and it is absent"):
        load(f"parquet:{tmp_path}", test=None)


def test_a_card_that_cannot_be_read_is_named(clone: Path) -> None:
    """Oracle: the file that the test writes wrongly, and one with a folder in place of files."""
    (clone / "README.md").write_text("---\nconfigs:\n- config_name: [\n---\n")
    with pytest.raises(MissingError, match=r"README.md has configurations that cannot be read"):
        load(f"parquet:{clone}")
    (clone / "README.md").write_text("---\nconfigs:\n- config_name: one\n  data_dir: data\n---\n")
    assert values(load(f"parquet:{clone}")) == [[10, 11], [20]]


def photos(root: Path, *names: str) -> None:
    for file in touch(root, *names):
        if file.suffix == ".png":
            Image.new("RGB", (4, 4)).save(file)


def test_files_left_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the files by hand: the number, three names and what reads them; nothing of notes and hidden files."""
    photos(tmp_path, *(f"train/ant/{i}.png" for i in range(5)))
    photos(tmp_path, "train/ant/notes.txt", "train/labels.csv", "train/.hidden", "train/README")
    assert load(f"folder:{tmp_path}", test=None).train.images.shape[0] == 5
    assert capsys.readouterr().out == ""
    photos(tmp_path, "train/ant/a.heic", "train/ant/b.DCM", "train/ant/c", "train/ant/d.npy")
    assert load(f"folder:{tmp_path}", test=None).train.images.shape[0] == 5
    said = capsys.readouterr().out
    for words in (
        "4 files are left out",
        "ant/a.heic, ant/b.DCM, ant/c, ...",
        ".heic by pillow-heif",
        ".dcm by pydicom",
    ):
        assert words in said


@pytest.mark.parametrize(
    "names",
    [
        ("train/ant/0.png", "train/bee/0.heic", "train/bee/1.heic"),
        ("train/0.png", "train/1.eps", "train/2.eps"),
        ("0.heic", "1.heic"),
        ("train/ant/0", "train/ant/1"),
    ],
)
def test_a_folder_that_is_mostly_left_out_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    """Oracle: the files by hand: of one class, or of the whole folder, more are left out than read."""
    photos(tmp_path, *names)
    with pytest.raises(MissingError, match=r"2 files are left out.*more than is read"):
        load(f"folder:{tmp_path}", test=None)
