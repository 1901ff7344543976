"""The nearest neighbours by cosine: exact, at the speed of a product in low precision.

A first product in low precision leaves a shortlist, of which only a few pairs are computed again. Its error has a
bound, so each query knows whether its shortlist holds all of its nearest neighbours; one that does not know is searched
again more precisely. The processor and the data thus decide how long a search takes, and never what it finds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CELLS = 2**25  # similarities held at once
WIDE = 2**27  # numbers of keys held in float64 at once: 1 GiB
BLOCK = 2**20  # numbers converted or multiplied at once: few enough for the cache
PAY = 30  # a shortlist of more than 1/30 of the keys costs more than it saves
UNKNOWN = torch.iinfo(torch.int64).max


def nearest(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the cosines `(n, k)` float32 and the ids `(n, k)` of the nearest keys of each query, nearest first.

    `queries` `(n, dim)` and `keys` `(n_keys, dim)` are of any length; of fewer than `k` keys all are returned, and a
    zero row has the cosine 0 with every other. A cosine is computed in float64 and rounded to float32, and equal ones
    are ordered by id: neither the division of the work nor the precision of the first product shows in the result.
    """
    asked, given, k = _Rows.of(queries), _Rows.of(keys), min(k, len(keys))
    order = torch.full((len(queries), k), UNKNOWN, device=keys.device)
    unknown = torch.arange(len(queries), device=keys.device)
    for precision in _precisions(keys.device) if PAY * _length(k) <= len(keys) else []:
        if len(unknown):
            order[unknown] = _by_shortlist(asked[unknown], given, k, precision)
            unknown = (order[:, -1] == UNKNOWN).nonzero().flatten()
    if len(unknown):
        order[unknown] = _by_all(asked[unknown], given, k)
    return _unpack(order)


@dataclass(frozen=True)
class _Rows:
    """Rows `(n, dim)` float32 of any length, and the float64 factors `(n,)` that make them unit rows."""

    values: Tensor
    scale: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> "_Rows":
        values = rows.float()
        norms = [block.double().norm(dim=1) for block in values.split(_block(values))]
        return cls(values, 1 / torch.cat(norms).clamp_min(1e-12))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, ids: Tensor) -> "_Rows":
        return _Rows(self.values.index_select(0, ids), self.scale.index_select(0, ids))

    def split(self, size: int) -> "Iterator[_Rows]":
        return map(_Rows, self.values.split(size), self.scale.split(size))

    def unit(self) -> Tensor:
        return self.values.double().mul_(self.scale[:, None])


