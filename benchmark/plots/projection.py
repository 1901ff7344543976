"""Features in the plane and as colours, and how well they separate classes."""

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor

COMPONENTS = 50  # that features are reduced to before they are mapped
PERPLEXITY = 30


def planar(features: Tensor) -> npt.NDArray[np.float32]:
    """Map features `(n, dim)` to the plane, `(n, 2)`, by t-SNE (van der Maaten and Hinton 2008) with a fixed seed.

    t-SNE gets the first 50 principal components and starts from two of them. The wider side of the map is horizontal.
    There must be at least 5 rows, and two of them must differ.
    """
    reduced = PCA(min(COMPONENTS, *features.shape), svd_solver="full").fit_transform(features.double().numpy())
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return np.asarray(points[:, np.ptp(points, axis=0).argsort()[::-1]], dtype=np.float32)


def purity(features: Tensor, labels: Tensor, k: int) -> float:
    """Return the share of the `k` nearest neighbours of each unit row that have its label; the mean over rows."""
    cosines = (features @ features.T).fill_diagonal_(-torch.inf)
    neighbours = cosines.topk(min(k, len(features) - 1)).indices
    return float((labels[neighbours] == labels[:, None]).double().mean())


def silhouette(features: Tensor, labels: Tensor) -> float:
    """Return the silhouette of the classes by cosine, in [-1, 1] (Rousseeuw 1987), the mean over `(n, dim)` features.

    NaN where there is one class, or as many as features.
    """
    if not 1 < len(labels.unique()) < len(labels):
        return float("nan")
    return float(silhouette_score(features.double().numpy(), labels.numpy(), metric="cosine"))


def components(tokens: Tensor) -> Tensor:
    """Return the first 3 principal components `(batch, tokens, 3)` of patch features, each scaled to [0, 1]."""
    rows = tokens.double().flatten(0, 1)
    centred = rows - rows.mean(0)
    scores: Tensor = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:3].T
    low, high = scores.aminmax(dim=0)
    return ((scores - low) / (high - low).clamp_min(1e-12)).float().view(*tokens.shape[:2], 3)


def strongest(attention: Tensor, mass: float) -> Tensor:
    """Return `(..., patches)` with NaN for all but the fewest patches that hold a share `mass` of their sum."""
    values, order = attention.sort(dim=-1, descending=True, stable=True)
    before = values.cumsum(-1) - values
    kept = before < mass * attention.sum(-1, keepdim=True)
    return attention.masked_fill(~kept.gather(-1, order.argsort(-1)), torch.nan)
