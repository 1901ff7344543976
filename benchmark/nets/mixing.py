"""Weight maps for mixing images: which share of each pixel is the image's own.

A map `(side, side)` in [0, 1] holds for a whole batch: 1 keeps the image's own pixel, 0 takes another's. Maps are
functions of uniform numbers, in tensor operations without a branch or a loop that depends on a value, so that drawing
one neither waits for a GPU nor breaks tracing.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from benchmark.errors import ConfigError

Pattern = Literal["discrete", "blocked"]

TRIES = 32  # rectangles tried per mask: on a grid of 8, 99 % of the masks at ratio 0.5 then have exactly half the cells


class GridMask:
    """A random mask of `grid` x `grid` cells, of which a share `ratio`, fixed or drawn from a range, is replaced.

    "discrete" replaces each cell by itself with probability `ratio`. "blocked" replaces floor(ratio * cells) in random
    rectangles (Bao et al. 2022, arXiv:2106.08254, Algorithm 1), of at least min(4, half that number) cells each, where
    the source's 4 would leave a grid of 2 without any, and with 32 tries in all instead of ten for each rectangle. A
    mask that would replace nothing or everything is mended by one random cell. Cells need not divide the image.
    """

    def __init__(self, side: int, *, grid: int, pattern: Pattern, ratio: float | tuple[float, float]) -> None:
        if not 2 <= grid <= side:
            raise ConfigError(
                f"grid = {grid}: an image of {side} px can be masked in 2 x 2 to {side} x {side} cells. Use 2 for 32 "
                f"px, 4 up to 96 px, 8 for 224 px."
            )
        self.low, self.high = ratio if isinstance(ratio, tuple) else (ratio, ratio)
        if not 0 < self.low <= self.high < 1:
            raise ConfigError(
                f"mask_ratio = {ratio}: the replaced share lies between 0 and 1, both excluded. Use a number such as "
                f"0.5, or a range such as (0.25, 0.75) to draw it from."
            )
        self.side, self.grid, self.pattern = side, grid, pattern
        self.numbers = 2 + (grid**2 if pattern == "discrete" else TRIES * 4)

    def __call__(self, uniform: Tensor) -> Tensor:
        """Return the map for draws `uniform` `(numbers,)` in [0, 1)."""
        ratio = self.low + (self.high - self.low) * uniform[0]
        if self.pattern == "discrete":
            replaced = (uniform[2:] < ratio).view(self.grid, self.grid)
        else:
            replaced = _blocks(uniform[2:].view(TRIES, 4), self.grid, ratio)
        kept = ~_mend(replaced, uniform[1])
        nearest = torch.arange(self.side, device=kept.device) * self.grid // self.side
        return kept[nearest[:, None], nearest].float()


def _blocks(uniform: Tensor, grid: int, ratio: Tensor) -> Tensor:
    """Fill a grid with random rectangles until a share `ratio` is covered; `uniform`: `(tries, 4)`."""
    target = (ratio * grid**2 + 1e-4).floor()  # the addend undoes float error: 0.29 * 100 is 28.99...
    least = (target / 2).floor().clamp(1, 4)
    stretch = torch.exp(math.log(0.3) * (0.5 - uniform[:, 1]))  # square root of an aspect in 0.3 to 1 / 0.3
    line = torch.arange(grid, device=uniform.device)
    covered = torch.zeros(grid, grid, dtype=torch.bool, device=uniform.device)
    for draw, sides in zip(uniform, torch.stack([stretch, 1 / stretch], dim=1), strict=True):
        room = target - covered.sum()
        cells = least + (room - least) * draw[0]
        size = (cells.sqrt() * sides).round()[:, None]
        start = (draw[2:, None] * (grid - size + 1)).floor()
        rows, columns = (line >= start) & (line < start + size)
        block = rows[:, None] & columns
        fits = (size < grid).all() & ((block & ~covered).sum() <= room)
        covered = covered | (block & fits)
    return covered


def _mend(replaced: Tensor, uniform: Tensor) -> Tensor:
    """Turn one random cell of a grid whose cells are all alike."""
    alike = replaced.all() | ~replaced.any()
    cells = torch.arange(replaced.numel(), device=replaced.device).view_as(replaced)
    return replaced ^ (alike & (cells == (uniform * replaced.numel()).floor()))


def box_map(uniform: Tensor, side: int) -> Tensor:
    """Return a map without one random square (Yun et al. 2019, arXiv:1905.04899, section 3.1).

    `uniform`: `(3,)` draws: the own share, then the square's centre. Its side is made even, and it is clipped at the
    edges of the image, so the mean of the map is at least the share drawn.
    """
    half = ((side * (1 - uniform[0]).sqrt()).floor() / 2).floor()
    line = torch.arange(side, device=uniform.device)
    centre = (side * uniform[1:]).floor()[:, None]
    inside = (line >= centre - half) & (line < centre + half)
    return 1 - (inside[0][:, None] & inside[1]).float()
