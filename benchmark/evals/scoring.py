"""Scores rankings; the only module that reads test labels."""

from dataclasses import dataclass, field
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.evals.features import Neighbours, Ranking
from benchmark.randomness import derive

CELLS = 2**24  # numbers of neighbours that are scored at once
COLUMNS = 64  # classes whose precisions are computed at once


@dataclass(frozen=True, kw_only=True)
class Score:
    """Fractions in [0, 1] over `n` test images; `top5` is None for fewer than 50 classes.

    If there are several draws, these are means over them, and `draws` has the top-1 of each.

    Where an image may have several labels, these are, beside `mean_average_precision`: the share of images of which the
    class with the highest score is a label (top-1), or one of the five highest (top-5); and for the classes that a
    probability above a half predicts, the means of F1 and of the two recalls of a class, of its images and the others.
    """

    top1: float
    top5: float | None = None
    macro_f1: float
    balanced_accuracy: float
    n: int
    draws: list[float] = field(default_factory=list)
    details: dict[str, float]
    mean_average_precision: float | None = None


class Sealed:
    """Test labels, masks or boxes that an evaluation cannot see; it is scored once, and `reads` counts that."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.reads: dict[str, int] = {}

    def _read_for(self, evaluation: str) -> None:
        """Raise BenchmarkError for a second score of one evaluation."""
        if evaluation in self.reads:
            raise BenchmarkError(
                f"The test {self._what} were read for {evaluation!r} before. A second look would make the test set a "
                f"validation set; make choices on the hold-out instead."
            )
        self.reads[evaluation] = 1


class SealedLabels(Sealed):
    """Test labels, as `Split` has them."""

    def __init__(self, labels: Tensor, classes: int) -> None:
        super().__init__("labels")
        self._labels, self._classes = labels, classes

    def score(self, evaluation: str, ranking: Ranking) -> Score:
        """Score a ranking; raises BenchmarkError for a second one of the same evaluation."""
        self._read_for(evaluation)
        draws = ranking.classes if ranking.classes.ndim == 3 else ranking.classes[None]
        near = [ranking.neighbours.labels] if ranking.neighbours else []
        for classes in (*draws, *ranking.details.values(), *near):
            if len(classes) != len(self._labels):
                raise BenchmarkError(
                    f"{evaluation!r} ranked {len(classes)} images; the test set has {len(self._labels)}."
                )
        if self._labels.ndim == 2:
            assert ranking.scores is not None
            scores = [self._measure_sets(ranking.classes, ranking.scores)]
        else:
            scores = [self._measure(classes) for classes in draws]
        details = {name: self._measure(classes)["top1"] for name, classes in ranking.details.items()}
        details |= ranking.measures
        if ranking.neighbours:
            details |= self._retrieval(ranking.neighbours)
        means = {name: fmean(score[name] for score in scores) for name in scores[0]}
        if self._classes < 50:
            del means["top5"]
        top1s = [score["top1"] for score in scores] if len(scores) > 1 else []
        return Score(**means, n=len(self._labels), draws=top1s, details=details)

    def _measure_sets(self, ranked: Tensor, logits: Tensor) -> dict[str, float]:
        """Measure images with several labels, bool `(n, classes)`."""
        labels, predicted = self._labels, logits > 0
        correct = labels.gather(1, ranked)
        right, actual, predictions = ((each).sum(0).double() for each in (labels & predicted, labels, predicted))
        others, seen = len(labels) - actual, actual + predictions > 0
        recalls = right / actual, (others - predictions + right) / others
        f1 = 2 * right / (actual + predictions)
        return {
            "top1": float(correct[:, 0].double().mean()),
            "top5": float(correct.any(1).double().mean()),
            "macro_f1": float(f1[seen].mean()) if seen.any() else 0.0,
            "balanced_accuracy": float(torch.stack(recalls).nanmean(0).mean()),
            "mean_average_precision": mean_average_precision(logits, labels),
        }

    def _measure(self, ranked: Tensor) -> dict[str, float]:
        labels, predicted = self._labels, ranked[:, 0]
        confusion = torch.zeros(self._classes, self._classes, dtype=torch.float64)
        confusion.index_put_((labels, predicted), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
        correct, actual, predictions = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        present, seen = actual > 0, actual + predictions > 0
        f1 = 2 * correct / (actual + predictions).clamp(min=1)
        return {
            "top1": float(correct.sum() / len(labels)),
            "top5": float((ranked == labels[:, None]).any(1).double().mean()),
            "macro_f1": float(f1[seen].mean()),
            "balanced_accuracy": float((correct / actual.clamp(min=1))[present].mean()),
        }

    def _retrieval(self, neighbours: Neighbours) -> dict[str, float]:
        """Return recall at 1, 5 and 10, and the mean average precision at R (Musgrave et al. 2020, arXiv:2003.08505).

        R is the number of train images of the query's class; a query scores 0 if there are none.
        """
        depth = neighbours.labels.shape[1]
        ranks = torch.arange(1, depth + 1)
        averages, firsts = [], []
        rows = max(1, CELLS // depth)
        for near, labels in zip(neighbours.labels.split(rows), self._labels.split(rows), strict=True):
            correct = near == labels[:, None]
            relevant = neighbours.counts[labels]
            correct_to_r = correct & (ranks <= relevant[:, None])
            precision = correct_to_r.cumsum(1, dtype=torch.float32) / ranks
            averages.append((precision * correct_to_r).sum(1, dtype=torch.float64) / relevant.clamp(min=1))
            firsts.append(correct[:, :10])
        first = torch.cat(firsts)
        recalls = {f"recall_at_{k}": float(first[:, :k].any(1).double().mean()) for k in (1, 5, 10)}
        return recalls | {"map_at_r": float(torch.cat(averages).mean())}


def resamples(count: int, n: int) -> Tensor:
    """Return how often each of `n` images is in each of `count` resamples of a bootstrap, float64 `(count, n)`."""
    drawn = torch.randint(n, (count, n), generator=torch.Generator().manual_seed(derive("bootstrap", n)))
    return torch.zeros(count, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(1).double().expand_as(drawn))


def middle(values: Tensor) -> list[float]:
    """Return the ends of the middle 95 % of the scores of resamples."""
    ends: list[float] = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return ends


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the average precision of scores `(n, classes)`; `labels` are bool, as wide.

        average precision = sum over thresholds of (recall - recall at the threshold before) * precision

    Thresholds are the different scores of a class, so that images with equal scores count at once. Classes without an
    image have no precision and are left out; 0 where that is each.
    """
    averages = []
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]
    for part, marks in zip(scores.split(COLUMNS, dim=1), labels.split(COLUMNS, dim=1), strict=True):
        order = part.argsort(dim=0, descending=True)
        ranked, hits = part.gather(0, order), marks.gather(0, order).double().cumsum(0)
        is_last = F.pad(ranked[1:] != ranked[:-1], (0, 0, 0, 1), value=True)  # of equal scores
        to_here = hits.where(is_last, 0.0).cummax(0).values
        gains = hits - F.pad(to_here[:-1], (0, 0, 1, 0))
        averages.append((gains * hits / places).where(is_last, 0.0).sum(0) / hits[-1])
    return float(torch.cat(averages).nanmean().nan_to_num())
