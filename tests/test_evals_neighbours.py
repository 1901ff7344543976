"""The nearest neighbours against a sort of all cosines in float64, with every precision of the first product."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from banks import normal
from torch import Tensor

from benchmark.evals import neighbours
from benchmark.evals.neighbours import nearest

PATHS = {"bfloat16": [torch.bfloat16], "float32": [torch.float32], "all": []}


def brute(queries: Tensor, keys: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All cosines in float64, rounded to float32, sorted by cosine and then by id."""
    left, right = (part.double().numpy() for part in (queries, keys))
    left, right = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (left, right))
    cosines = (left @ right.T).astype(np.float32)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, 1), order


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force the first product to one precision, emulated where the processor lacks it."""
    monkeypatch.setattr(neighbours, "_precisions", lambda device: PATHS[request.param])
    return str(request.param)


def by_all(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the queries that are searched through all cosines."""
    counted, search = [], neighbours._by_all
    monkeypatch.setattr(neighbours, "_by_all", lambda q, *rest: counted.append(len(q)) or search(q, *rest))
    return counted


def gaussian() -> tuple[Tensor, Tensor]:
    return normal(40, 64, seed=1), normal(3000, 64)


def near_duplicates() -> tuple[Tensor, Tensor]:
    """Twenty keys around each of 150 directions, nearer to one another than bfloat16 can tell."""
    centres = normal(150, 64)
    return centres[:40] + 0.1 * normal(40, 64, seed=1), centres.repeat(20, 1) + 1e-3 * normal(3000, 64, seed=2)


def alike() -> tuple[Tensor, Tensor]:
    """Features that are nearly the same for all images, as of a poor encoder; some keys are far off."""
    keys = normal(3000, 64) + 30
    keys[::100] = normal(30, 64, seed=3)
    return normal(40, 64, seed=1) + 30, keys


def lengths() -> tuple[Tensor, Tensor]:
    """Rows of lengths between 1e-15 and 1e15."""
    queries, keys = gaussian()
    return queries * 10 ** (10 * normal(40, 1)).clamp(-15, 15), keys * 10 ** (10 * normal(3000, 1)).clamp(-15, 15)


def few() -> tuple[Tensor, Tensor]:
    """Five keys near the queries; all others are further off than the mean of the keys."""
    keys = torch.zeros(3001, 64)
    keys[:, 1] = 1
    keys[:5] = torch.eye(64)[0]
    keys += 0.0003 * normal(3001, 64)
    return keys[:5] + 0.0003 * normal(5, 64, seed=1), keys


@pytest.mark.parametrize("make", [gaussian, near_duplicates, alike, lengths, few])
@pytest.mark.parametrize("k", [1, 20])
def test_order_is_that_of_float64(path: str, make: Callable[[], tuple[Tensor, Tensor]], k: int) -> None:
    """Oracle: numpy's stable sort of the float64 cosines, ids and float32 values equal to the bit."""
    queries, keys = make()
    similarity, ids = nearest(queries, keys, k)
    expected, order = brute(queries, keys, k)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(similarity, expected)
    assert similarity.dtype == torch.float32
    assert ids.dtype == torch.int64


def test_bfloat16_alone_would_err() -> None:
    """Oracle: the plain product in bfloat16, which orders near duplicates and features that are alike wrongly."""
    for queries, keys in (near_duplicates(), alike()):
        left, right = (torch.nn.functional.normalize(part).bfloat16() for part in (queries, keys))
        assert ((left @ right.T).argmax(1).numpy() != brute(queries, keys, 1)[1][:, 0]).mean() > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_equal_cosines_are_ordered_by_id(path: str, seed: int) -> None:
    """Oracle: the sort; rows of -1, 0 and 1 are equal, opposite, multiples or zero all the time."""
    generator = torch.Generator().manual_seed(seed)
    keys, queries = (torch.randint(-1, 2, (n, 3), generator=generator).float() for n in (1500, 30))
    keys *= torch.randint(1, 4, (1500, 1), generator=generator)
    similarity, ids = nearest(queries, keys, 3)
    expected, order = brute(queries, keys, 3)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(similarity, expected)


