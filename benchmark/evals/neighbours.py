"""The nearest neighbours by cosine: exact, at the speed of a product in float32.

The product leaves a shortlist. Its error has a bound: cosines are computed again in float64 for the keys of the
shortlist that may be among the nearest, and a query whose shortlist may lack one is searched in float64 throughout.
"""

import math

import torch
from torch import Tensor

CELLS = 2**25  # similarities held at once
WIDE = 2**26  # numbers of keys held in float64 at once: 512 MiB
BLOCK = 2**20  # numbers of a shortlist's keys multiplied at once: few enough for the cache
GROUP = 16  # products of which the maximum is looked at first, where the largest of a row are sought
SLACK = 64  # keys of a shortlist beyond the nearest
PAY = 100  # a shortlist of more than 1/100 of the keys costs more than it saves


def nearest(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the cosines `(n, k)` float32 and the ids `(n, k)` of the nearest keys of each query, nearest first.

    `queries` `(n, dim)` and `keys` `(n_keys, dim)` have one row or more; of fewer than `k` keys all are returned, and a
    zero row has the cosine 0 with every other. A cosine is computed in float64 and rounded to float32, and equal ones
    are ordered by id: neither the division of the work nor the precision of the first product shows in the result.
    """
    size, packed = max(1, WIDE // keys.shape[1]), torch.empty(len(queries), 0, dtype=torch.int64, device=keys.device)
    for start in range(0, len(keys), size):
        block = _search(queries, keys[start : start + size], k) + start  # the id is in the low bits
        packed = torch.cat([packed, block], 1).sort(1).values[:, :k]
    return _unpack(packed)


def _search(queries: Tensor, keys: Tensor, k: int) -> Tensor:
    """Return candidates `(n, k or more)`, packed and in any order, among which are the nearest keys."""
    (wide, scale), length = _wide(keys), k + SLACK
    if PAY * length > len(keys) or torch.get_float32_matmul_precision() != "highest":
        return _search_all(queries, wide, scale, k)
    unit, found, columns = (wide * scale).float(), [], GROUP * math.ceil(len(keys) / GROUP)
    rows, few = max(1, CELLS // columns), max(1, BLOCK // (length * keys.shape[1]))
    shape, no_key = (min(rows, len(queries)), columns), -2.0  # below every cosine
    products = torch.full(shape, no_key, device=keys.device)
    error = 1.01 * 2.0**-24 * (keys.shape[1] + 8)  # of a sum in any order, and of rounding rows, cosines and bounds
    for part in queries.split(rows):
        (asked, factor), block = _wide(part), products[: len(part)]
        torch.mm((asked * factor).float(), unit.T, out=block[:, : len(keys)])
        rough, ids = _largest(block, length)
        counts = (rough >= rough[:, k - 1 : k] - 2 * error).sum(1)  # of the shortlist's keys that can be among the k
        pieces = zip(*(each.split(few) for each in (asked, factor, ids, counts)), strict=True)
        packed = torch.cat([_search_few(q, f, near[:, : int(n.max())], wide, scale, k) for q, f, near, n in pieces])
        unsure = rough[:, -1] + error >= _unpack(packed)[0].amin(1)
        packed[unsure] = _search_all(part[unsure], wide, scale, k)
        found.append(packed)
    return torch.cat(found)


def _largest(products: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the `length` largest of each row of products `(n, columns)`, largest first, and their columns.

    Columns form groups of `GROUP`, which lie equally far apart. The largest numbers lie in the `length` groups with the
    largest maxima: each of these holds a number that no number outside them exceeds.
    """
    grouped = products.view(len(products), GROUP, -1)
    lines = grouped.shape[2]
    line = grouped.amax(1).topk(min(length, lines), sorted=False).indices[:, None]
    columns = line + lines * torch.arange(GROUP, device=products.device)[:, None]
    largest, at = grouped.gather(2, line.expand(-1, GROUP, -1)).flatten(1).topk(length)
    return largest, columns.flatten(1).gather(1, at)


def _search_few(asked: Tensor, factor: Tensor, near: Tensor, wide: Tensor, scale: Tensor, k: int) -> Tensor:
    """Return the nearest keys `(n, k)` of those that are `near` `(n, k or more)` to each query, as `_search_all`."""
    products = wide.index_select(0, near.flatten()).view(*near.shape, -1).mul_(asked[:, None]).sum(2)
    packed = _pack(products.mul_(factor).mul_(scale[near, 0]).float(), near)
    return packed.topk(k, largest=False, sorted=False).values


def _search_all(queries: Tensor, wide: Tensor, scale: Tensor, k: int) -> Tensor:
    """Return the nearest keys `(n, k)`, packed and in any order, from all cosines in float64."""
    ids, found = torch.arange(len(wide), device=wide.device), []
    for asked, factor in map(_wide, queries.split(max(1, CELLS // 8 // len(wide)))):
        packed = _pack((asked @ wide.T).mul_(factor).mul_(scale.T).float(), ids)
        found.append(packed.topk(min(k, len(wide)), largest=False, sorted=False).values)
    return torch.cat(found)


def _wide(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in float64, where products of float32 are exact, and the factors `(n, 1)` that make them unit."""
    wide = rows.double()
    return wide, 1 / wide.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _pack(cosines: Tensor, ids: Tensor) -> Tensor:
    """Return int64 that sort like (cosine descending, id ascending): the float's bits above, the id below."""
    bits = (cosines + 0.0).view(torch.int32)  # minus zero becomes zero
    return (~(bits ^ (bits >> 31 & 0x7FFFFFFF))).long() << 32 | ids


def _unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines, and the ids, of what `_pack` gave."""
    rising = ~(packed >> 32).int()
    return (rising ^ (rising >> 31 & 0x7FFFFFFF)).view(torch.float32), packed & 0xFFFFFFFF
