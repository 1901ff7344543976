"""Weighted nearest neighbours on frozen features."""

from dataclasses import dataclass

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.errors import ConfigError
from benchmark.evals.features import Bank, Ranking, best_classes

CHUNK = 1024  # queries per similarity matrix


@gin.register
@dataclass(frozen=True, kw_only=True)
class KNN:
    """Cosine-weighted k nearest neighbours (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    The bank is all of train, each image once; each of the `k` nearest votes exp(similarity / temperature) for its
    class. Which feature is used is chosen on the hold-out.
    """

    k: int = 20
    temperature: float = 0.07

    name = "knn"
    version = 1

    def __post_init__(self) -> None:
        if self.k < 1 or self.temperature <= 0:
            raise ConfigError(
                f"KNN needs k of at least 1 and a temperature above 0; got {self.k} and {self.temperature}."
            )

    def __call__(self, bank: Bank) -> Ranking:
        """Choose the feature on the hold-out, then rank the classes of the test images."""
        names = list(bank.train)
        chosen = names[0] if len(names) == 1 else max(names, key=lambda name: self._hits(bank.train[name], bank))
        scores = self.scores(bank.train[chosen], bank.labels, bank.test[chosen], bank.classes)
        return Ranking(best_classes(scores), {"feature": chosen, "k": self.k, "temperature": self.temperature})

    def _hits(self, features: Tensor, bank: Bank) -> int:
        scores = self.scores(features[bank.fit], bank.labels[bank.fit], features[bank.held], bank.classes)
        return int((best_classes(scores)[:, 0] == bank.labels[bank.held]).sum())

    def scores(self, keys: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
        """Return the votes `(n_queries, classes)`; with fewer than `k` keys, all of them vote."""
        keys = F.normalize(keys.float(), dim=1)
        queries = F.normalize(queries.float(), dim=1)
        votes = []
        for chunk in queries.split(CHUNK):
            similarity, nearest = (chunk @ keys.T).topk(min(self.k, len(keys)), dim=1)
            # relative to the nearest, so that a small temperature cannot overflow
            weights = ((similarity - similarity[:, :1]) / self.temperature).exp()
            votes.append(weights.new_zeros(len(chunk), classes).scatter_add(1, labels[nearest], weights))
        return torch.cat(votes)
