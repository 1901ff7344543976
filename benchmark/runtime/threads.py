"""Several batches at once on a processor, each on a share of torch's threads.

Networks that are narrow keep few threads busy: two batches of one thread each take less time than one after the other
on two threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 2  # items a worker that are taken ahead, so that none waits for the one that asks for results


def side_by_side(task: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield what a task without gradients returns for each item, in their order; so many workers do it at once.

    Each worker has `1 / workers` of torch's threads, one at least; autocast on a processor is what it is where this is
    called. If the task fails for several items, the error of the first is raised. With one worker, each item is done
    when its result is asked for.
    """
    threads, cast, kind = torch.get_num_threads(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def work(item: Item) -> Result:
        with torch.no_grad(), torch.autocast("cpu", kind, enabled=cast):  # both are a thread's own
            return task(item)

    if workers == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(workers, "side-by-side", lambda: torch.set_num_threads(max(1, threads // workers)))
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
        torch.set_num_threads(threads)  # a library of products has one number for all threads
