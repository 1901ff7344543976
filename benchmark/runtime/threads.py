"""Work done side by side on a processor, each part on a share of torch's threads.

Small products keep few threads busy: two batches of a narrow network, or two fits on few images, take less time on one
thread each than one after the other on two threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from benchmark.runtime import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 2  # items a worker that are taken ahead, so that none waits for the one that asks for results


def side_by_side(
    task: Callable[[Item], Result], items: Iterable[Item], workers: int, threads: int | None = None
) -> Iterator[Result]:
    """Yield what a task without gradients returns for each item, in their order; so many workers do it at once.

    Each worker has so many of torch's `threads`, by default an equal share of them, one at least. Autocast on a
    processor is what it is where this is called. What workers do has no lines of progress of its own. If the task fails
    for several items, the error of the first is raised. One worker with all threads does each item when its result is
    asked for, as a part of what is going on.
    """
    before, cast, kind = torch.get_num_threads(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    threads = threads or max(1, before // workers)

    def work(item: Item) -> Result:
        with torch.no_grad(), torch.autocast("cpu", kind, enabled=cast):  # both are a thread's own
            return task(item)

    def prepare() -> None:
        torch.set_num_threads(threads)
        progress.be_silent()

    if (workers, threads) == (1, before):
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(workers, "side-by-side", prepare)
    begun = deque[Future[Result]]()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > WAITING * workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # waits for what has begun
        torch.set_num_threads(before)  # a library of products has one number for all threads
