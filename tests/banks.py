"""Features in classes, and banks of them for the tests of the frozen evaluations."""

import torch
from torch import Tensor

from benchmark.evals.features import Bank


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixture(n: int, dim: int, classes: int, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features and labels of overlapping Gaussians around random centres, the same for every seed."""
    labels = torch.arange(n) % classes
    return normal(classes, dim, seed=99)[labels] + spread * normal(n, dim, seed=seed), labels


def bank_of(
    train: dict[str, Tensor], labels: Tensor, test: dict[str, Tensor], classes: int, *, block: int | None = None
) -> Bank:
    """A bank of which every fifth block of images, by default one of each class, is held out; its views are `train`."""
    held = torch.arange(len(labels)) // (block or classes) % 5 == 4
    fit, held = ((~held).nonzero().flatten(), held.nonzero().flatten())
    return Bank(train, test, labels, fit, held, classes, "toy", lambda number: train)
