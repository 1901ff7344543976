"""Image retrieval on frozen features: do the nearest train images of a test image show its class?"""

from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from benchmark.evals.features import Bank, Choices, Neighbours, Ranking
from benchmark.evals.neighbours import nearest
from benchmark.evals.scoring import SealedLabels
from benchmark.runtime import progress

CHUNK = 2048  # queries that are searched at once


@gin.register
@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall at 1, 5 and 10 and mean average precision at R by cosine (Musgrave et al. 2020, arXiv:2003.08505).

    The gallery is all of train, and the queries are the test images. The feature is chosen by the mean average
    precision of the hold-out with the fitting part as gallery.
    """

    name = "retrieval"
    version = "1.0"

    def __call__(self, bank: Bank) -> Ranking:
        """Choose the feature on the hold-out, then order the gallery for each test image."""
        chosen = next(iter(bank.train))
        if len(bank.train) > 1:
            chosen = max(progress.each(bank.train, "feature"), key=lambda name: self._precision(bank.train[name], bank))
        return self._ranked(bank.train[chosen], bank.labels, bank.test[chosen], bank.classes, {"feature": chosen})

    def _precision(self, features: Tensor, bank: Bank) -> float:
        ranking = self._ranked(features[bank.fit], bank.labels[bank.fit], features[bank.held], bank.classes, {})
        return SealedLabels(bank.labels[bank.held], bank.classes).score(self.name, ranking).details["map_at_r"]

    def _ranked(self, gallery: Tensor, labels: Tensor, queries: Tensor, classes: int, choices: Choices) -> Ranking:
        """Find the nearest images of each query: as many as the largest class has, at least 10."""
        counts = labels.bincount(minlength=classes)
        depth = max(10, int(counts.max()))
        small = labels.to(torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32)
        parts = progress.each(queries.split(CHUNK), "queries, part")
        near = torch.cat([small[nearest(part, gallery, depth)[1]] for part in parts])
        return Ranking(near[:, :1].long(), choices, neighbours=Neighbours(near, counts))
