"""Draws and seeds."""

import pytest
import torch

from benchmark.randomness import derive, seed_torch


def test_torch_is_seeded_as_by_its_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: `torch.manual_seed`, for the numbers of the processor; all GPUs have its seed, where there are any."""
    torch.manual_seed(derive("a", 1))
    expected = torch.rand(3)
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    for is_there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        seed_torch("a", 1)
        assert torch.equal(torch.rand(3), expected)
    assert seeds == [derive("a", 1)]
    seed_torch("a", 2)
    assert not torch.equal(torch.rand(3), expected)
