"""The interface of a data set's images, resident or streamed."""

from typing import Protocol

import torch
from torch import Tensor


class Pixels(Protocol):
    """The uint8 images `(n, 3, height, width)` of a split: a tensor, or an object that is indexed like one.

    Ids, int64 `(batch,)`, and slices give a tensor `(batch, 3, height, width)`. All images may not fit in memory, so
    they are read in batches.
    """

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Tensor | slice, /) -> Tensor: ...

    def to(self, device: torch.device | str, /) -> "Pixels":
        """Return the same images, whose batches are on `device`."""
        ...