def _block(rows: Tensor) -> int:
    return max(1, BLOCK // rows.shape[1])


def _length(k: int) -> int:
    """Return the length of a shortlist: bfloat16 leaves about 1.4 k keys in doubt, more where features are alike."""
    return 2 * k + 32


def _precisions(device: torch.device) -> list[torch.dtype]:
    """Return the precisions of the first product, fastest first."""
    return [torch.bfloat16, torch.float32] if device.type == "cpu" and _multiplies_bfloat16() else [torch.float32]


def _multiplies_bfloat16() -> bool:
    """Return whether the processor itself multiplies bfloat16, which is slow where it is emulated."""
    info = Path("/proc/cpuinfo")
    return torch.backends.mkldnn.is_available() and info.exists() and "avx512_bf16" in info.read_text()


def _by_all(queries: _Rows, keys: _Rows, k: int) -> Tensor:
    """Return the packed nearest keys `(n, k)` from all cosines in float64."""
    dim, found = keys.values.shape[1], []
    ids = torch.arange(len(keys), device=keys.values.device)
    size = max(1, WIDE // dim)
    for block, numbers in zip(keys.split(size), ids.split(size), strict=True):
        units = block.unit()
        rows = max(1, min(CELLS // 8 // len(units), CELLS // dim))
        parts = [_first(_pack((part.unit() @ units.T).float(), numbers), k) for part in queries.split(rows)]
        found.append(torch.cat(parts))
    return found[0] if len(found) == 1 else _first(torch.cat(found, 1), k)


def _by_shortlist(queries: _Rows, keys: _Rows, k: int, precision: torch.dtype) -> Tensor:
    """Return the packed nearest keys `(n, k)`; a query whose shortlist may lack one of them gets `UNKNOWN`."""
    length, device = _length(k), keys.values.device
    stride = isqrt(len(keys) // length)
    groups = -(-len(keys) // stride)  # group g has the keys g, g + groups, g + 2 * groups, ...
    members = groups * torch.arange(stride, device=device)
    table = _Table.of(keys, groups * stride, precision)
    rows = max(1, CELLS // len(table.values))
    buffer = torch.empty(min(rows, len(queries)), len(table.values), dtype=precision, device=device)
    found = []
    for part in queries.split(rows):
        rough = table.product(part, buffer[: len(part)])
        rough[:, len(keys) :] = -torch.inf
        best = rough.view(len(part), stride, groups).amax(1).topk(length, dim=1, sorted=False).indices
        ids = (best[:, :, None] + members).flatten(1)
        values, places = rough.gather(1, ids).topk(length, dim=1)
        ids, bounds = ids.gather(1, places), table.bounds(part, values)
        # k keys are at least as near as the furthest of the first k; one that is bounded below it is not among the best
        packed = torch.full_like(ids, UNKNOWN)
        row = torch.arange(len(part), device=device).repeat_interleave(k)
        cosines = _cosines(part, row, keys, ids[:, :k].flatten()).view(-1, k)
        packed[:, :k] = _pack(cosines, ids[:, :k])
        doubtful = bounds >= cosines.amin(1, keepdim=True)
        row, place = doubtful[:, k:].nonzero(as_tuple=True)
        others = ids[row, place + k]
        packed[row, place + k] = _pack(_cosines(part, row, keys, others), others)
        found.append(_first(packed, k).masked_fill_(doubtful[:, -1:], UNKNOWN))
    return torch.cat(found)


@dataclass(frozen=True)
class _Table:
    """Unit keys in low precision, so that a product with them bounds the cosines from above.

    The keys are taken less their mean c: q.k = (q - c).(k - c) + c.(k - c) + q.c. The factors of the first term are
    small where all features are alike, which keeps its rounding below their differences. The second stands in three
    more columns, which make up a float32, and the third is added at the end. By Cauchy and Schwarz the rounding of the
    factors is off by at most |q - c| times what rounding takes from k - c, and what it takes from q - c times |k - c|;
    these stand in two more columns. `offset` is the largest second term.
    """

    values: Tensor
    centre: Tensor
    offset: float

    @classmethod
    def of(cls, keys: _Rows, length: int, precision: torch.dtype) -> "_Table":
        """Round the keys and append zero rows up to `length`."""
        dim = keys.values.shape[1]
        centre = (keys.scale.float() @ keys.values) / len(keys)
        values = torch.zeros(length, dim + 5, dtype=precision, device=centre.device)
        largest = torch.zeros((), device=centre.device)
        size = _block(keys.values)
        for i, part in enumerate(keys.split(size)):
            here = values[i * size : i * size + len(part)]
            rows, norm, loss = _round(part, centre, here[:, :dim])
            rest = offset = (rows.double() @ centre.double()).float()
            for column in here[:, dim : dim + 3].T:
                column.copy_(rest)
                rest = rest - column.float()
            here[:, dim + 3], here[:, dim + 4] = _up(loss, precision), _up(norm, precision)
            largest = largest.maximum(offset.abs().max())
        return cls(values, centre, float(largest))

    def product(self, queries: _Rows, out: Tensor) -> Tensor:
        """Return the bounds without q.c and before rounding, written to `out`."""
        dim, precision = len(self.centre), self.values.dtype
        left = torch.ones(len(queries), dim + 5, dtype=precision, device=out.device)
        _, norm, loss = _round(queries, self.centre, left[:, :dim])
        left[:, dim + 3] = _up(norm, precision)
        left[:, dim + 4] = _up(loss + self._summing() * norm, precision)
        with _full_precision():
            return torch.mm(left, self.values.T, out=out)

    def bounds(self, queries: _Rows, rough: Tensor) -> Tensor:
        """Return upper bounds `(n, m)` of the cosines from `(n, m)` of the product."""
        shift = (queries.unit() @ self.centre.double()).float()[:, None]
        rounding = _unit(self.values.dtype) * (1 + 4 * _unit(self.values.dtype))
        return rough.float() + rounding * rough.float().abs() + shift + self._summing() * self.offset + 2.0**-20

    def _summing(self) -> float:
        """Return a bound of the relative error of adding up in float32, with room for that of the columns."""
        return 2.0**-22 * (len(self.centre) + 16)


def _round(rows: _Rows, centre: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write unit rows less the centre to `out`; return them, their lengths, and those of what rounding took away."""
    centred = (rows.values * rows.scale.float()[:, None]).sub_(centre)
    out.copy_(centred)
    return centred, centred.norm(dim=1), (centred - out.float()).norm(dim=1)


def _up(values: Tensor, precision: torch.dtype) -> Tensor:
    """Return `values` that are not smaller once they are rounded to a precision."""
    return values * (1 + 4 * _unit(precision))


def _unit(precision: torch.dtype) -> float:
    """Return the largest relative error of rounding to a precision."""
    return torch.finfo(precision).eps / 2


def _cosines(queries: _Rows, row: Tensor, keys: _Rows, ids: Tensor) -> Tensor:
    """Return the cosines of queries[row] and keys[ids], computed in float64, as float32."""
    size = _block(keys.values)
    products = []
    for r, i in zip(row.split(size), ids.split(size), strict=True):
        wide = keys.values.index_select(0, i).double().mul_(queries.values.index_select(0, r))
        products.append(wide.sum(1).mul_(queries.scale[r]).mul_(keys.scale[i]))
    return torch.cat(products).float()


def _pack(cosines: Tensor, ids: Tensor) -> Tensor:
    """Return int64 that sort like (cosine descending, id ascending): the float's bits above, the id below."""
    bits = (cosines + 0.0).view(torch.int32)  # minus zero becomes zero
    rising = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return (~rising).long() << 32 | ids


def _unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    rising = ~(packed >> 32).int()
    return (rising ^ (rising >> 31 & 0x7FFFFFFF)).view(torch.float32), packed & 0xFFFFFFFF


def _first(packed: Tensor, k: int) -> Tensor:
    """Return the `k` smallest of each row in order; on a processor numpy selects several times as fast as torch."""
    if packed.device.type != "cpu":
        return packed.topk(min(k, packed.shape[1]), dim=1, largest=False).values
    array = packed.numpy()
    if k < array.shape[1]:
        array = np.partition(array, k - 1, axis=1)[:, :k]
    return torch.from_numpy(np.sort(array, axis=1))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply float32 as float32, whatever the process has allowed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
