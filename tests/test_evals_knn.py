"""Weighted nearest neighbours against the definition written as loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.errors import ConfigError
from benchmark.evals import knn
from benchmark.evals.features import Bank
from benchmark.evals.knn import KNN


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def votes_by_loops(keys: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int, t: float) -> np.ndarray:
    """The vote of each class relative to the weight of the nearest neighbour, in float64."""
    unit = [np.array([row / np.linalg.norm(row) for row in part.double().numpy()]) for part in (keys, queries)]
    votes = np.zeros((len(queries), classes))
    for i, query in enumerate(unit[1]):
        similarities = [float(query @ key) for key in unit[0]]
        nearest = sorted(range(len(keys)), key=lambda j: -similarities[j])[:k]
        for j in nearest:
            votes[i, int(labels[j])] += math.exp((similarities[j] - similarities[nearest[0]]) / t)
    return votes


@pytest.mark.parametrize(("n", "queries", "k"), [(60, 25, 5), (60, 1, 20), (7, 9, 20), (1, 3, 1), (60, 4, 60)])
def test_votes_equal_loops(n: int, queries: int, k: int) -> None:
    """Oracle: the loops; also for one query, fewer keys than k, one key, and classes that are missing (2 and 4)."""
    labels = torch.tensor([0, 1, 3])[torch.arange(n) % 3]
    keys, asked = normal(n, 6), normal(queries, 6, seed=1)
    found = KNN(k=k).scores(keys, labels, asked, 5)
    np.testing.assert_allclose(found, votes_by_loops(keys, labels, asked, 5, k, 0.07), rtol=2e-5, atol=1e-6)
    assert not found[:, [2, 4]].any()


def test_equal_votes_go_to_the_smaller_class() -> None:
    """Oracle: two pairs of equal keys of two classes at one angle: the votes are equal to the bit."""
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    bank = bank_of({"x": keys}, torch.tensor([2, 1, 1, 2]), {"x": torch.tensor([[0.3, 0.4]])}, classes=3)
    votes = KNN().scores(keys, bank.labels, bank.test["x"], 3)
    assert votes.tolist() == [[0.0, 2.0, 2.0]]
    assert KNN()(bank).classes.tolist() == [[1, 2, 0]]


def test_result_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: one chunk for all queries; the last chunk is shorter."""
    keys, queries, labels = normal(50, 6), normal(23, 6, seed=1), torch.arange(50) % 4
    whole = KNN().scores(keys, labels, queries, 4)
    monkeypatch.setattr(knn, "CHUNK", 5)
    torch.testing.assert_close(KNN().scores(keys, labels, queries, 4), whole, rtol=1e-5, atol=1e-7)


def test_small_temperature_is_one_neighbour() -> None:
    """Oracle: as the temperature goes to 0 the nearest neighbour decides alone; nothing overflows."""
    keys, queries, labels = normal(50, 6), normal(23, 6, seed=1), torch.arange(50) % 4
    cold = KNN(k=20, temperature=1e-6).scores(keys, labels, queries, 4)
    assert cold.isfinite().all()
    assert torch.equal(cold.argmax(1), KNN(k=1).scores(keys, labels, queries, 4).argmax(1))


def bank_of(train: dict[str, Tensor], labels: Tensor, test: dict[str, Tensor], classes: int) -> Bank:
    """A bank of which every fifth train sample is held out."""
    held = torch.arange(len(labels)) % 5 == 4
    fit, held = ((~held).nonzero().flatten(), held.nonzero().flatten())
    return Bank(train, test, labels, fit, held, classes, "toy", lambda number: train)


def test_feature_is_chosen_on_the_holdout() -> None:
    """Oracle: one feature knows the class a little, the other is noise; a query in its own bank would favour noise.

    With k = 1 and each held-out sample among the keys, noise would find itself and be right always.
    """
    labels = torch.arange(200) % 4
    signal = torch.nn.functional.one_hot(labels, 4) + 0.2 * normal(200, 4)
    test = {"noise": normal(8, 30, seed=2), "signal": 3.0 * torch.eye(4).repeat(2, 1)}
    ranking = KNN(k=1)(bank_of({"noise": normal(200, 30), "signal": signal}, labels, test, 4))
    assert ranking.choices == {"feature": "signal", "k": 1, "temperature": 0.07}
    assert ranking.classes[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_bank_is_all_of_train() -> None:
    """Oracle: a test image whose only equal is a held-out train image takes its class."""
    keys = torch.eye(10)
    ranking = KNN(k=1)(bank_of({"x": keys}, torch.arange(10), {"x": keys[4:5]}, 10))
    assert ranking.classes[0, 0] == 4


@pytest.mark.parametrize("settings", [{"k": 0}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    """Oracle: the documented ranges."""
    with pytest.raises(ConfigError, match="k of at least 1 and a temperature above 0"):
        KNN(**settings)  # type: ignore[arg-type]
