"""Weight maps: cells, rectangles and squares against loops, and the masks that must not occur."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.errors import ConfigError
from benchmark.nets.mixing import TRIES, GridMask, Pattern, box_map


def uniforms(count: int, numbers: int, seed: int = 0) -> Tensor:
    return torch.rand(count, numbers, generator=torch.Generator().manual_seed(seed))


def replaced_cells(mask: GridMask, uniform: Tensor) -> Tensor:
    """Read the replaced cells off a map of one pixel per cell."""
    assert mask.side == mask.grid
    return mask(uniform) == 0


@pytest.mark.parametrize(("side", "grid"), [(16, 2), (16, 16), (10, 4), (7, 3)])
def test_cells_are_enlarged_to_the_image(side: int, grid: int) -> None:
    """Oracle: torch's nearest interpolation of the cells themselves, also where they do not divide the image."""
    mask = GridMask(side, grid=grid, pattern="discrete", ratio=0.4)
    for uniform in uniforms(20, mask.numbers):
        cells = (uniform[2:] >= 0.4).float().view(1, 1, grid, grid)
        if 0 < cells.sum() < grid**2:
            expected = F.interpolate(cells, size=(side, side), mode="nearest")[0, 0]
            assert torch.equal(mask(uniform), expected)


@pytest.mark.parametrize(("state", "turned"), [(0.0, 1.0), (0.9, 0.0)])
def test_masks_of_one_kind_are_mended_by_one_cell(state: float, turned: float) -> None:
    """Oracle: the cell that the draw points at, by hand, for all cells replaced (draws 0) and for none (0.9)."""
    mask = GridMask(3, grid=3, pattern="discrete", ratio=0.5)
    for cell in range(9):
        uniform = torch.full((mask.numbers,), state)
        uniform[1] = (cell + 0.5) / 9
        expected = torch.full((9,), 1 - turned)
        expected[cell] = turned
        assert torch.equal(mask(uniform).flatten(), expected)
    uniform[1] = 1 - 2**-24
    assert mask(uniform).sum() in (1, 8)


def naive_blocks(uniform: list[list[float]], grid: int, ratio: float) -> set[tuple[int, int]]:
    """Algorithm 1 of Bao et al. 2022 on sets of cells, one draw of four numbers a try."""
    target = math.floor(Fraction(str(ratio)) * grid**2)
    covered: set[tuple[int, int]] = set()
    for area, shape, row, column in uniform:
        left_over = target - len(covered)
        least = min(4, max(1, target // 2))
        cells = least + area * (left_over - least)
        aspect = math.exp(math.log(0.3) + shape * (math.log(1 / 0.3) - math.log(0.3)))
        height, width = round(math.sqrt(cells * aspect)), round(math.sqrt(cells / aspect))
        if height >= grid or width >= grid:
            continue
        top, left = int(row * (grid - height + 1)), int(column * (grid - width + 1))
        new = {(r, c) for r in range(top, top + height) for c in range(left, left + width)} - covered
        if 0 < len(new) <= left_over:
            covered |= new
    return covered


@pytest.mark.parametrize(("grid", "ratio"), [(2, 0.5), (4, 0.5), (8, 0.5), (8, 0.3), (5, 0.75), (10, 0.29)])
def test_blocks_are_those_of_the_algorithm(grid: int, ratio: float) -> None:
    """Oracle: the published algorithm on sets of cells, in float64."""
    mask = GridMask(grid, grid=grid, pattern="blocked", ratio=ratio)
    for uniform in uniforms(25, mask.numbers):
        expected = naive_blocks(uniform[2:].double().view(TRIES, 4).tolist(), grid, ratio)
        ours = {(int(r), int(c)) for r, c in replaced_cells(mask, uniform).nonzero()}
        assert ours == expected


@pytest.mark.parametrize(("grid", "ratio"), [(2, 0.2), (3, 0.1)])
def test_blocked_masks_of_less_than_a_cell_have_one(grid: int, ratio: float) -> None:
    """Oracle: floor(ratio * cells) is 0 and nothing would be mixed; the one cell is any of them."""
    mask = GridMask(grid, grid=grid, pattern="blocked", ratio=ratio)
    replaced = torch.stack([replaced_cells(mask, uniform) for uniform in uniforms(100, mask.numbers)]).flatten(1)
    assert replaced.sum(1).tolist() == [1] * 100
    assert replaced.any(0).all()


@pytest.mark.parametrize("pattern", ["discrete", "blocked"])
def test_ratio_is_drawn_from_its_range(pattern: Pattern) -> None:
    """Oracle: both ends of the range by hand, with the draw at 0 and just below 1, and its middle."""
    mask = GridMask(8, grid=8, pattern=pattern, ratio=(0.25, 0.75))
    for drawn, expected in ((0.0, 0.25), (0.5, 0.5), (1 - 2**-24, 0.75)):
        shares = []
        for uniform in uniforms(40, mask.numbers):
            uniform[0] = drawn
            shares.append(float(replaced_cells(mask, uniform).float().mean()))
        assert sum(shares) / 40 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("pattern", ["discrete", "blocked"])
def test_maps_need_no_number(pattern: Pattern) -> None:
    """Oracle: the meta device, which has shapes and no values: reading one would raise."""
    mask = GridMask(16, grid=4, pattern=pattern, ratio=0.5)
    assert mask(torch.empty(mask.numbers, device="meta")).shape == (16, 16)
    assert box_map(torch.empty(3, device="meta"), 16).shape == (16, 16)


def test_impossible_grids_and_ratios_are_refused() -> None:
    """Oracle: the message names the grid and the limits, or the ratio and both forms that are accepted."""
    for grid in (0, 1, 17):
        with pytest.raises(ConfigError, match=rf"grid = {grid}: .* 16 px .* 2 x 2 to 16 x 16 cells"):
            GridMask(16, grid=grid, pattern="discrete", ratio=0.5)
    for ratio in (0.0, 1.0, -0.5, float("nan"), (0.0, 0.5), (0.5, 1.0), (0.6, 0.4)):
        with pytest.raises(ConfigError, match=r"mask_ratio = .*a number .*or a range"):
            GridMask(16, grid=2, pattern="discrete", ratio=ratio)


def test_box_is_a_clipped_square() -> None:
    """Oracle: the square pixel by pixel, from its published definition, and its clipped area."""
    for own, row, column in uniforms(100, 3).double().tolist():
        half = int(12 * math.sqrt(1 - own)) // 2
        rows = [r for r in range(12) if int(12 * row) - half <= r < int(12 * row) + half]
        columns = [c for c in range(12) if int(12 * column) - half <= c < int(12 * column) + half]
        expected = torch.ones(12, 12)
        for r in rows:
            for c in columns:
                expected[r, c] = 0
        ours = box_map(torch.tensor([own, row, column]), 12)
        assert torch.equal(ours, expected)
        assert float(ours.mean()) >= own - 1e-6
