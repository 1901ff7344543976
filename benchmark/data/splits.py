"""Which files of a folder are which split, by the rules of the library `datasets`.

A split is named by a shard (`train-00000-of-00002.parquet`), by a folder (`train/0.parquet`) or by a word of the file's
name (`cifar_test.parquet`). Words mean the splits that they mean to `datasets`: `val` is `validation`. Two stems never
become one split in silence: beside `train.parquet`, the split of `train_extra.parquet` is `train_extra`.
"""

import glob
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from benchmark.errors import ConfigError, MissingError

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The words by which `datasets` knows its splits, in the order in which it looks for them."""

SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}")
NUMBER = re.compile(r"-(\d{5})-of-(\d{5})")
BETWEEN = re.compile(r"[-._ 0-9]+")
LFS = b"version https://git-lfs"


def parquet_below(folder: Path) -> Iterator[Path]:
    """Yield the Parquet files in a folder or, where it has none, below it; none that is hidden."""
    direct = [file for file in folder.glob("*.parquet") if not file.name.startswith(".")]
    yield from direct or (
        file
        for file in folder.rglob("*.parquet")
        if not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
    )


def files_of_splits(root: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the files of each split, in order. Raises ConfigError for a split that lies in several folders."""
    stems: dict[str, list[tuple[PurePath, Path]]] = {}  # what names a split, and the folder in which it names it
    exact = set()
    for file in sorted(files):
        name, home, is_shard = _named(file.relative_to(root))
        stems.setdefault(name, []).append((home, file))
        exact |= {name} if is_shard else set()
    splits: dict[str, list[Path]] = {}
    for split, name in _renamed(stems, exact).items():
        homes = sorted({str(home) for home, _ in stems[name]})
        if len(homes) > 1:
            raise ConfigError(
                f"Split {split!r} has files in {len(homes)} folders of {root} ({', '.join(homes[:4])}), which may be "
                f"several data sets or configurations. Give one of them: --set Images.source=parquet:{root / homes[0]}"
            )
        splits[split] = [file for _, file in stems[name]]
    return splits


def configured(root: Path, configuration: str) -> dict[str, list[Path]] | None:
    """Return the files of each split as the card of a cloned data set states them; None where it states none.

    Raises ConfigError for several configurations of which none is named, and OSError for a split of which the card
    names a file that is absent.
    """
    card = root / "README.md"
    if not (card.is_file() and re.search(r"^configs:", card.read_text(errors="replace"), re.MULTILINE)):
        return None
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        stated = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    except Exception as error:  # a text that somebody wrote by hand
        raise OSError(f"{card} has configurations that cannot be read: {error}") from error
    if not stated:
        return None
    name = configuration or stated.get_default_config_name()
    if name not in stated:
        raise ConfigError(
            f"{root} has the configurations {', '.join(stated)}, and {name or 'which of them is meant'} is "
            f"{'none of them' if name else 'not said'}. Give Images.source=hub:owner/name:CONFIGURATION with "
            f"SSL_BENCHMARK_DATA, or the folder of one of them."
        )
    folder = root / stated[name].get("data_dir", "")
    patterns = stated[name].get("data_files")
    if not patterns:
        return files_of_splits(folder, parquet_below(folder))
    splits: dict[str, list[Path]] = {}
    for split, several in sanitize_patterns(patterns).items():
        files = {file for pattern in several for file in folder.glob(pattern) if file.suffix == ".parquet"}
        absent = [name for name in several if not (glob.has_magic(name) or (folder / name).exists())]
        if files and absent:
            raise OSError(f"{card} names {absent[0]} as a file of the split {split!r}, and it is absent; restore it")
        if files:
            splits[split] = sorted(files)
    return splits or None


def annotated(folder: Path) -> dict[str, str] | None:
    """Return the class of each file of a split by its annotation file, as Tiny-ImageNet has one; None without one.

    In a folder `val` this is `val_annotations.txt`, whose lines begin with the name of a file and its class, separated
    by tabs.
    """
    file = folder / f"{folder.name}_annotations.txt"
    if not file.is_file():
        return None
    rows = [line.split("\t") for line in file.read_text().splitlines() if line.strip()]
    if short := [row for row in rows if len(row) < 2]:
        raise ConfigError(f"{file} has the line {short[0][0]!r}: expected the name of a file, a tab and its class.")
    return {row[0]: row[1] for row in rows}


def check_shards(files: Sequence[Path]) -> None:
    """Raise MissingError for a split that lacks some of its shards, or may have the same images twice."""
    stems: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        if shard := NUMBER.search(file.name):
            stems.setdefault(str(file.parent / file.name[: shard.start()]), []).append((int(shard[1]), int(shard[2])))
    for stem, shards in stems.items():
        folder, counts = Path(stem).parent, sorted({count for _, count in shards})
        if len(counts) > 1 or Path(f"{stem}.parquet") in files:
            both = f"of {' and of '.join(map(str, counts))}" + (" and all in one file" if len(counts) == 1 else "")
            raise MissingError(
                f"{folder} has shards {both} of one split, which may hold the same images twice. Remove those of one "
                f"kind, or name by a glob what is to be read."
            )
        lacking = sorted(set(range(counts[0])) - {number for number, _ in shards})
        if lacking:
            raise MissingError(
                f"{folder} has {len(shards)} of {counts[0]} shards of a split: {lacking[0]:05} is missing beside "
                f"{Path(stem).name}-{shards[0][0]:05}-of-{counts[0]:05}. Restore it, or name by a glob what is to be "
                f"read: --set 'Images.source=parquet:{folder}/*.parquet'"
            )


def is_pointer(file: Path) -> bool:
    """Return whether a file of a clone only names its content, which Git LFS has not fetched."""
    with file.open("rb") as stream:
        return stream.read(len(LFS)) == LFS


def _named(path: PurePath) -> tuple[str, PurePath, bool]:
    """Return what names the split of a file, the folder in which it does, and whether as a shard."""
    shard = SHARD.match(path.name)
    if not (shard and _split_of(shard[1])):
        for depth, part in enumerate(path.parent.parts):
            if _split_of(part):
                return part, PurePath(*path.parts[:depth]), False
    if shard:
        return shard[1], path.parent, True
    stem = re.sub(r"(-\d{5}-of-\d{5}.*|[-._ 0-9]+)$", "", path.stem)
    return stem or "train", path.parent, False


def _split_of(stem: str) -> str | None:
    """Return the split that a word of a name means, None without such a word."""
    words = BETWEEN.split(stem)
    return next((split for split, meaning in WORDS.items() if not set(words).isdisjoint(meaning)), None)


def _renamed(stems: Iterable[str], exact: Collection[str]) -> dict[str, str]:
    """Return the stem of each split: what its words mean, or its own name if it is `exact` or if two mean the same."""
    meant: dict[str, list[str]] = {}
    for stem in stems:
        meant.setdefault(stem if stem in exact else _split_of(stem) or stem, []).append(stem)
    renamed = {}
    for split, several in meant.items():
        for stem in several:
            renamed[split if len(several) == 1 else stem] = stem
    return renamed
