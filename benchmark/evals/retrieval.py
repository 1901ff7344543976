"""Image retrieval on frozen features: do the nearest train images of a test image show its class?"""

from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from benchmark.evals.features import Bank, Neighbours, Ranking
from benchmark.evals.neighbours import nearest
from benchmark.evals.scoring import SealedLabels
from benchmark.runtime import progress

CHUNK = 2048  # queries whose neighbours are held with their ids and similarities


@gin.register
@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall at 1, 5 and 10 and mean average precision at R by cosine (Musgrave et al. 2020, arXiv:2003.08505).

    The gallery is all of train, the queries are the test images. The feature is chosen by the mean average precision of
    the held-out train images among the others.
    """

    name = "retrieval"
    version = "1.0"

    def __call__(self, bank: Bank) -> Ranking:
        """Choose the feature on the hold-out, then order the gallery for each test image."""
        names = list(bank.train)
        chosen = names[0]
        if len(names) > 1:
            chosen = max(progress.each(names, "feature"), key=lambda name: self._precision(bank.train[name], bank))
        found = self.neighbours(bank.train[chosen], bank.labels, bank.test[chosen], bank.classes)
        return Ranking(found.labels[:, :1].long(), {"feature": chosen}, neighbours=found)

    def _precision(self, features: Tensor, bank: Bank) -> float:
        found = self.neighbours(features[bank.fit], bank.labels[bank.fit], features[bank.held], bank.classes)
        sealed = SealedLabels(bank.labels[bank.held], bank.classes)
        return sealed.score(self.name, Ranking(found.labels[:, :1].long(), {}, neighbours=found)).details["map_at_r"]

    def neighbours(self, gallery: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Neighbours:
        """Return the labels of the nearest images, as many as the largest class has, at least 10."""
        counts = labels.bincount(minlength=classes)
        depth = max(10, int(counts.max()))
        small = labels.to(torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32)
        parts = progress.each(queries.split(CHUNK), "queries, part")
        return Neighbours(torch.cat([small[nearest(part, gallery, depth)[1]] for part in parts]), counts)
