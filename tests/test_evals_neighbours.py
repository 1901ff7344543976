"""The nearest neighbours against a sort of all cosines in float64, with shortlists and without."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from banks import normal
from torch import Tensor

from benchmark.evals import neighbours
from benchmark.evals.neighbours import nearest


def brute(queries: Tensor, keys: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All cosines in float64, rounded to float32, sorted by cosine and then by id."""
    left, right = (part.double().numpy() for part in (queries, keys))
    left, right = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (left, right))
    cosines = (left @ right.T).astype(np.float32)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, 1), order


@pytest.fixture(params=["shortlist", "all"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take shortlists of however few keys, or none."""
    monkeypatch.setattr(neighbours, "PAY", 1 if request.param == "shortlist" else 10**9)
    return str(request.param)


def searched_all(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the queries that are searched through all cosines."""
    counted, search = [], neighbours._search_all
    monkeypatch.setattr(neighbours, "_search_all", lambda q, *rest: counted.append(len(q)) or search(q, *rest))
    return counted


def gaussian() -> tuple[Tensor, Tensor]:
    return normal(40, 64, seed=1), normal(3000, 64)


def near_duplicates() -> tuple[Tensor, Tensor]:
    """Twenty keys around each of 150 directions, nearer to one another than low precision can tell."""
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


@pytest.mark.parametrize("make", [gaussian, near_duplicates, alike, lengths])
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


def test_keys_may_be_searched_block_by_block(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: all keys at once; equal cosines in several blocks keep the order of their ids."""
    queries, keys = normal(7, 8, seed=1), normal(250, 8).repeat(2, 1)
    whole = nearest(queries, keys, 20)
    for rows in (1, 13, 130, 300):
        monkeypatch.setattr(neighbours, "WIDE", 8 * rows)
        assert all(map(torch.equal, nearest(queries, keys, 20), whole))


def test_a_shortlist_that_may_lack_a_neighbour_is_not_believed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: of equal keys the first; 3000 of them fit no shortlist, so all these queries are searched again."""
    counted = searched_all(monkeypatch)
    keys = torch.cat([normal(64).expand(2000, -1), torch.zeros(500, 64), normal(500, 64)])
    queries = torch.stack([keys[0], keys[2999], torch.zeros(64), keys[0] + 1.5 * keys[2999]])
    similarity, ids = nearest(queries, keys, 5)
    assert ids[0].tolist() == [0, 1, 2, 3, 4]
    assert ids[1, 0] == 2999
    assert ids[2].tolist() == [0, 1, 2, 3, 4]
    assert not similarity[2].any()
    assert ids[3].tolist() == [2999, 0, 1, 2, 3]
    assert sum(counted) == (4 if path == "all" else 3)


def test_shortlists_suffice_for_usual_features(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: no query of Gaussian features is searched again; otherwise the shortlist would save nothing."""
    counted = searched_all(monkeypatch)
    nearest(*gaussian(), 20)
    assert sum(counted) == (40 if path == "all" else 0)


SIZES = [(5, 7, 9), (1, 3, 1), (3000, 1, 20), (3000, 1, 5000), (60, 4, 60), (70000, 9, 5)]


@pytest.mark.parametrize(("n", "asked", "k"), SIZES)
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
    monkeypatch.setattr(neighbours, "BLOCK", 3 * 84 * 64)
    for found, expected in zip(nearest(queries, keys, 20), whole, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(torch.cat([nearest(query[None], keys, 20)[1] for query in queries]), whole[1])


def test_shortlists_allow_for_the_error_of_float32(path: str) -> None:
    """Oracle: the smaller of equal ids; swapped halves leave the cosine and change the product, which alone would err.

    The copies fill the shortlist, so a first key whose product is too small is not on it.
    """
    half = normal(40, 32, seed=1)
    queries = torch.cat([half, half], 1)
    key = normal(64)
    keys = torch.cat([key.roll(32)[None], key.expand(3000, -1)])
    unit = torch.nn.functional.normalize
    assert (unit(queries) @ unit(keys).T).argmax(1).any()
    assert not nearest(queries, keys, 1)[1].any()


@pytest.mark.parametrize("slack", [1, 5, 64])
@pytest.mark.parametrize("make", [near_duplicates, alike])
def test_shortlists_allow_for_the_largest_error(
    make: Callable[[], tuple[Tensor, Tensor]], slack: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the sort; each product is off by nine tenths of the bound, up or down."""
    multiply, generator = torch.mm, torch.Generator().manual_seed(0)

    def shifted(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        sign = torch.randint(0, 2, (len(left), right.shape[1]), generator=generator) * 2 - 1
        return multiply(left, right, out=out).add_(0.9 * sign * 1.01 * 2.0**-24 * (64 + 8))

    monkeypatch.setattr(torch, "mm", shifted)
    monkeypatch.setattr(neighbours, "SLACK", slack)
    monkeypatch.setattr(neighbours, "PAY", 1)
    counted, (queries, keys) = searched_all(monkeypatch), make()
    np.testing.assert_array_equal(nearest(queries, keys, 10)[1], brute(queries, keys, 10)[1])
    assert sum(counted) < len(queries)


@pytest.mark.parametrize("n", [1600, 1601, 1615, 65])
def test_the_largest_of_a_row_are_found_in_groups(n: int) -> None:
    """Oracle: a sort; with the columns that fill the last group, and with fewer groups than asked for."""
    columns = -(-n // neighbours.GROUP) * neighbours.GROUP
    products = torch.cat([normal(9, n), torch.full((9, columns - n), -9.0)], 1)
    values, ids = neighbours._largest(products, 60)
    assert torch.equal(values, products.sort(1, descending=True).values[:, :60])
    assert torch.equal(products.gather(1, ids), values)


def test_lower_precision_that_the_process_allows_is_not_used(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the sort; and all queries are searched in float64, for the bound holds for float32 alone."""
    counted, (queries, keys) = searched_all(monkeypatch), near_duplicates()
    torch.set_float32_matmul_precision("medium")
    try:
        ids = nearest(queries, keys, 20)[1]
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(ids, brute(queries, keys, 20)[1])
    assert sum(counted) == len(queries)


def test_packed_numbers_sort_by_cosine_and_id() -> None:
    """Oracle: the order by hand; both zeros are equal."""
    cosines = torch.tensor([-1.0, 0.5, -0.0, 0.0, 1.0, 0.5, -0.5])
    packed = neighbours._pack(cosines, torch.arange(7))
    assert packed.argsort().tolist() == [4, 1, 5, 2, 3, 6, 0]
