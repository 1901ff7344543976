"""Weighted nearest neighbours on frozen features."""

from dataclasses import dataclass

import gin
from torch import Tensor

from benchmark.annotations import Count, Positive
from benchmark.evals.features import Bank, Ranking, best_classes
from benchmark.evals.neighbours import nearest
from benchmark.runtime import progress

OTHERS = (1, 10, 200)  # the values of k whose top-1 stands beside the result


@gin.register
@dataclass(frozen=True, kw_only=True)
class KNN:
    """Cosine-weighted k nearest neighbours (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    The bank is all of train, each image once; each of the `k` nearest votes exp(similarity / temperature) for its
    class. Which feature is used is chosen on the hold-out. The details have the usual other settings.
    """

    k: Count = 20
    temperature: Positive = 0.07

    name = "knn"
    version = "1.0"

    def __call__(self, bank: Bank) -> Ranking:
        """Choose the feature on the hold-out, then rank the classes of the test images."""
        names = list(bank.train)
        chosen = names[0]
        if len(names) > 1:
            chosen = max(progress.each(names, "feature"), key=lambda name: self._hits(bank.train[name], bank))
        keys = bank.train[chosen]
        similarity, ids = nearest(bank.test[chosen], keys, max(self.k, *OTHERS))
        labels = bank.labels[ids]

        def ranked(k: int, temperature: float) -> Tensor:
            return best_classes(votes(similarity[:, :k], labels[:, :k], bank.classes, temperature))

        settings = {f"k={k}": (k, self.temperature) for k in OTHERS} | {"k=200, t=0.1": (200, 0.1)}
        done, details = {(min(self.k, len(keys)), self.temperature)}, {}
        for name, (k, temperature) in settings.items():
            setting = min(k, len(keys)), temperature
            if setting not in done:
                details[name] = ranked(*setting)
            done.add(setting)
        choices: dict[str, str | float | int] = {"feature": chosen, "k": self.k}
        choices["temperature"] = self.temperature
        return Ranking(ranked(self.k, self.temperature), choices, details=details)

    def _hits(self, features: Tensor, bank: Bank) -> int:
        scores = self.scores(features[bank.fit], bank.labels[bank.fit], features[bank.held], bank.classes)
        return int((best_classes(scores)[:, 0] == bank.labels[bank.held]).sum())

    def scores(self, keys: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
        """Return the votes `(n_queries, classes)`; with fewer than `k` keys, all of them vote."""
        similarity, ids = nearest(queries, keys, self.k)
        return votes(similarity, labels[ids], classes, self.temperature)


@gin.register
@dataclass(frozen=True, kw_only=True)
class KNNProjection:
    """Nearest neighbours as `KNN` among a projector's outputs, which some papers report; None without a projector."""

    k: Count = 200
    temperature: Positive = 0.1

    name = "knn_projection"
    version = "1.0"

    def __call__(self, bank: Bank) -> Ranking | None:
        """Rank the classes of the test images; there is nothing to choose."""
        if bank.projected is None:
            return None
        keys, queries = bank.projected
        similarity, ids = nearest(queries, keys, self.k)
        scores = votes(similarity, bank.labels[ids], bank.classes, self.temperature)
        return Ranking(best_classes(scores), {"k": self.k, "temperature": self.temperature})


def votes(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Return the votes `(n, classes)` of neighbours `(n, k)`, nearest first, relative to the vote of the nearest."""
    weights = ((similarity - similarity[:, :1]) / temperature).exp()  # so that a small temperature cannot overflow
    return weights.new_zeros(len(weights), classes).scatter_add(1, labels, weights)
