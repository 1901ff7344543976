"""Subsets of labelled data that are the same on every machine and in every version of every library."""

import hashlib

import torch
from torch import Tensor


def hashed_order(labels: Tensor, name: str, purpose: str) -> list[Tensor]:
    """Return, for each class present, its sample ids ordered by a SHA-256 of (purpose, name, class, id).

    The order depends on nothing else, so prefixes of it are nested and class-balanced subsets.
    """

    def rank(label: int, sample: int) -> bytes:
        return hashlib.sha256(f"{purpose}/{name}/{label}/{sample}".encode()).digest()

    orders = []
    for label in labels.unique().tolist():
        samples = (labels == label).nonzero().flatten().tolist()
        orders.append(torch.tensor(sorted(samples, key=lambda sample: rank(label, sample))))
    return orders


def holdout(labels: Tensor, name: str, fraction: float = 0.1) -> tuple[Tensor, Tensor]:
    """Split train samples into (fitting ids, held-out ids), stratified; settings are chosen on the held-out ones.

    A class with one sample stays in the fitting part; one with more gives `fraction` of them, at least one. Samples
    with several labels, bool `(n, classes)`, are all of one class here: the split is random, by the hashed order.
    """
    labels = labels if labels.ndim == 1 else torch.zeros(len(labels), dtype=torch.int64)
    fit, held = [], []
    for order in hashed_order(labels, name, "holdout"):
        n = 0 if len(order) == 1 else max(1, round(fraction * len(order)))
        held.append(order[:n])
        fit.append(order[n:])
    return torch.cat(fit).sort().values, torch.cat(held).sort().values


def labelled(labels: Tensor, name: str, fraction: float, draw: int) -> Tensor:
    """Return the train ids of a labelled subset, class after class: of each a `fraction`, at least one.

    The ids of a class are a prefix of its hashed order, so that a draw's subsets are nested in the fraction.
    """
    orders = hashed_order(labels, name, f"labelled {draw}")
    return torch.cat([order[: max(1, round(fraction * len(order)))] for order in orders])
