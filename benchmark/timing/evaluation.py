"""The speed of the frozen evaluations beside the formula as it is published, and beside a library for search."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.evals.features import Bank, best_classes
from benchmark.evals.knn import KNN
from benchmark.evals.linear import Linear
from benchmark.timing.measurement import cell
from benchmark.timing.rounds import interleave

KEYS, QUERIES, WIDTH = 50_000, 10_000, 512  # images of train and of test, and features of each
PUBLISHED_CELLS = 5_000_000  # similarities at once in the published formula, its authors' default


def bank(classes: int) -> Bank:
    """Return features of overlapping classes on a low-dimensional sheet, as those of encoders are."""
    generator = torch.Generator().manual_seed(0)
    n = KEYS + QUERIES
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, 32, generator=generator)
    sheet = torch.randn(32, WIDTH, generator=generator)
    features = (centres[labels] + 2 * torch.randn(n, 32, generator=generator)) @ sheet
    features += torch.randn(n, WIDTH, generator=generator)
    train, test = features.split([KEYS, QUERIES])
    held, fit = torch.randperm(KEYS, generator=generator).tensor_split([KEYS // 10])
    return Bank({"x": train}, {"x": test}, labels[:KEYS], fit, held, classes, "speed", lambda _: {"x": train})


def published_knn(bank: Bank, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Rank classes by the weighted vote as it is commonly published: one-hot labels times weights, summed."""
    keys, queries = F.normalize(bank.train["x"]), F.normalize(bank.test["x"])
    ranked = []
    for part in queries.split(max(1, PUBLISHED_CELLS // len(keys))):
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


def faiss_search(bank: Bank, k: int = 20) -> Callable[[], object] | None:
    """Return the search for neighbours by the library faiss, without the vote; None where it is not installed."""
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
    """Measure, and return a text with medians and ranges over the rounds."""
    features = bank(classes=10)
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: ours_knn(features),
        "published formula": lambda: published_knn(features),
    }
    if search := faiss_search(features):
        candidates["faiss, search alone"] = search
    times = interleave(candidates, rounds)
    agreement = (ours_knn(features)[:, 0] == published_knn(features)[:, 0]).double().mean()
    lines = [
        f"{torch.get_num_threads()} threads, {rounds} interleaved rounds: median (least to most)",
        "",
        f"kNN: {QUERIES:,} queries, {KEYS:,} keys, {WIDTH} features, k 20; equal top-1 on {100 * agreement:.2f} % of "
        "the queries",
    ]
    for name in candidates:
        seconds, ratio = cell(times.typical(name), ".2f"), cell(times.faster("ours", name), ".2f")
        lines.append(f"  {name:<20} {seconds} s, ours is {ratio} times as fast")
    many_classes = bank(classes=100)
    times = interleave({"linear": lambda: Linear()(many_classes)}, max(1, rounds // 3))
    lines += [
        "",
        f"linear probe with its search: {KEYS:,} images, {WIDTH} features, {many_classes.classes} classes",
        f"  {'ours':<20} {cell(times.typical('linear'), '.2f')} s",
    ]
    return "\n".join(lines)
