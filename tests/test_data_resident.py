"""Batches of resident images: which, in which order, and that nothing but the step decides."""

import random

import pytest
import torch
from torch import Tensor

from benchmark.data.resident import Resident, epoch_order
from benchmark.errors import ConfigError

N = 23


@pytest.fixture
def images() -> Tensor:
    """Images of which every pixel is the id, so that a batch shows where it came from."""
    return torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 3, 2, 2).contiguous()


def test_order_is_written_down() -> None:
    """Oracle: the order as first published; a change of it, or a dependence on the process, changes every run."""
    assert epoch_order(0, 0, 8).tolist() == [4, 1, 6, 7, 0, 5, 3, 2]


def test_orders_are_permutations_that_differ() -> None:
    """Oracle: the sorted order is 0 .. n - 1; 20 permutations of 23 ids coincide with a probability below 1e-20."""
    orders = {tuple(epoch_order(seed, epoch, N).tolist()) for seed in range(4) for epoch in range(5)}
    assert len(orders) == 20
    assert all(sorted(order) == list(range(N)) for order in orders)


def test_epoch_drops_the_incomplete_batch(images: Tensor) -> None:
    """Oracle: 23 images make 4 batches of 5; they are the first 20 of the epoch's order, the next epoch starts anew."""
    resident = Resident(images, 5, seed=3, device="cpu")
    assert resident.steps_per_epoch == 4
    for epoch in range(3):
        ids = torch.cat([resident.batch(4 * epoch + i)[0] for i in range(4)])
        assert torch.equal(ids, epoch_order(3, epoch, N)[:20])


def test_images_belong_to_their_ids(images: Tensor) -> None:
    """Oracle: the pixel value is the id; types and shapes are the documented ones."""
    ids, batch = Resident(images, 5, seed=0, device="cpu").batch(6)
    assert (ids.dtype, ids.shape) == (torch.int64, (5,))
    assert (batch.dtype, batch.shape) == (torch.uint8, (5, 3, 2, 2))
    assert torch.equal(batch, ids.to(torch.uint8)[:, None, None, None].expand_as(batch))


def test_batch_is_a_function_of_the_step(images: Tensor) -> None:
    """Oracle: a fresh object asked for one step only, against one object asked in random order with repeats."""
    resident = Resident(images, 4, seed=1, device="cpu")
    for step in random.Random(0).choices(range(40), k=100):
        fresh = Resident(images, 4, seed=1, device="cpu").batch(step)
        assert all(map(torch.equal, resident.batch(step), fresh))


def test_leaves_global_randomness_alone(images: Tensor) -> None:
    """Oracle: the state of the global generator before and after, and batches under another global seed."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Resident(images, 4, seed=1, device="cpu").batch(7)[0]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, Resident(images, 4, seed=1, device="cpu").batch(7)[0])


def test_batch_may_be_all_images(images: Tensor) -> None:
    """Oracle: one step per epoch, which holds every id."""
    resident = Resident(images, N, seed=0, device="cpu")
    assert resident.steps_per_epoch == 1
    assert resident.batch(1)[0].sort().values.tolist() == list(range(N))


@pytest.mark.parametrize("batch_size", [0, -1, N + 1])
def test_impossible_batch_size_is_refused(images: Tensor, batch_size: int) -> None:
    """Oracle: the message names what was asked, what there is, and the setting to use."""
    with pytest.raises(ConfigError, match=rf"batch_size = {batch_size}:.* --set Pretraining.batch_size={N}$"):
        Resident(images, batch_size, seed=0, device="cpu")
