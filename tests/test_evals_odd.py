"""Every frozen evaluation on few, wide, constant and unbalanced images: it ends and ranks each test image."""

from collections.abc import Callable

import pytest
import torch
from banks import normal
from torch import Tensor

from benchmark.data.subsets import holdout
from benchmark.evals import linear
from benchmark.evals.evaluation import Evaluation
from benchmark.evals.features import Bank
from benchmark.evals.knn import KNN, KNNProjection
from benchmark.evals.linear import UNTUNED, Linear, eigenvectors
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.evals.retrieval import Retrieval
from benchmark.evals.scoring import SealedLabels
from benchmark.evals.semi_probe import SemiProbe

EVALUATIONS: dict[str, Evaluation] = {
    "knn": KNN(k=200),
    "knn_projection": KNNProjection(),
    "linear": Linear(),
    "linear_sgd": LinearSGD(epochs=2, rates=(0.1, 1.0)),
    "linear_sgd by batch norm": LinearSGD(epochs=2, rates=(0.1, 1.0), normalise="batch_norm", optimiser="lars"),
    "retrieval": Retrieval(),
    "semi_probe_1": SemiProbe(fraction=0.01, draws=2),
    "semi_probe_50": SemiProbe(fraction=0.5, draws=2),
}


def sparse(n: int, dim: int) -> Tensor:
    """Features of which few are not 0, as after a ReLU: LAPACK's float32 routine gives up on their covariance."""
    return (normal(n, dim) - 3).relu()


def bank_of(train: Tensor, labels: Tensor, classes: int, tested: int = 9) -> Bank:
    """A bank with the benchmark's hold-out, whose test images are the first of train."""
    fit, held = holdout(labels, "odd")
    names = {"first": train, "second": 2 * train[:, :4]}
    test = {name: rows[:tested] for name, rows in names.items()}
    return Bank(names, test, labels, fit, held, classes, "odd", lambda number: names, projected=(train, train[:tested]))


ODD: dict[str, Callable[[], Bank]] = {
    "one image a class": lambda: bank_of(normal(12, 40), torch.arange(12), 12),
    "classes that are not held out": lambda: bank_of(normal(30, 20), torch.arange(30).clamp(max=3), 5),
    "one test image": lambda: bank_of(normal(50, 20), torch.arange(50) % 2, 2, tested=1),
    "five images": lambda: bank_of(normal(5, 20), torch.tensor([0, 1, 0, 1, 0]), 2, tested=1),
    "one class is held out": lambda: bank_of(normal(6, 20), torch.tensor([0, 0, 0, 0, 0, 1]), 2, tested=2),
    "five constant images": lambda: bank_of(torch.ones(5, 20), torch.tensor([0, 1, 0, 1, 0]), 2, tested=1),
    "constant": lambda: bank_of(torch.ones(40, 30), torch.arange(40) % 4, 4),
    "zero": lambda: bank_of(torch.zeros(40, 30), torch.arange(40) % 4, 4),
    "huge": lambda: bank_of(1e18 * normal(40, 30), torch.arange(40) % 4, 4),
    "sparse and few": lambda: bank_of(sparse(118, 512), torch.arange(118) % 3, 3),
    "sparse": lambda: bank_of(sparse(118, 192), torch.arange(118) % 3, 3),
    "sparse and many": lambda: bank_of(sparse(400, 512), torch.arange(400) % 3, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_each_evaluation_ranks_each_image(odd: str) -> None:
    """Oracle: a score in [0, 1] of each test image, without an exception."""
    bank = ODD[odd]()
    tested = len(bank.test["first"])
    sealed = SealedLabels(bank.labels[:tested], bank.classes)
    for name, evaluation in EVALUATIONS.items():
        ranking = evaluation(bank)
        assert ranking is not None
        assert ranking.classes.shape[-2] == tested
        assert 0 <= sealed.score(name, ranking).top1 <= 1


def test_few_wide_images_make_small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: raw pixels of 44 images of 96 px: no matrix that is decomposed has more rows than there are images."""
    sides = []
    monkeypatch.setattr(linear, "eigenvectors", lambda matrix: sides.append(len(matrix)) or eigenvectors(matrix))
    bank = bank_of(normal(44, 27_648), torch.arange(44) % 3, 3)
    for name in ("linear", "semi_probe_50"):
        sides.clear()
        EVALUATIONS[name](bank)
        assert 0 < max(sides) <= 44


def test_what_float32_cannot_decompose_is_decomposed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the routine itself where it does not give up; eigenvalues and what the eigenvectors make of them."""
    plain, inputs = torch.linalg.eigh, normal(50, 20)
    matrix = inputs.T @ inputs / 50

    def given_up(given: Tensor) -> tuple[Tensor, Tensor]:
        if given.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")  # type: ignore[attr-defined]
        values, vectors = plain(given)
        return values, vectors

    expected = eigenvectors(matrix)
    assert all(map(torch.equal, expected, plain(matrix)))
    monkeypatch.setattr(torch.linalg, "eigh", given_up)
    spectrum, axes = eigenvectors(matrix)
    assert (spectrum.dtype, axes.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(spectrum, expected[0])
    torch.testing.assert_close(axes * spectrum @ axes.T, matrix)


def test_without_a_holdout_the_strength_is_a_rule() -> None:
    """Oracle: one image a class leaves nothing to choose by, and the row says so."""
    ranking = Linear()(ODD["one image a class"]())
    assert ranking.choices == {"feature": "first", "strength": UNTUNED}
    assert ranking.flags == (f"one train image a class, so the L2 strength is {UNTUNED} by rule",)
