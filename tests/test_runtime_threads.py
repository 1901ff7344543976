"""Work side by side: the results of one after the other, on shares of torch's threads."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmark.data.streaming import Streamed
from benchmark.evals.dense import extract_maps
from benchmark.evals.features import encoders_at_once, extract
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.resnet import ResNet
from benchmark.nets.swin import Swin
from benchmark.runtime.threads import side_by_side

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("workers", "threads"), [(1, 4), (2, 2), (3, 1), (4, 1), (9, 1)])
def test_results_come_in_order_and_threads_are_shared(workers: int, threads: int) -> None:
    """Oracle: the items themselves; each is done on its worker's threads, and none is begun far ahead."""
    begun: list[int] = []

    def items() -> Iterator[int]:
        for item in range(40):
            begun.append(item)
            yield item

    def task(item: int) -> tuple[int, int, str, bool]:
        return item, torch.get_num_threads(), threading.current_thread().name, torch.is_grad_enabled()

    ahead = 0
    results = []
    for number, result in enumerate(side_by_side(task, items(), workers)):
        ahead = max(ahead, len(begun) - number)
        results.append(result)
        assert torch.is_grad_enabled()
    assert [item for item, *_ in results] == list(range(40))
    assert {count for _, count, *_ in results} == {threads}
    assert len({name for *_, name, _ in results}) <= workers
    assert not any(has_gradients for *_, has_gradients in results)
    assert ahead <= 2 * workers + 1
    assert torch.get_num_threads() == 4
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [4]


def test_workers_work_at_once() -> None:
    """Oracle: a barrier that only two tasks at once pass."""
    barrier = threading.Barrier(2, timeout=60)
    assert sorted(side_by_side(lambda _: barrier.wait(), range(4), 2)) == [0, 0, 1, 1]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_is_raised_and_threads_come_back(workers: int) -> None:
    """Oracle: the error of the earliest item, whichever failed first; no worker lives on."""

    def task(item: int) -> int:
        if item >= 5:
            raise ValueError(item)
        return item

    done: list[int] = []
    with pytest.raises(ValueError, match=r"^5$"):
        done.extend(side_by_side(task, range(100), workers))
    assert done == [0, 1, 2, 3, 4]
    assert torch.get_num_threads() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("side-by-side")]


@pytest.mark.parametrize("workers", [1, 2])
def test_precision_is_that_of_the_caller(workers: int) -> None:
    """Oracle: the type of a product under autocast and without."""
    rows = torch.ones(2, 2)

    def product(_: int) -> torch.dtype:
        return (rows @ rows).dtype

    with torch.autocast("cpu", torch.bfloat16):
        assert set(side_by_side(product, range(4), workers)) == {torch.bfloat16}
    with torch.autocast("cpu", torch.float16):
        assert set(side_by_side(product, range(4), workers)) == {torch.float16}
    assert set(side_by_side(product, range(4), workers)) == {torch.float32}


@pytest.mark.parametrize("network", ["vit", "swin", "resnet", "layers"])
def test_features_do_not_depend_on_the_number_of_threads(network: str) -> None:
    """Oracle: the features that one thread extracts, bit by bit; they come from several batches."""
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {
        "resnet": ResNet(16, name="resnet18"),
        "swin": Swin(16, name="swin", width=8, depths=(2, 1), heads=(1, 2), window=2, patch=4, split=2),
    }
    encoder = encoders.get(network) or ViT(16, name="tiny", width=16, depth=2, heads=2, patch=4)
    images = torch.randint(0, 256, (150, 3, 16, 16), dtype=torch.uint8)
    seen: set[str] = set()

    def prepare(batch: Tensor, ids: Tensor) -> Tensor:
        seen.add(threading.current_thread().name)
        return batch.float() / 255 + ids[:, None, None, None] / 150

    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        seen.clear()
        found.append(extract(encoder, images, prepare, CPU, batch_size=16, layers=2 if network == "layers" else 1))
        assert (threading.current_thread().name in seen) == (threads == 1)
    assert all(torch.equal(rows, found[1][name]) for name, rows in found[0].items())


def test_maps_come_from_several_batches_in_their_places() -> None:
    """Oracle: the map of each image by hand; workers make them."""
    images, seen = torch.arange(150).to(torch.uint8)[:, None, None, None].expand(150, 3, 16, 16), set[str]()

    def encode(batch: Tensor) -> Tensor:
        seen.add(threading.current_thread().name)
        return batch[:, :1, :2, :2].float()

    maps = extract_maps(encode, images, CPU, None)
    assert torch.equal(maps, torch.arange(150.0)[:, None, None, None].expand(150, 1, 2, 2).half())
    assert threading.current_thread().name not in seen


def test_memory_bounds_the_batches_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand: 512 images, or the pixels of 512 of 96 px, however many threads there are."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 100)
    sizes = (32, 96, 112, 160, 224)
    at_once = {size: encoders_at_once(Streamed(9, size, lambda *_: None), 64, CPU) for size in sizes}
    assert at_once == {32: 8, 96: 8, 112: 5, 160: 2, 224: 1}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert encoders_at_once(torch.zeros(9, 3, 32, 32), 64, CPU) == 3
    assert encoders_at_once(torch.zeros(9, 3, 32, 32), 64, torch.device("cuda")) == 1
