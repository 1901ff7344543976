"""kNN accuracy of an encoder that is still being pretrained, measured on images of train alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.data.dataset import Dataset
from benchmark.data.streaming import subset
from benchmark.evals.features import best_classes, extract, hits
from benchmark.evals.knn import KNN
from benchmark.nets.encoders import Encoder
from benchmark.randomness import derive
from benchmark.runtime import progress
from benchmark.views.colour import normalise

IMAGES = 5000  # of train, at most: four of five are the bank, the others the queries


@dataclass(frozen=True)
class OnlineKNN:
    """The accuracy of `KNN` with its defaults, on the pooled feature of some train images.

    `ids` are those of the images that vote, `bank` in number, and then of the `queries`, which are classified.

    The accuracy of 1,000 queries has a standard error of about 1.5 points. The encoder may have been pretrained on
    these images, without their labels. Nothing is chosen by this accuracy.
    """

    dataset: Dataset
    device: torch.device
    precision: str
    ids: Tensor
    bank: int
    queries: int

    @progress.doing("kNN on train images")
    def __call__(self, encoder: Encoder) -> float:
        """Measure an encoder in eval mode, in the precision of its pretraining."""
        data, labels = self.dataset, self.dataset.train.labels
        assert labels is not None
        mean, std = encoder.statistics or (data.mean, data.std)

        def prepare(batch: Tensor, ids: Tensor) -> Tensor:
            return normalise(batch.float() / 255, mean, std)

        images = subset(data.train.images, self.ids)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            pooled = next(iter(extract(encoder, images, prepare, self.device).values()))  # the others pool tokens
        pooled = pooled.where(pooled.isfinite().all(1, keepdim=True), 0.0)  # as a run that diverges is evaluated
        keys, queries = pooled.split([self.bank, self.queries])
        known, right = labels[self.ids].split([self.bank, self.queries])
        return hits(best_classes(KNN().scores(keys, known, queries, len(data.classes))), right) / self.queries


def online_knn(dataset: Dataset, seed: int, device: torch.device, precision: str) -> OnlineKNN | None:
    """Draw bank and queries from train by the seed; None where train has no labels or nothing to tell apart.

    Nor is there one for images with several labels, for which nearest neighbours do not vote.
    """
    n = len(dataset.train.images)
    if dataset.train.labels is None or dataset.is_multilabel or len(dataset.classes) < 2 or n < 2:
        return None
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "online kNN")))[:IMAGES]
    bank, queries = drawn.tensor_split([len(drawn) * 4 // 5])
    ids = torch.cat([bank.sort().values, queries.sort().values])
    return OnlineKNN(dataset, device, precision, ids, len(bank), len(queries))
