"""Scores from rankings, and the seal on the test labels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

from benchmark.errors import BenchmarkError
from benchmark.evals import scoring
from benchmark.evals.features import Neighbours, Ranking, best_classes
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
    """Oracle: scikit-learn's metrics. The mean of F1 has every class that occurs or is predicted."""
    labels, scores = example(classes, present)
    score = SealedLabels(labels, classes).score("x", Ranking(best_classes(scores), {}))
    truth, predicted = labels.numpy(), scores.argmax(1).numpy()
    f1 = f1_score(truth, predicted, average="macro", zero_division=0)
    recalls = [(predicted[truth == label] == label).mean() for label in range(present)]
    assert score.top1 == pytest.approx((truth == predicted).mean())
    assert score.macro_f1 == pytest.approx(f1)
    assert score.balanced_accuracy == pytest.approx(np.mean(recalls))
    if present == classes:
        assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert score.n == len(labels)
    if classes < 50:
        assert score.top5 is None
    else:
        assert score.top5 == pytest.approx(top_k_accuracy_score(truth, scores.numpy(), k=5, labels=range(classes)))


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


def test_draws_are_averaged() -> None:
    """Oracle: the scores of each draw alone, and their means."""
    labels, scores = example(60, 60)
    rankings = [best_classes(scores), best_classes(scores.roll(1, 1)), best_classes(scores.roll(30, 0))]
    each = [SealedLabels(labels, 60).score("x", Ranking(ranking, {})) for ranking in rankings]
    sealed = SealedLabels(labels, 60)
    score = sealed.score("x", Ranking(torch.stack(rankings), {}))
    assert score.draws == [score.top1 for score in each]
    assert each[0].draws == []
    for name in ("top1", "top5", "macro_f1", "balanced_accuracy"):
        assert getattr(score, name) == pytest.approx(np.mean([getattr(score, name) for score in each]))
    assert sealed.reads == {"x": 1}


def test_details_are_top1_beside_the_result() -> None:
    """Oracle: the score of the other ranking alone; the result does not change."""
    labels, scores = example(10, 10)
    other = best_classes(-scores)
    score = SealedLabels(labels, 10).score("x", Ranking(best_classes(scores), {}, details={"worst": other}))
    assert score.details == {"worst": SealedLabels(labels, 10).score("x", Ranking(other, {})).top1}
    assert score.top1 == SealedLabels(labels, 10).score("x", Ranking(best_classes(scores), {})).top1
    with pytest.raises(BenchmarkError, match="ranked 399 images"):
        SealedLabels(labels, 10).score("x", Ranking(best_classes(scores), {}, details={"short": other[1:]}))


def test_retrieval_equals_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: recall at k and mean average precision at R by loops, with a class that train lacks; in blocks too."""
    generator = torch.Generator().manual_seed(0)
    gallery, queries = torch.randint(0, 3, (40,), generator=generator), torch.randint(0, 4, (25,), generator=generator)
    order = torch.rand(25, 40, generator=generator).argsort(1)
    counts = gallery.bincount(minlength=4)
    neighbours = Neighbours(gallery[order][:, : max(10, int(counts.max()))], counts)
    classes = gallery[order][:, :1]
    score = SealedLabels(queries, 4).score("x", Ranking(classes, {}, neighbours=neighbours))
    precisions, hits = [], {1: 0, 5: 0, 10: 0}
    for query, ranked in zip(queries.tolist(), gallery[order].tolist(), strict=True):
        relevant, right, total = ranked.count(query), 0, 0.0
        for place, label in enumerate(ranked[:relevant], 1):
            right += label == query
            total += right / place if label == query else 0.0
        precisions.append(total / relevant if relevant else 0.0)
        for k in hits:
            hits[k] += query in ranked[:k]
    assert counts[3] == 0
    assert score.details["map_at_r"] == pytest.approx(np.mean(precisions), rel=1e-6)
    for k, count in hits.items():
        assert score.details[f"recall_at_{k}"] == pytest.approx(count / 25)
    assert score.top1 == pytest.approx(score.details["recall_at_1"])
    monkeypatch.setattr(scoring, "CELLS", 3 * neighbours.labels.shape[1])
    assert SealedLabels(queries, 4).score("x", Ranking(classes, {}, neighbours=neighbours)) == score
