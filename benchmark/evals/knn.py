"""Weighted nearest neighbours on frozen features."""

from dataclasses import dataclass

import gin
from torch import Tensor

from benchmark.annotations import Count, Positive
from benchmark.evals.features import Bank, Choices, Ranking, best_classes, hits
from benchmark.evals.neighbours import nearest
from benchmark.runtime import progress

OTHERS = (1, 10, 200)  # further values of k, whose top-1 is among the details


@gin.register
@dataclass(frozen=True, kw_only=True)
class KNN:
    """Cosine-weighted k nearest neighbours (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Each of the `k` nearest train images votes exp(similarity / temperature) for its class. The feature is chosen on
    the hold-out. The details have the other usual settings.
    """

    k: Count = 20
    temperature: Positive = 0.07

    name = "knn"
    version = "1.0"

    def __call__(self, bank: Bank) -> Ranking:
        """Choose the feature on the hold-out, then rank the classes of the test images."""
        chosen = next(iter(bank.train))
        if len(bank.train) > 1:
            chosen = max(progress.each(bank.train, "feature"), key=lambda name: self._hits(bank.train[name], bank))
        n = len(bank.labels)
        similarity, ids = nearest(bank.test[chosen], bank.train[chosen], max(self.k, *OTHERS))
        labels = bank.labels[ids]

        def ranked(k: int, temperature: float) -> Tensor:
            return voted(votes(similarity[:, :k], labels[:, :k], bank.classes, temperature))

        names = {(min(self.k, n), self.temperature): "result"}  # a setting that equals another one has no second name
        for k in OTHERS:
            names.setdefault((min(k, n), self.temperature), f"k={k}")
        names.setdefault((min(200, n), 0.1), "k=200, t=0.1")
        details = {name: ranked(*setting) for setting, name in names.items()}
        choices: Choices = {"feature": chosen, "k": self.k, "temperature": self.temperature}
        return Ranking(details.pop("result"), choices, details=details)

    def _hits(self, features: Tensor, bank: Bank) -> int:
        scores = self.scores(features[bank.fit], bank.labels[bank.fit], features[bank.held], bank.classes)
        return hits(best_classes(scores), bank.labels[bank.held])

    def scores(self, keys: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
        """Return the votes `(n_queries, classes)`; if there are fewer than `k` keys, all of them vote."""
        similarity, ids = nearest(queries, keys, self.k)
        return votes(similarity, labels[ids], classes, self.temperature)


@gin.register
@dataclass(frozen=True, kw_only=True)
class KNNProjection:
    """`KNN` on the outputs of a projector, which some papers report; None without a projector."""

    k: Count = 200
    temperature: Positive = 0.1

    name = "knn_projection"
    version = "1.0"
    needs_projector = True

    def __call__(self, bank: Bank) -> Ranking | None:
        """Rank the classes of the test images; there is nothing to choose."""
        if bank.projected is None:
            return None
        keys, queries = bank.projected
        knn = KNN(k=self.k, temperature=self.temperature)
        scores = knn.scores(keys, bank.labels, queries, bank.classes)
        return Ranking(voted(scores), {"k": self.k, "temperature": self.temperature})


def voted(scores: Tensor) -> Tensor:
    """Rank the classes of votes `(n, classes)`, at most 5; -1 stands where no further class has a vote."""
    ranked = best_classes(scores)
    return ranked.masked_fill(scores.gather(1, ranked) == 0, -1)


def votes(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Return the votes `(n, classes)` of neighbours `(n, k)`, nearest first.

    vote[i, c] = sum over j with labels[i, j] = c of exp((similarity[i, j] - similarity[i, 0]) / temperature)
    """
    weights = ((similarity - similarity[:, :1]) / temperature).exp()  # at most 1: a small temperature cannot overflow
    return weights.new_zeros(len(weights), classes).scatter_add(1, labels, weights)
