"""What every reader of a data set knows of its images, wherever they are held."""

from typing import Protocol

import torch
from torch import Tensor


class Pixels(Protocol):
    """The uint8 images `(n, 3, height, width)` of a split: a tensor, or what gives tensors like one.

    Ids, int64 `(batch,)`, and slices give a tensor `(batch, 3, height, width)`. As `n` may be past memory, readers ask
    for a batch at a time.
    """

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Tensor | slice, /) -> Tensor: ...

    def to(self, device: torch.device | str, /) -> "Pixels":
        """Return the same images, which come on `device`."""
        ...
