"""Weighted nearest neighbours against the definition written as loops."""

import dataclasses
import math
from functools import partial

import banks
import numpy as np
import pytest
import torch
from banks import normal
from torch import Tensor

from benchmark.evals.knn import KNN, KNNProjection, voted, votes

bank_of = partial(banks.bank_of, block=1)


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
    votes = KNN(k=k).scores(keys, labels, asked, 5)
    np.testing.assert_allclose(votes, votes_by_loops(keys, labels, asked, 5, k, 0.07), rtol=2e-5, atol=1e-6)
    assert not votes[:, [2, 4]].any()


def test_equal_votes_go_to_the_smaller_class() -> None:
    """Oracle: two pairs of equal keys of two classes at one angle: the votes are equal to the bit."""
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    bank = bank_of({"x": keys}, torch.tensor([2, 1, 1, 2]), {"x": torch.tensor([[0.3, 0.4]])}, classes=3)
    votes = KNN().scores(keys, bank.labels, bank.test["x"], 3)
    assert votes.tolist() == [[0.0, 2.0, 2.0]]
    assert KNN()(bank).classes.tolist() == [[1, 2, -1]], "class 0 has no vote"


def test_small_temperature_is_one_neighbour() -> None:
    """Oracle: as the temperature goes to 0 the nearest neighbour decides alone; nothing overflows."""
    keys, queries, labels = normal(50, 6), normal(23, 6, seed=1), torch.arange(50) % 4
    cold = KNN(k=20, temperature=1e-6).scores(keys, labels, queries, 4)
    assert cold.isfinite().all()
    assert torch.equal(cold.argmax(1), KNN(k=1).scores(keys, labels, queries, 4).argmax(1))


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


def test_details_are_the_usual_other_settings() -> None:
    """Oracle: an evaluation of its own for each; the choice among features stays that of the result's k."""
    labels = torch.arange(300) % 4
    bank = bank_of(
        {"a": normal(300, 6), "b": normal(300, 5, seed=1)}, labels, {"a": normal(20, 6), "b": normal(20, 5)}, 4
    )
    ranking = KNN()(bank)
    feature = str(ranking.choices["feature"])
    alone = bank_of({feature: bank.train[feature]}, labels, {feature: bank.test[feature]}, 4)
    settings = {"k=1": (1, 0.07), "k=10": (10, 0.07), "k=200": (200, 0.07), "k=200, t=0.1": (200, 0.1)}
    assert list(ranking.details) == list(settings)
    for name, (k, temperature) in settings.items():
        assert torch.equal(ranking.details[name], KNN(k=k, temperature=temperature)(alone).classes), name
    assert torch.equal(ranking.classes, KNN()(alone).classes)


@pytest.mark.parametrize(
    ("n", "k", "temperature", "names"),
    [
        (300, 10, 0.07, ["k=1", "k=200", "k=200, t=0.1"]),
        (300, 200, 0.1, ["k=1", "k=10"]),
        (300, 20, 0.1, ["k=1", "k=10", "k=200"]),
        (20, 20, 0.07, ["k=1", "k=10", "k=200, t=0.1"]),
        (5, 20, 0.07, ["k=1", "k=200, t=0.1"]),
        (1, 1, 0.1, []),
    ],
)
def test_details_repeat_nothing(n: int, k: int, temperature: float, names: list[str]) -> None:
    """Oracle: the settings by hand that neither are the result nor, with all keys voting, come to the same."""
    bank = bank_of({"x": normal(n, 6)}, torch.arange(n) % 4, {"x": normal(8, 6, seed=1)}, 4)
    assert list(KNN(k=k, temperature=temperature)(bank).details) == names


def test_projections_have_a_row_of_their_own() -> None:
    """Oracle: `KNN` with these settings on the projections as features; without a projector there is no row."""
    labels = torch.arange(300) % 4
    bank = bank_of({"x": normal(300, 6)}, labels, {"x": normal(20, 6, seed=1)}, 4)
    assert KNNProjection()(bank) is None
    projected = normal(300, 3, seed=2), normal(20, 3, seed=3)
    ranking = KNNProjection()(dataclasses.replace(bank, projected=projected))
    other = bank_of({"x": projected[0]}, labels, {"x": projected[1]}, 4)
    assert ranking is not None
    assert torch.equal(ranking.classes, KNN(k=200, temperature=0.1)(other).classes)
    assert ranking.choices == {"k": 200, "temperature": 0.1}
    assert KNNProjection.name == "knn_projection"


def test_a_class_without_a_vote_is_not_ranked() -> None:
    """Oracle: by hand; with 2 neighbours at most 2 of 60 classes can be among the best 5."""
    scores = votes(torch.tensor([[0.9, 0.8], [0.7, 0.7]]), torch.tensor([[7, 3], [4, 4]]), 60, 0.1)
    assert voted(scores).tolist() == [[7, 3, -1, -1, -1], [4, -1, -1, -1, -1]]
