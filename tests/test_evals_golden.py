"""Golden features: what each frozen protocol makes of them, so that a change of its numbers cannot go unnoticed."""

import pytest
import torch

from benchmark.data.subsets import holdout
from benchmark.evals.evaluation import Evaluation
from benchmark.evals.features import Bank
from benchmark.evals.knn import KNN, KNNProjection
from benchmark.evals.linear import Linear
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.evals.retrieval import Retrieval
from benchmark.evals.scoring import SealedLabels
from benchmark.evals.semi_probe import SemiProbe

TRAIN, TEST, CLASSES, WIDTH = 1500, 500, 5, 24


def bank() -> tuple[Bank, SealedLabels]:
    """Features of overlapping classes, drawn from a fixed seed; a second feature is the first with more noise."""
    generator = torch.Generator().manual_seed(20)
    labels = torch.arange(TRAIN + TEST) % CLASSES
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    features = centres[labels] + 1.6 * torch.randn(TRAIN + TEST, WIDTH, generator=generator)
    noisy = features + torch.randn(TRAIN + TEST, WIDTH, generator=generator)
    views = [features[:TRAIN] + torch.randn(TRAIN, WIDTH, generator=generator) for _ in range(2)]
    fit, held = holdout(labels[:TRAIN], "golden")
    bank = Bank(
        train={"clean": features[:TRAIN], "noisy": noisy[:TRAIN]},
        test={"clean": features[TRAIN:], "noisy": noisy[TRAIN:]},
        labels=labels[:TRAIN],
        fit=fit,
        held=held,
        classes=CLASSES,
        dataset="golden",
        views=lambda number: {"clean": views[number % 2], "noisy": views[number % 2]},
        projected=(features[:TRAIN, :8], features[TRAIN:, :8]),
    )
    return bank, SealedLabels(labels[TRAIN:], CLASSES)


GOLDEN: dict[str, tuple[Evaluation, str, float]] = {
    "knn": (KNN(), "1.0", 0.906),
    "knn_projection": (KNNProjection(), "1.0", 0.674),
    "linear": (Linear(), "1.1", 0.904),
    "linear_sgd": (LinearSGD(epochs=10), "1.0", 0.902),
    "linear_sgd on views": (LinearSGD(epochs=10, train_views=2), "1.0", 0.902),
    "retrieval": (Retrieval(), "1.0", 0.858),
    "semi_probe_1": (SemiProbe(fraction=0.01, draws=5), "1.2", 0.7148),
    "semi_probe_10": (SemiProbe(fraction=0.1, draws=3), "1.2", 0.8947),
}
"""The protocol, its version, and the share of 500 test images that it gets right. Whoever changes a number raises the
version too."""


@pytest.mark.parametrize("name", GOLDEN)
def test_numbers_are_those_of_the_version(name: str) -> None:
    """Oracle: the numbers when the version was set, to one image: another processor may round another way."""
    evaluation, version, expected = GOLDEN[name]
    features, sealed = bank()
    ranking = evaluation(features)
    assert ranking is not None
    assert evaluation.version == version
    assert sealed.score(evaluation.name, ranking).top1 == pytest.approx(expected, abs=1.01 / TEST)
    if "feature" in ranking.choices:
        assert ranking.choices["feature"] == "clean"
