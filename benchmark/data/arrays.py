"""Columns of numbers, such as lists of lists or `Array2D`, whose rows become arrays."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from benchmark.data.white import Array, Items, NotReadError

if TYPE_CHECKING:
    import datasets

LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)


def is_numbers(kind: pa.DataType) -> bool:
    """Return whether a type is lists of lists of numbers, of any depth from one."""
    kind = _storage(kind)
    if not isinstance(kind, LISTS):
        return False
    while isinstance(kind, LISTS):
        kind = _storage(kind.value_type)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def items(rows: "datasets.Dataset", column: str) -> Items:
    """Give access to a column of numbers. Raises TypeError where a row has neither 2 nor 3 dimensions."""
    kind, depth = _storage(rows.data.schema.field(column).type), 0
    while isinstance(kind, LISTS):
        kind, depth = _storage(kind.value_type), depth + 1
    if depth not in (2, 3):
        raise TypeError(f"{column} has rows of {depth} dimensions")
    tables = rows.select_columns([column]).with_format("arrow")

    def read(ids: list[int] | range) -> list[Any]:
        rows = (row.values for chunk in tables[ids][column].chunks for row in _plain(chunk))
        return [None if values is None else _array(values) for values in rows]

    return read


def _array(values: pa.Array) -> Array:
    """Return nested lists as an array. Raises NotReadError for lists of unequal length and for numbers that lack."""
    shape = [len(values)]
    while isinstance(values.type, LISTS):
        lengths = compute.unique(compute.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise NotReadError("its rows of numbers are not of one length; each row of pixels has as many")
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count:
        raise NotReadError("some of its numbers are absent; each pixel has a number")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _plain(chunk: pa.Array) -> pa.Array:
    return chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