def test_keys_may_be_searched_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: all keys at once; equal cosines in several blocks keep the order of their ids."""
    keys = torch.cat([normal(50, 8), normal(50, 8)])
    whole = nearest(normal(7, 8, seed=1), keys, 20)
    for rows in (1, 13, 60):
        monkeypatch.setattr(neighbours, "WIDE", 8 * rows)
        assert all(map(torch.equal, nearest(normal(7, 8, seed=1), keys, 20), whole))


def test_a_shortlist_that_may_lack_a_neighbour_is_not_believed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: of equal keys the first; 3000 of them fit no shortlist, so all these queries are searched again."""
    counted = by_all(monkeypatch)
    keys = torch.cat([normal(64).expand(2000, -1), torch.zeros(500, 64), normal(500, 64)])
    similarity, ids = nearest(torch.stack([keys[0], keys[2999], torch.zeros(64)]), keys, 5)
    assert ids[0].tolist() == [0, 1, 2, 3, 4]
    assert ids[1, 0] == 2999
    assert ids[2].tolist() == [0, 1, 2, 3, 4]
    assert not similarity[2].any()
    assert counted == ([3] if path == "all" else [2])


def test_shortlists_suffice_for_usual_features(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: no query of Gaussian features is searched again; otherwise the shortlist would save nothing."""
    counted = by_all(monkeypatch)
    nearest(*gaussian(), 20)
    assert sum(counted) == (40 if path == "all" else 0)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("make", [gaussian, near_duplicates, alike, lengths])
def test_bounds_hold(make: Callable[[], tuple[Tensor, Tensor]], precision: torch.dtype) -> None:
    """Oracle: the float64 cosines of all pairs, none above its bound and none far below."""
    queries, keys = (neighbours._Rows.of(part) for part in make())
    table = neighbours._Table.of(keys, len(keys), precision)
    rough = table.product(queries, torch.empty(len(queries), len(keys), dtype=precision))
    slack = table.bounds(queries, rough).double() - queries.unit() @ keys.unit().T
    assert float(slack.min()) > 0
    assert float(slack.max()) < (0.03 if precision == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize(("n", "asked", "k"), [(5, 7, 9), (1, 3, 1), (3000, 1, 20), (3000, 1, 5000), (60, 4, 60)])
def test_any_number_of_rows(path: str, n: int, asked: int, k: int) -> None:
    """Oracle: the sort; also for fewer keys than k and for one query or key."""
    queries, keys = normal(asked, 16, seed=1), normal(n, 16)
    similarity, ids = nearest(queries, keys, k)
    assert ids.shape == (asked, min(k, n))
    np.testing.assert_array_equal(ids, brute(queries, keys, k)[1])
    np.testing.assert_array_equal(similarity, brute(queries, keys, k)[0])


@pytest.mark.parametrize("make", [gaussian, near_duplicates, alike])
def test_result_does_not_depend_on_chunks(
    path: str, make: Callable[[], tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: one chunk for everything; the last chunks are shorter. And each query alone."""
    queries, keys = make()
    whole = nearest(queries, keys, 20)
    monkeypatch.setattr(neighbours, "CELLS", 7 * 3100)
    monkeypatch.setattr(neighbours, "BLOCK", 900)
    for found, expected in zip(nearest(queries, keys, 20), whole, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(torch.cat([nearest(query[None], keys, 20)[1] for query in queries]), whole[1])


def test_float32_is_multiplied_as_float32(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the setting at the first product when the process allows lower precision, and the setting after it."""
    seen, product = [], torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda *a, **k: seen.append(torch.get_float32_matmul_precision()) or product(*a, **k)
    )
    torch.set_float32_matmul_precision("medium")
    try:
        nearest(*gaussian(), 20)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ([] if path == "all" else ["highest"])


def test_packed_numbers_sort_by_cosine_and_id() -> None:
    """Oracle: the order by hand; both zeros are equal."""
    cosines = torch.tensor([[-1.0, 0.5, -0.0, 0.0, 1.0, 0.5, -0.5]])
    packed = neighbours._pack(cosines, torch.arange(7)).sort(1).values
    found, ids = neighbours._unpack(packed)
    assert ids.tolist() == [[4, 1, 5, 2, 3, 6, 0]]
    assert found.tolist() == [[1.0, 0.5, 0.5, 0.0, 0.0, -0.5, -1.0]]


def test_a_processor_without_bfloat16_uses_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the list of precisions by hand."""
    for has, expected in ((True, [torch.bfloat16, torch.float32]), (False, [torch.float32])):
        monkeypatch.setattr(neighbours, "_multiplies_bfloat16", lambda has=has: has)
        assert neighbours._precisions(torch.device("cpu")) == expected
        assert neighbours._precisions(torch.device("cuda")) == [torch.float32]
