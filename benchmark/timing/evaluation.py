"""The speed of the frozen evaluations beside the formula as it is published, and beside a library for search."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.evals.features import Bank, best_classes
from benchmark.evals.knn import KNN
from benchmark.evals.linear import Linear
from benchmark.timing.rounds import interleave

PUBLISHED_CELLS = 5_000_000  # similarities at once in the published formula, its authors' default


@dataclass(frozen=True)
class Size:
    """How much is evaluated."""

    keys: int
    queries: int
    width: int
    classes: int


KNN_SIZE = Size(50_000, 10_000, 512, 10)
LINEAR_SIZE = Size(50_000, 10_000, 512, 100)


def bank(size: Size) -> Bank:
    """Return features of overlapping classes on a low-dimensional sheet, as those of encoders are."""
    generator = torch.Generator().manual_seed(0)
    n = size.keys + size.queries
    labels = torch.randint(size.classes, (n,), generator=generator)
    centres = torch.randn(size.classes, 32, generator=generator)
    sheet = torch.randn(32, size.width, generator=generator)
    features = (centres[labels] + 2 * torch.randn(n, 32, generator=generator)) @ sheet
    features += torch.randn(n, size.width, generator=generator)
    train, test = features[: size.keys], features[size.keys :]
    order = torch.randperm(size.keys, generator=generator)
    held, fit = order[: size.keys // 10], order[size.keys // 10 :]
    return Bank(
        {"x": train}, {"x": test}, labels[: size.keys], fit, held, size.classes, "speed", lambda _: {"x": train}
    )


def published_knn(bank: Bank, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Rank classes by the weighted vote as it is commonly published: one-hot labels times weights, summed."""
    keys, queries = F.normalize(bank.train["x"]), F.normalize(bank.test["x"])
    rows = max(1, PUBLISHED_CELLS // len(keys))
    ranked = []
    for part in queries.split(rows):
        similarities, nearest = (part @ keys.T).topk(k, dim=1, largest=True, sorted=True)
        one_hot = torch.zeros(len(part) * k, bank.classes)
        one_hot.scatter_(1, bank.labels[nearest].view(-1, 1), 1)
        weights = (similarities / temperature).exp()
        votes = (one_hot.view(len(part), k, bank.classes) * weights[:, :, None]).sum(1)
        ranked.append(votes.sort(1, descending=True).indices)
    return torch.cat(ranked)


def ours_knn(bank: Bank) -> Tensor:
    """Rank classes by our vote, on the whole of train."""
    return best_classes(KNN().scores(bank.train["x"], bank.labels, bank.test["x"], bank.classes))


def searched(bank: Bank, k: int = 20) -> Callable[[], object] | None:
    """Return the bare search, without a vote, by the library faiss; None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    keys, queries = (F.normalize(part["x"]).numpy() for part in (bank.train, bank.test))
    faiss.omp_set_num_threads(torch.get_num_threads())

    def search() -> object:
        index = faiss.IndexFlatIP(keys.shape[1])
        index.add(keys)
        return index.search(queries, k)

    return search


def report(rounds: int) -> str:
    """Measure, and return a table with medians and ranges over the rounds."""
    features = bank(KNN_SIZE)
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: ours_knn(features),
        "published formula": lambda: published_knn(features),
    }
    if search := searched(features):
        candidates["faiss, search alone"] = search
    times = interleave(candidates, rounds)
    agreement = (ours_knn(features)[:, 0] == published_knn(features)[:, 0]).double().mean()
    size = KNN_SIZE
    lines = [
        f"{torch.get_num_threads()} threads, {rounds} interleaved rounds: median (least to most)",
        "",
        f"kNN: {size.queries:,} queries, {size.keys:,} keys, {size.width} features, k 20; equal top-1 on "
        f"{100 * agreement:.2f} % of the queries",
    ]
    for name in candidates:
        seconds, ratio = times.typical(name), times.faster("ours", name)
        lines.append(f"  {name:<20} {_spread(seconds)} s, ours is {_spread(ratio)} times as fast")
    size, features = LINEAR_SIZE, bank(LINEAR_SIZE)
    times = interleave({"linear": lambda: Linear()(features)}, max(1, rounds // 3))
    lines += [
        "",
        f"linear probe with its search: {size.keys:,} images, {size.width} features, {size.classes} classes",
        f"  {'ours':<20} {_spread(times.typical('linear'))} s",
    ]
    return "\n".join(lines)


def _spread(values: tuple[float, float, float]) -> str:
    middle, least, most = values
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"
