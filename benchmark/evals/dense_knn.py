"""Segmentation without training: each cell of a test map takes the classes of the nearest cells of train."""

from dataclasses import dataclass

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.annotations import Count, Positive
from benchmark.evals.dense import DenseBank, Scores, Segmentation, as_maps, rows_of
from benchmark.randomness import derive

USUAL = 100_000  # cells in the bank, by which scores of others are known
ROWS = 256  # queries whose similarities are held at once
BLOCK = 128  # keys of which the nearest is found at once


@gin.register
@dataclass(frozen=True, kw_only=True)
class DenseKNN:
    """Nearest neighbours of cells (Balazevic et al. 2023, arXiv:2306.01667), with nothing to choose.

    `bank` cells of train that have a label are drawn, the same for all encoders whose maps have as many cells. The `k`
    nearest of them by cosine decide:

        score[c] = sum over the neighbours j of softmax(similarity / temperature)[j] * share[j, c]

    where `share` are the shares of classes among the labelled pixels of a cell. A larger bank has better scores, so the
    evaluation has another name with another one.
    """

    bank: Count = USUAL
    k: Count = 30
    temperature: Positive = 0.02

    version = "1.0"
    dense = True

    @property
    def name(self) -> str:
        """Its name in records, with the size of an unusual bank."""
        return "dense_knn" if self.bank == USUAL else f"dense_knn_{self.bank}"

    def __call__(self, bank: DenseBank) -> Segmentation:
        """Draw the cells of the bank."""
        keys, shares = self._drawn(bank)
        flags = (f"train has {len(keys):,} labelled cells",) if len(keys) < self.bank else ()
        choices: dict[str, str | float | int] = {"bank": len(keys), "k": self.k, "temperature": self.temperature}
        return Segmentation(self.scores(keys.to(bank.device), shares.to(bank.device)), choices, flags)

    def scores(self, keys: Tensor, shares: Tensor) -> Scores:
        """Return what scores maps by keys `(n, width)`, each of length 1 or 0, and their shares `(n, classes)`."""

        def scores(maps: Tensor) -> Tensor:
            votes = []
            for queries in F.normalize(rows_of(maps.to(keys.device).float())).split(ROWS):
                similarity, ids = nearest(queries, keys, self.k)
                weights = (similarity / self.temperature).softmax(1)
                votes.append(torch.einsum("nk,nkc->nc", weights, shares[ids]))
            return as_maps(torch.cat(votes), maps)

        return scores

    def _drawn(self, bank: DenseBank) -> tuple[Tensor, Tensor]:
        """Return the keys `(n, width)` and the shares `(n, classes)` of the cells that are drawn."""
        n, width, rows, columns = bank.maps.shape
        labelled = torch.stack([shares.sum(1) > 0 for shares in bank.shares]).flatten().nonzero().flatten()
        generator = torch.Generator().manual_seed(derive("dense_knn", bank.dataset))
        order = torch.randperm(len(labelled), generator=generator)[: self.bank]
        images, cells = (part := labelled[order].sort().values) // (rows * columns), part % (rows * columns)
        keys = bank.maps.view(n, width, -1)[images, :, cells].float()
        shares = bank.shares[images, cells]
        return F.normalize(keys), shares / shares.sum(1, keepdim=True)


def nearest(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the largest products `(n, k)` of queries `(n, width)` with keys `(n_keys, width)`, and their ids.

    The k largest of all lie in the k blocks of keys whose largest are the largest, or in the rest behind the blocks, so
    only these are sorted.
    """
    products = queries @ keys.T
    n, whole = len(queries), len(keys) // BLOCK * BLOCK
    blocks = products[:, :whole].unflatten(1, (-1, BLOCK))
    best = blocks.amax(2).topk(min(k, blocks.shape[1]), sorted=False).indices
    near = blocks.gather(1, best[..., None].expand(-1, -1, BLOCK)).flatten(1)
    ids = (best[..., None] * BLOCK + torch.arange(BLOCK, device=keys.device)).flatten(1)
    rest = torch.arange(whole, len(keys), device=keys.device).expand(n, -1)
    similarity, places = torch.cat([near, products[:, whole:]], dim=1).topk(min(k, len(keys)))
    return similarity, torch.cat([ids, rest], dim=1).gather(1, places)
