"""The queue against a list from which the oldest key is dropped."""

import io

import pytest
import torch
from torch import Tensor

from benchmark.nets.queue import KeyQueue


def numbered(start: int, count: int) -> Tensor:
    return torch.arange(start, start + count, dtype=torch.float32)[:, None].expand(-1, 2)


def oldest_first(queue: KeyQueue) -> list[float]:
    return queue.keys.roll(-int(queue.position), 0)[:, 0].tolist()


@pytest.mark.parametrize("counts", [(2, 2, 2, 2), (3, 3, 3, 3), (5, 5), (4, 1, 4), (13, 2), (5, 12, 3), (0, 1)])
def test_first_in_is_first_out(counts: tuple[int, ...]) -> None:
    """Oracle: the last five of a list: batches that divide the size, wrap around, fill it or exceed it."""
    queue = KeyQueue(5, 2)
    queue.push(numbered(-5, 5))
    kept, start = [-5.0, -4.0, -3.0, -2.0, -1.0], 0
    for count in counts:
        queue.push(numbered(start, count))
        kept = [*kept, *map(float, range(start, start + count))][-5:]
        start += count
        assert oldest_first(queue) == kept
        assert 0 <= int(queue.position) < 5


def test_it_starts_with_random_unit_vectors() -> None:
    """Oracle: length 1 each; cosines of mean 0 and variance 1 / dim."""
    torch.manual_seed(0)
    keys = KeyQueue(256, 64).keys
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(256))
    cosines = (keys @ keys.T)[~torch.eye(256, dtype=torch.bool)]
    assert float(cosines.mean()) == pytest.approx(0, abs=0.005)
    assert float(cosines.var()) == pytest.approx(1 / 64, rel=0.05)


def test_state_passes_a_file() -> None:
    """Oracle: the queue that was saved: same keys, and the next push replaces the same one."""
    queue, other = KeyQueue(5, 2), KeyQueue(5, 2)
    queue.push(numbered(0, 7))
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for each in (queue, other):
        each.push(numbered(7, 1))
    assert oldest_first(other) == oldest_first(queue) == [3, 4, 5, 6, 7]
    assert not list(queue.parameters())


def test_keys_are_copied_in_full_precision() -> None:
    """Oracle: the type of the queue, whatever comes; keys that change afterwards, and that carry no gradient."""
    queue = KeyQueue(3, 2)
    keys = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    queue.push(keys)
    keys.data += 1
    assert queue.keys.dtype == torch.float32
    assert not queue.keys.requires_grad
    assert oldest_first(queue)[1:] == [1, 1]
