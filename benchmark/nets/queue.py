"""A queue of past keys as extra negatives (He et al. 2020, arXiv:1911.05722, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """The last `size` keys `(size, dim)`, first in, first out; it starts with random unit vectors.

    Keys and position are buffers: they are saved with the method, so a resumed run goes on with the same negatives.
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by `keys` `(n, dim)`; where n exceeds the size, only the last ones stay."""
        size = len(self.keys)
        places = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.keys[places[-size:]] = keys[-size:].to(self.keys.dtype)
        self.position.copy_((self.position + len(keys)) % size)
