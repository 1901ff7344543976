"""Randomness without state: every draw is a function of its names, so nothing has to be saved to resume a run."""

import hashlib
import math

import torch
from torch import Tensor


def derive(*names: object) -> int:
    """Return a 63-bit seed that depends on all `names` and on nothing else (same on every platform)."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_torch(*names: object) -> None:
    """Seed torch's own generators by `derive`: that of the processor, and those of all GPUs.

    They draw what they draw after `torch.manual_seed`, which takes up to a millisecond where there is no GPU: for each
    kind of accelerator it keeps the seed, and the text of the stack, for the case that one is used later.
    """
    seed = derive(*names)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


class Draws:
    """Uniform random numbers in [0, 1) that are a function of (seed, step, name) and of nothing else.

    Two draws of one name in one step are equal, so every use takes a name of its own.
    """

    def __init__(self, seed: int, step: int, batch: int, device: torch.device | str = "cpu") -> None:
        self.batch = batch
        self._names = (seed, step)
        self._device = torch.device(device)

    def rows(self, name: object, *shape: int) -> Tensor:
        """Draw `(batch, *shape)` float32 numbers, one row per image."""
        drawn: Tensor = self.shared(name, self.batch, *shape)
        return drawn

    def normal(self, name: object, *shape: int) -> Tensor:
        """Draw `(batch, *shape)` numbers from the standard normal distribution, one row per image.

        They are made of two uniform numbers each: sqrt(-2 log(1 - u)) cos(2 pi v) (Box and Muller 1958).
        """
        radius, angle = self.rows(name, 2, *shape).unbind(1)
        return (-2 * (1 - radius).log()).sqrt() * (2 * math.pi * angle).cos()

    @torch.compiler.disable  # names are hashed and generators seeded on the host, which no graph can hold
    def shared(self, name: object, *shape: int) -> Tensor:
        """Draw `shape` float32 numbers for the whole batch: one mask for all images, a permutation."""
        if self._device.type == "meta":
            return torch.empty(shape, device="meta")
        generator = torch.Generator(self._device).manual_seed(derive(*self._names, name))
        return torch.rand(shape, generator=generator, device=self._device)
