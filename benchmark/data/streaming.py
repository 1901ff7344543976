"""Images larger than memory: threads decode each batch ahead of its use, and no image is kept.

Pillow decodes and resizes without Python's lock, so threads are enough; they write into the batch itself. A batch
equals that of resident images, whatever the number of threads and the order in which they finish.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.data.pixels import Pixels
from benchmark.data.resident import Resident
from benchmark.runtime import progress, ranks
from benchmark.runtime.transfer import send

DEPTH = 2  # batches that are decoded ahead while one is used
SHARE = 16  # images that a thread decodes at a time: rows are read together, and a batch makes work for many threads
BATCH = 512  # images in a batch that is not trained on
PIXELS = BATCH * 96**2  # at most in such a batch: larger images come in smaller batches, to bound a network's memory
SMALL = 64**2  # pixels of an image, stored and decoded, up to which one thread is as fast as several or faster
WORKERS = ThreadPoolExecutor(thread_name_prefix="decode")
WORKER = ThreadPoolExecutor(1, thread_name_prefix="decode-small")

Read = Callable[[list[int], npt.NDArray[np.uint8]], None]
"""Decodes the images of some ids into `(batch, 3, size, size)`."""


class Cut(Protocol):
    """Says for the image of a row of a batch, once its size is known, which part of it a view shows."""

    @property
    def interpolation(self) -> str: ...

    def __call__(self, row: int, height: int, width: int, /) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the box."""
        ...


ReadCrops = Callable[[list[int], npt.NDArray[np.uint8], Sequence[Cut], list[int]], None]
"""Decodes the images of some ids, which have these rows, and writes their crops to `(batch, cuts, 3, size, size)`."""


class Streamed:
    """The uint8 images `(n, 3, size, size)` that `read` decodes, as tensors on `device`, the host by default.

    Indexing by ids or a slice decodes these images anew. If `read` fails for several, the error of the first is raised.
    With `read_crops`, random crops are taken from the stored images, see `cut`. One thread decodes `small` images,
    for which several would wait for each other, and several decode others.
    """

    def __init__(
        self,
        n: int,
        size: int,
        read: Read,
        device: torch.device | str = "cpu",
        read_crops: ReadCrops | None = None,
        *,
        small: bool = False,
    ) -> None:
        self.shape = torch.Size((n, 3, size, size))
        self._read = read
        self.read_crops = read_crops
        self._small = small
        self._device = torch.device(device)
        self._ids = torch.arange(n)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, ids: Tensor | slice, /) -> Tensor:
        return self.begin(ids)()

    def to(self, device: torch.device | str, /) -> "Streamed":
        """Return the same images, whose batches are on `device`."""
        return self._variant(self._ids, torch.device(device))

    def subset(self, ids: Tensor) -> "Streamed":
        """Return some of the images, int64 `(n,)`, as images of their own."""
        return self._variant(self._ids[ids], self._device)

    def _variant(self, ids: Tensor, device: torch.device) -> "Streamed":
        images = Streamed(len(ids), self.shape[-1], self._read, device, self.read_crops, small=self._small)
        images.shape = torch.Size((len(ids), *self.shape[1:]))
        images._ids = ids
        return images

    def cut(self, cuts: Sequence[Cut]) -> "Streamed":
        """Return the crops of all images, `(n, cuts, 3, size, size)`, for which each is decoded once.

        The rows of the cuts are those of these images.
        """
        ids, read_crops = self._ids, self.read_crops
        assert read_crops is not None

        def read(rows: list[int], places: npt.NDArray[np.uint8]) -> None:
            read_crops(ids[rows].tolist(), places, cuts, rows)

        crops = Streamed(len(ids), self.shape[-1], read, self._device, small=self._small)
        crops.shape = torch.Size((len(ids), len(cuts), *self.shape[1:]))
        return crops

    def begin(self, ids: Tensor | slice) -> Callable[[], Tensor]:
        """Begin to decode images; the result waits for them and returns them."""
        rows = self._ids[ids]
        pinned = self._device.type == "cuda"  # pinned memory is copied while the host goes on
        images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8, pin_memory=pinned)
        workers, share = (WORKER, BATCH) if self._small else (WORKERS, SHARE)
        shares = zip(rows.split(share), images.split(share), strict=True)
        tasks = [workers.submit(self._read, part.tolist(), place.numpy()) for part, place in shares]

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

    def batch(self, step: int, cuts: Callable[[int], Sequence[Cut]] | None = None) -> tuple[Tensor, Tensor]:
        """Return ids and images; or, where `cuts` says of a step how to cut them, their crops, `(batch, cuts, ...)`.

        The rows of the cuts are this rank's.
        """
        steps = range(step, step + 1 + DEPTH)
        self._begun = {ahead: batch for ahead, batch in self._begun.items() if ahead in steps}
        for ahead in steps:
            if ahead not in self._begun:
                ids = self.ids(ahead)
                images = self.images.subset(ranks.rows(ids))
                self._begun[ahead] = ids, (images if cuts is None else images.cut(cuts(ahead))).begin(slice(None))
        ids, finish = self._begun.pop(step)
        decoded = finish()
        return send(decoded.device, ids)[0], decoded


def batches(images: Pixels, batch_size: int, seed: int, device: torch.device | str) -> Resident:
    """Return the batches of images, which are the same whether these are resident or streamed."""
    if isinstance(images, Streamed):
        return Prefetched(images, batch_size, seed, device)
    return Resident(images, batch_size, seed, device)


def subset(images: Pixels, ids: Tensor) -> Pixels:
    """Return the images of some ids, int64 `(n,)`; they are streamed if `images` are."""
    return images.subset(ids) if isinstance(images, Streamed) else images[ids]


def is_cropped_stored(images: Pixels) -> TypeGuard[Streamed]:
    """Return whether random crops are taken from the stored images, by `Streamed.cut`, and not from square ones."""
    return isinstance(images, Streamed) and images.read_crops is not None


def at_once(images: Pixels, most: int) -> int:
    """Return how many images a network sees at once where nothing is trained: `most`, or fewer where they are large."""
    return max(1, min(most, PIXELS // images.shape[-2:].numel()))


def ahead(
    images: Pixels, ids: Tensor | None = None, device: torch.device | str = "cpu", batch_size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images of some ids, int64 `(n,)`, or all images, in batches on `device`, each with its ids before it.

    While a batch is used, the next ones are decoded. Without a `batch_size` there are 512 images in a batch, or fewer
    that have the pixels of 512 images of 96 px.
    """
    if batch_size is None:
        batch_size = at_once(images, BATCH)
    parts = (torch.arange(len(images)) if ids is None else ids).split(batch_size)
    shown = progress.each(parts, "batch")
    if not isinstance(images, Streamed):
        for number, part in enumerate(shown):
            start = number * batch_size
            batch = images[start : start + batch_size] if ids is None else images[part]  # a slice copies nothing
            yield part, send(device, batch)[0]
        return
    moved, begun = images.to(device), deque[tuple[Tensor, Callable[[], Tensor]]]()
    for part in shown:
        begun.append((part, moved.begin(part)))
        if len(begun) > DEPTH:
            oldest, finish = begun.popleft()
            yield oldest, finish()
    while begun:
        oldest, finish = begun.popleft()
        yield oldest, finish()
