"""Images that are past memory: decoded by threads when they are asked for, ahead of their use, and never kept.

Pillow decodes and resizes without Python's lock, so threads are enough, and they write into the batch itself. A batch
is the same tensor as that of resident images, whatever the number of threads and the order in which they finish.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.data.pixels import Pixels
from benchmark.data.resident import Resident
from benchmark.runtime import progress
from benchmark.runtime.transfer import send

DEPTH = 2  # batches that are decoded, or decoding, while one is worked on
SHARE = 16  # images that a thread decodes at a time: rows are read together, and a batch makes work for many threads
BATCH = 512  # images that are looked at at once, where nothing is trained on them
PIXELS = BATCH * 96**2  # of such a batch: of larger images there are fewer, since a network's memory grows with them
WORKERS = ThreadPoolExecutor(thread_name_prefix="decode")

Read = Callable[[list[int], npt.NDArray[np.uint8]], None]
"""Decodes the images of some ids into `(batch, 3, size, size)`."""


class Streamed:
    """The images `(n, 3, size, size)` that `read` decodes, uint8, given as tensors on `device`, the host by default.

    Indexing by ids or a slice decodes these images anew. Whatever `read` raises is raised there, of several errors that
    of the first image.
    """

    def __init__(self, n: int, size: int, read: Read, device: torch.device | str = "cpu") -> None:
        self.shape = torch.Size((n, 3, size, size))
        self._read = read
        self._device = torch.device(device)
        self._ids = torch.arange(n)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, ids: Tensor | slice, /) -> Tensor:
        return self.begin(ids)()

    def to(self, device: torch.device | str, /) -> "Streamed":
        """Return the same images, which come on `device`."""
        return self._variant(self._ids, torch.device(device))

    def subset(self, ids: Tensor) -> "Streamed":
        """Return some of the images, int64 `(n,)`, as images of their own."""
        return self._variant(self._ids[ids], self._device)

    def _variant(self, ids: Tensor, device: torch.device) -> "Streamed":
        made = Streamed(len(ids), self.shape[-1], self._read, device)
        made._ids = ids
        return made

    def begin(self, ids: Tensor | slice) -> Callable[[], Tensor]:
        """Begin to decode images, and return what waits for them."""
        wanted = self._ids[ids]
        pinned = self._device.type == "cuda"  # such memory is copied while the host goes on, and then used again
        images = torch.empty(len(wanted), *self.shape[1:], dtype=torch.uint8, pin_memory=pinned)
        shares = zip(wanted.split(SHARE), images.split(SHARE), strict=True)
        tasks = [WORKERS.submit(self._read, share.tolist(), place.numpy()) for share, place in shares]

        def finish() -> Tensor:
            try:
                for task in progress.each(tasks, "decoding, part"):
                    task.result()
            finally:
                for task in tasks:  # after an error or an interruption nobody waits for the rest
                    task.cancel()
            return images.to(self._device, non_blocking=True)

        return finish


class Prefetched(Resident):
    """The batches of `Resident` from streamed images: while a step runs, those of the next steps are decoded."""

    images: Streamed

    def __init__(self, images: Streamed, batch_size: int, seed: int, device: torch.device | str) -> None:
        super().__init__(images, batch_size, seed, "cpu")  # ids stay where images are decoded
        self.images = images.to(device)
        self._begun: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        steps = range(step, step + 1 + DEPTH)
        self._begun = {begun: batch for begun, batch in self._begun.items() if begun in steps}
        for wanted in steps:
            if wanted not in self._begun:
                ids = self.ids(wanted)
                self._begun[wanted] = ids, self.images.begin(ids)
        ids, finish = self._begun.pop(step)
        images = finish()
        return send(images.device, ids)[0], images


def batches(images: Pixels, batch_size: int, seed: int, device: torch.device | str) -> Resident:
    """Return the batches of images that are resident or streamed; the same ones in both cases."""
    if isinstance(images, Streamed):
        return Prefetched(images, batch_size, seed, device)
    return Resident(images, batch_size, seed, device)


def subset(images: Pixels, ids: Tensor) -> Pixels:
    """Return some images, int64 ids `(n,)`, resident or streamed as the whole is."""
    return images.subset(ids) if isinstance(images, Streamed) else images[ids]


def ahead(
    images: Pixels, ids: Tensor | None = None, device: torch.device | str = "cpu", batch_size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images of some ids, int64 `(n,)`, or all images, in batches on `device`, each with its ids before it.

    While a batch is used, the next ones are decoded. Without a `batch_size` there are 512 images in a batch, or fewer
    that have the pixels of 512 images of 96 px.
    """
    if batch_size is None:
        batch_size = max(1, min(BATCH, PIXELS // images.shape[-2:].numel()))
    parts = (torch.arange(len(images)) if ids is None else ids).split(batch_size)
    shown = progress.each(parts, "batch")
    if not isinstance(images, Streamed):
        yield from ((part, send(device, images[part])[0]) for part in shown)
        return
    there, begun = images.to(device), deque[tuple[Tensor, Callable[[], Tensor]]]()
    for part in shown:
        begun.append((part, there.begin(part)))
        if len(begun) > DEPTH:
            done, finish = begun.popleft()
            yield done, finish()
    while begun:
        done, finish = begun.popleft()
        yield done, finish()
