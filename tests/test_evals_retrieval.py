"""Retrieval against a sort of all cosines."""

from functools import partial

import banks
import numpy as np
import pytest
import torch
from banks import normal
from torch import Tensor

from benchmark.evals import retrieval
from benchmark.evals.features import Bank, Neighbours
from benchmark.evals.retrieval import Retrieval
from benchmark.evals.scoring import SealedLabels

bank_of = partial(banks.bank_of, block=1)


def labels_by_sort(gallery: Tensor, labels: Tensor, queries: Tensor) -> np.ndarray:
    unit = [part.double() / part.double().norm(dim=1, keepdim=True) for part in (gallery, queries)]
    cosines = (unit[1] @ unit[0].T).float().numpy()
    return labels.numpy()[np.argsort(-cosines, axis=1, kind="stable")]


def neighbours_of(bank: Bank) -> Neighbours:
    neighbours = Retrieval()(bank).neighbours
    assert neighbours is not None
    return neighbours


@pytest.mark.parametrize("n", [300, 4])
def test_neighbours_equal_a_sort(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: numpy's stable sort, to the size of the largest class of an unbalanced gallery; or to all of four."""
    labels = torch.tensor([0, 0, 0, 1, 3])[torch.arange(n) % 5]
    gallery, queries = normal(n, 6), normal(23, 6, seed=1)
    gallery[n // 2] = gallery[0]
    bank = bank_of({"x": gallery}, labels, {"x": queries}, 5)
    expected = labels_by_sort(gallery, labels, queries)[:, : 180 if n == 300 else 4]
    for chunk in (2048, 5):
        monkeypatch.setattr(retrieval, "CHUNK", chunk)
        np.testing.assert_array_equal(neighbours_of(bank).labels, expected)
    assert neighbours_of(bank).counts.tolist() == labels.bincount(minlength=5).tolist()
    assert neighbours_of(bank).labels.dtype == torch.int16
    assert Retrieval()(bank).classes.tolist() == expected[:, :1].tolist()


def test_at_least_ten_neighbours_are_found() -> None:
    """Oracle: recall at 10 needs ten, however small the classes."""
    bank = bank_of({"x": normal(40, 6)}, torch.arange(40) % 20, {"x": normal(3, 6, seed=1)}, 20)
    assert neighbours_of(bank).labels.shape == (3, 10)


def test_many_classes_fit() -> None:
    """Oracle: labels above the range of int16 come back."""
    labels = torch.arange(40_000, 40_040)
    bank = bank_of({"x": torch.eye(40)}, labels, {"x": torch.eye(40)[7:8]}, 50_000)
    assert neighbours_of(bank).labels[0, 0] == 40_007


def test_feature_is_chosen_on_the_holdout() -> None:
    """Oracle: one feature knows the class a little, the other is noise that knows the test images' classes fully."""
    labels = torch.arange(200) % 4
    onehot = torch.nn.functional.one_hot(labels, 4)
    train = {"noise": normal(200, 30), "signal": onehot + 0.2 * normal(200, 4)}
    ranking = Retrieval()(bank_of(train, labels, {"noise": train["noise"][:8], "signal": onehot[:8].float()}, 4))
    assert ranking.choices == {"feature": "signal"}
    assert ranking.classes.flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_choice_goes_by_the_precision_at_r() -> None:
    """Oracle: the first neighbour is right more often with one feature, the other neighbours with the other one."""
    labels = torch.arange(200) % 4
    pairs = torch.nn.functional.one_hot(torch.arange(200) // 20 * 4 + labels, 40) * 3.0
    first = torch.nn.functional.normalize(pairs + 0.01 * normal(200, 40))
    rest = torch.nn.functional.one_hot(labels, 4) + 0.35 * normal(200, 4, seed=1)
    precision, recall = {}, {}
    for name, rows in {"first": first, "rest": rest}.items():
        bank = bank_of({name: rows}, labels, {name: rows}, 4)
        inner = bank_of({name: rows[bank.fit]}, labels[bank.fit], {name: rows[bank.held]}, 4)
        details = SealedLabels(labels[bank.held], 4).score("x", Retrieval()(inner)).details
        precision[name], recall[name] = details["map_at_r"], details["recall_at_1"]
    assert recall["first"] > recall["rest"]
    assert precision["first"] < precision["rest"]
    ranking = Retrieval()(bank_of({"first": first, "rest": rest}, labels, {"first": first, "rest": rest}, 4))
    assert ranking.choices == {"feature": "rest"}


def test_held_out_images_are_not_in_their_own_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the numbers of queries and gallery images of each search: fitting part for the choices, then train."""
    searches, search = [], retrieval.nearest
    monkeypatch.setattr(retrieval, "nearest", lambda q, g, k: searches.append((len(q), len(g))) or search(q, g, k))
    train, test = ({name: normal(n, 6, seed=i) for i, name in enumerate("ab")} for n in (100, 7))
    Retrieval()(bank_of(train, torch.arange(100) % 4, test, 4))
    assert searches == [(20, 80), (20, 80), (7, 100)]
