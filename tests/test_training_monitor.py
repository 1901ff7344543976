"""The two numbers that tell a healthy representation from a collapsed one."""

import numpy as np
import pytest
import torch
from tiny import TinyEncoder
from torch import Tensor

from benchmark.nets.encoders import Encoder, Features
from benchmark.training.monitor import Health, affordable, health, points_of, standard_error


class Fixed(Encoder):
    """An encoder whose features do not depend on the images."""

    def __init__(self, pooled: Tensor) -> None:
        super().__init__()
        self.pooled = pooled

    def forward(self, view: Tensor, visible: object = None, fill: object = None) -> Features:
        return Features(self.pooled)


def of(pooled: Tensor) -> Health:
    return health(Fixed(pooled), torch.zeros(len(pooled), 3, 8, 8))


def gaussian(n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def test_isotropic_features_are_healthy() -> None:
    """Oracle: unit vectors of an isotropic Gaussian have a deviation of 1 / sqrt(width) and equal singular values."""
    measured = of(gaussian(4096, 32))
    assert measured.feature_std == pytest.approx(1, abs=0.02)
    assert measured.effective_rank == pytest.approx(32, abs=0.5)
    assert not measured.collapsed


@pytest.mark.parametrize("value", [0.0, 1.0, -3e4])
def test_constant_features_are_collapsed(value: float) -> None:
    """Oracle: without spread both numbers take their least values, 0 and 1."""
    measured = of(torch.full((64, 16), value))
    assert measured.feature_std == pytest.approx(0, abs=1e-5)
    assert measured.effective_rank == pytest.approx(1, abs=1e-3)
    assert measured.collapsed


def test_rank_counts_directions() -> None:
    """Oracle: orthogonal centred directions of equal strength number themselves; one direction is a collapse."""
    for rank in (1, 2, 5):
        directions = torch.linalg.qr(gaussian(200, 9) - gaussian(200, 9).mean(0)).Q[:, :rank]
        measured = of(directions @ torch.linalg.qr(gaussian(16, 16)).Q[:rank])
        assert measured.effective_rank == pytest.approx(rank, abs=0.01)
        assert measured.collapsed == (rank == 1)


def test_rank_does_not_see_scale_or_offset() -> None:
    """Oracle: singular values are centred and normalised."""
    pooled = gaussian(100, 8) * torch.arange(1.0, 9)
    assert of(1000 * pooled + 5000).effective_rank == pytest.approx(of(pooled).effective_rank, rel=1e-3)


def test_features_that_are_not_finite_are_collapsed() -> None:
    """Oracle: the definition; the numbers must still be finite, since they enter the record."""
    measured = of(torch.tensor([[1.0, float("nan")], [2.0, 1.0]]))
    assert measured.collapsed
    assert measured == Health(0.0, 0.0)


def test_points_are_equal_shares_of_the_budget() -> None:
    """Oracle: by hand: shares rounded up, each step once."""
    for steps, points, expected in (
        (800, 8, [100, 200, 300, 400, 500, 600, 700, 800]),
        (1001, 4, [251, 501, 751, 1001]),
        (3, 8, [1, 2, 3]),
        (800, 1, [800]),
        (800, 0, []),
    ):
        assert points_of(steps, points) == expected, (steps, points)


def test_points_cost_a_twentieth_at_most_or_are_one() -> None:
    """Oracle: by hand, of a run of 1,000 FLOPs, of which 50 may be spent."""
    for points, cost, expected in (
        (8, 6.25, 8),
        (8, 6.26, 4),
        (8, 12.6, 2),
        (8, 51, 1),
        (6, 10, 3),
        (7, 10, 1),
        (5, 0, 5),
        (1, 1e9, 1),
        (0, 1, 0),
    ):
        assert affordable(points, cost, 1000) == expected, (points, cost)


def test_a_thousand_queries_err_by_a_point_and_a_half() -> None:
    """Oracle: the deviation of a thousand coins, by numpy."""
    for accuracy in (0.3, 0.5, 0.9):
        draws = np.random.default_rng(0).binomial(1000, accuracy, 100_000) / 1000
        assert standard_error(accuracy, 1000) == pytest.approx(draws.std(), rel=0.01)
    assert 100 * standard_error(0.5, 1000) == pytest.approx(1.58, abs=0.01)


def test_measuring_leaves_no_trace() -> None:
    """Oracle: state and mode of a network with batch norm are what they were; eval mode makes the batch irrelevant."""
    encoder = TinyEncoder().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    health(encoder, torch.rand(8, 3, 8, 8))
    assert encoder.training
    assert encoder.net[1].training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
