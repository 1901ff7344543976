"""Scores from rankings; the only place that reads test labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.evals.features import Ranking


@dataclass(frozen=True)
class Score:
    """Fractions in [0, 1] over `n` test images; `top5` is None below 50 classes, where it says little."""

    top1: float
    top5: float | None
    macro_f1: float
    balanced_accuracy: float
    n: int


class SealedLabels:
    """Test labels that an evaluation cannot see; each evaluation may be scored once, and reads are counted."""

    def __init__(self, labels: Tensor, classes: int) -> None:
        self._labels = labels
        self._classes = classes
        self.reads: dict[str, int] = {}

    def score(self, evaluation: str, ranking: Ranking) -> Score:
        """Score a ranking; raises BenchmarkError if this evaluation was scored before."""
        if evaluation in self.reads:
            raise BenchmarkError(
                f"The test labels were read for {evaluation!r} before. A second look would make the test set a "
                f"validation set; make choices on the hold-out instead."
            )
        self.reads[evaluation] = 1
        labels, predicted = self._labels, ranking.classes[:, 0]
        if len(predicted) != len(labels):
            raise BenchmarkError(f"{evaluation!r} ranked {len(predicted)} images; the test set has {len(labels)}.")
        confusion = torch.zeros(self._classes, self._classes, dtype=torch.float64)
        confusion.index_put_((labels, predicted), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
        hits, actual, claimed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        present = actual > 0
        f1 = 2 * hits / (actual + claimed).clamp(min=1)
        top5 = (ranking.classes == labels[:, None]).any(1).double().mean()
        return Score(
            top1=float(hits.sum() / len(labels)),
            top5=float(top5) if self._classes >= 50 else None,
            macro_f1=float(f1[present].mean()),
            balanced_accuracy=float((hits / actual.clamp(min=1))[present].mean()),
            n=len(labels),
        )
