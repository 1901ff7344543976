"""Scores rankings; the only module that reads test labels."""

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.evals.features import Neighbours, Ranking

CELLS = 2**24  # numbers of neighbours that are scored at once


@dataclass(frozen=True)
class Score:
    """Fractions in [0, 1] over `n` test images; `top5` is None for fewer than 50 classes.

    If there are several draws, these are means over them, and `draws` has the top-1 of each.
    """

    top1: float
    top5: float | None
    macro_f1: float
    balanced_accuracy: float
    n: int
    draws: list[float]
    details: dict[str, float]


class SealedLabels:
    """Test labels that an evaluation cannot see; it is scored once, and `reads` counts that."""

    def __init__(self, labels: Tensor, classes: int) -> None:
        self._labels = labels
        self._classes = classes
        self.reads: dict[str, int] = {}

    def score(self, evaluation: str, ranking: Ranking) -> Score:
        """Score a ranking; raises BenchmarkError for a second one of the same evaluation."""
        if evaluation in self.reads:
            raise BenchmarkError(
                f"The test labels were read for {evaluation!r} before. A second look would make the test set a "
                f"validation set; make choices on the hold-out instead."
            )
        self.reads[evaluation] = 1
        draws = ranking.classes if ranking.classes.ndim == 3 else ranking.classes[None]
        near = [ranking.neighbours.labels] if ranking.neighbours else []
        for classes in (*draws, *ranking.details.values(), *near):
            if len(classes) != len(self._labels):
                raise BenchmarkError(
                    f"{evaluation!r} ranked {len(classes)} images; the test set has {len(self._labels)}."
                )
        scores = [self._measure(classes) for classes in draws]
        details = {name: self._measure(classes)["top1"] for name, classes in ranking.details.items()}
        details |= ranking.measures
        if ranking.neighbours:
            details |= self._retrieval(ranking.neighbours)
        means = {name: fmean(score[name] for score in scores) for name in scores[0]}
        return Score(
            top1=means["top1"],
            top5=means["top5"] if self._classes >= 50 else None,
            macro_f1=means["macro_f1"],
            balanced_accuracy=means["balanced_accuracy"],
            n=len(self._labels),
            draws=[score["top1"] for score in scores] if len(scores) > 1 else [],
            details=details,
        )

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
