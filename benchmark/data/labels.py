"""Labels: what a column says of each image, as the index of its class or as marks of its classes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import ConfigError

MOST_NAMES = 20  # that a message lists
Names = list[str] | list[list[str]]  # of the class of each image, or of the classes of each image


def class_names(labels: Sequence[Any], declared: Sequence[str] | None, where: str) -> tuple[Names, tuple[str, ...]]:
    """Return the class names of each row, and all class names in the order of their index.

    `labels` are the rows of a column: a class each, or a list of classes each, which may be empty. Integers are indices
    into the `declared` names, if there are any. Raises ConfigError for rows that are neither, such as a mark for each
    class.
    """
    several = any(isinstance(label, list) for label in labels)
    rows = labels if several else [[label] for label in labels]
    for index, row in enumerate(rows):
        if not isinstance(row, list) or not all(map(_is_class, row)):
            raise ConfigError(
                f"Label {labels[index]!r} of image {index} in {where}: expected "
                f"{'a list of class names, or of integers' if several else 'a class name or an integer'} from 0. A "
                f"split without labels can only be Images.pretrain."
            )
    different = sorted({label for row in rows for label in row})
    if declared is not None and (unnamed := [label for label in different if label not in range(len(declared))]):
        raise ConfigError(
            f"A label in {where} is {unnamed[0]!r}, but {len(declared)} names of classes are declared, for the numbers "
            f"0 to {len(declared) - 1}. Add the missing names, or correct the labels."
        )
    is_twice = declared is None and any(len(set(row)) < len(row) and isinstance(row[0], int) for row in rows)
    if is_twice or (several and declared is None and different == [0, 1] and all(len(row) == 2 for row in rows)):
        raise ConfigError(
            f"The lists of integers in {where}, such as {rows[0]}, have one twice, or all are of 0 and 1: they may be "
            f"marks, one for each class. Expected the indices of the image's classes, or their names."
        )
    names = [[str(label) if declared is None else declared[label] for label in row] for row in rows]
    classes = tuple(map(str, different)) if declared is None else tuple(declared)
    return (names if several else [name for (name,) in names]), classes


def marked(names: Names, classes: tuple[str, ...], split: str) -> Tensor:
    """Return the labels of a `Split`: the position of each row's class in `classes`, or marks of each row's classes.

    Raises ConfigError for a class that is not among them.
    """
    rows = [name if isinstance(name, list) else [name] for name in names]
    unknown = sorted({each for row in rows for each in row} - set(classes))
    if unknown:
        raise ConfigError(
            f"Split {split!r} has labels that the train split does not know: {_listed(unknown)}; "
            f"expected some of {_listed(classes)}."
        )
    position = {name: index for index, name in enumerate(classes)}
    if not isinstance(names[0], list):
        return torch.tensor([position[name] for (name,) in rows])
    marks = torch.zeros(len(rows), len(classes), dtype=torch.bool)
    for mark, row in zip(marks, rows, strict=True):
        mark[[position[name] for name in row]] = True
    return marks


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _is_class(label: object) -> bool:
    return bool(label.strip()) if isinstance(label, str) else type(label) is int and label >= 0
