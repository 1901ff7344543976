"""Scores from rankings, and the seal on the test labels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

from benchmark.errors import BenchmarkError
from benchmark.evals.features import Ranking, best_classes
from benchmark.evals.scoring import SealedLabels


def example(classes: int, present: int, n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of the first `present` classes, each at least once, and scores that know them a little."""
    generator = torch.Generator().manual_seed(classes)
    labels = torch.cat([torch.arange(present), torch.randint(present, (n - present,), generator=generator)])
    scores = torch.rand(n, classes, generator=generator)
    scores[torch.arange(n), labels] += 0.4
    return labels, scores


@pytest.mark.parametrize(("classes", "present"), [(2, 2), (10, 10), (10, 7), (100, 100), (60, 31)])
def test_scores_equal_sklearn(classes: int, present: int) -> None:
    """Oracle: scikit-learn's metrics; a class without test images counts in neither mean."""
    labels, scores = example(classes, present)
    found = SealedLabels(labels, classes).score("x", Ranking(best_classes(scores), {}))
    truth, predicted = labels.numpy(), scores.argmax(1).numpy()
    f1 = f1_score(truth, predicted, average="macro", labels=range(present), zero_division=0)
    recalls = [(predicted[truth == label] == label).mean() for label in range(present)]
    assert found.top1 == pytest.approx((truth == predicted).mean())
    assert found.macro_f1 == pytest.approx(f1)
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))
    if present == classes:
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found.n == len(labels)
    if classes < 50:
        assert found.top5 is None
    else:
        assert found.top5 == pytest.approx(top_k_accuracy_score(truth, scores.numpy(), k=5, labels=range(classes)))


def test_best_classes_breaks_ties_by_the_smaller_class() -> None:
    """Oracle: the order by hand; with fewer than 5 classes, all are ranked."""
    scores = torch.tensor([[0.5, 0.7, 0.5, 0.7], [0.0, 0.0, 0.0, 0.0]])
    assert best_classes(scores).tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    assert best_classes(torch.zeros(2, 9)).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_labels_are_read_once_per_evaluation() -> None:
    """Oracle: the counter; a second look is refused, whatever it asks."""
    labels, scores = example(10, 10)
    sealed, ranking = SealedLabels(labels, 10), Ranking(best_classes(scores), {})
    sealed.score("a", ranking)
    sealed.score("b", ranking)
    with pytest.raises(BenchmarkError, match="The test labels were read for 'a' before"):
        sealed.score("a", ranking)
    assert sealed.reads == {"a": 1, "b": 1}


def test_every_test_image_counts() -> None:
    """Oracle: a ranking that lacks the last image is refused with both numbers."""
    labels, scores = example(10, 10)
    with pytest.raises(BenchmarkError, match="ranked 399 images; the test set has 400"):
        SealedLabels(labels, 10).score("x", Ranking(best_classes(scores)[:-1], {}))
