"""Patches and masks: counts, uniformity, independence, and lightly's patches."""

import math

import pytest
import torch
from lightly.models.utils import patchify as lightly_patchify
from lightly.models.utils import unpatchify as lightly_unpatchify
from scipy.stats import chisquare

from benchmark.nets.masking import (
    kept,
    masked_blocks,
    masked_tokens,
    masked_units,
    patchify,
    pick,
    place,
    unpatchify,
    visible_tokens,
)


def test_kept_counts() -> None:
    """Oracle: floor(tokens * (1 - ratio)) in exact arithmetic, worked by hand."""
    by_hand = {(64, 0.75): 16, (196, 0.2): 156, (196, 0.1): 176, (64, 0.1): 57, (64, 0.6): 25, (100, 0.8): 20}
    for (tokens, ratio), expected in (by_hand | {(16, 0.2): 12, (16, 1.0): 0}).items():
        assert kept(tokens, ratio) == expected
        assert visible_tokens(torch.rand(3, tokens), ratio).shape == (3, expected)
    assert kept(16, 0.0) == 16


def test_ratio_zero_keeps_all() -> None:
    """Oracle: None stands for all tokens in order, and nothing is masked."""
    assert visible_tokens(torch.rand(3, 16), 0) is None
    assert torch.equal(masked_tokens(None, 3, 16, torch.device("cpu")), torch.zeros(3, 16))


def test_visible_and_masked_are_complements() -> None:
    """Oracle: set arithmetic on the ids of each row."""
    visible = visible_tokens(torch.rand(8, 16, generator=torch.Generator().manual_seed(0)), 0.75)
    masked = masked_tokens(visible, 8, 16, torch.device("cpu"))
    for ids, row in zip(visible.tolist(), masked.tolist(), strict=True):
        assert len(set(ids)) == 4
        assert {i for i, m in enumerate(row) if m == 1} == set(range(16)) - set(ids)
        assert sum(row) == 12


def test_tokens_are_picked_and_placed_as_by_gather_and_scatter() -> None:
    """Oracle: torch's gather and scatter along the tokens, and their gradients, to the bit."""
    tokens, blank = (torch.randn(3, 7, 4).requires_grad_() for _ in range(2))
    ids = torch.rand(3, 7).argsort(dim=1)[:, :5]
    wide = ids[..., None].expand(-1, -1, 4)
    picked = pick(tokens, ids)
    for ours, theirs in (
        (picked, tokens.gather(1, wide)),
        (place(picked, ids, blank), blank.scatter(1, wide, tokens.gather(1, wide))),
    ):
        assert torch.equal(ours, theirs)
        slopes = torch.randn_like(ours)
        for tensor in (tokens, blank) if ours is not picked else (tokens,):
            pair = (torch.autograd.grad(result, tensor, slopes, retain_graph=True)[0] for result in (ours, theirs))
            assert torch.equal(*pair)


def test_choice_is_uniform_and_rows_are_independent() -> None:
    """Oracle: chi-squared tests of single tokens, and of pairs of neighbouring rows, against equal frequencies."""
    rows = 16_000
    uniform = torch.rand(rows, 8, generator=torch.Generator().manual_seed(0))
    masked = masked_tokens(visible_tokens(uniform, 0.75), rows, 8, torch.device("cpu"))
    chosen = (1 - masked).double()
    assert chisquare(chosen.sum(0).numpy()).pvalue > 1e-3
    together = torch.einsum("ri,rj->ij", chosen[::2], chosen[1::2])
    assert chisquare(together.flatten().numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("squares", "unit", "ratio", "masked"), [(4, 2, 0.6, 40), (7, 2, 0.6, 120), (2, 2, 0.6, 12)])
def test_masked_units_are_whole_squares(squares: int, unit: int, ratio: float, masked: int) -> None:
    """Oracle: a mask of squares enlarged by repetition; the counts are ceilings by hand; every image has as many."""
    uniform = torch.rand(5, squares, squares, generator=torch.Generator().manual_seed(0))
    ids = masked_units(uniform, ratio, unit)
    side = squares * unit
    mask = torch.zeros(5, side * side).scatter(1, ids, 1.0).view(5, side, side)
    assert ids.shape == (5, masked)
    assert torch.equal(mask.sum((1, 2)), torch.full((5,), float(masked)))
    coarse = mask[:, ::unit, ::unit]
    assert torch.equal(coarse.repeat_interleave(unit, 1).repeat_interleave(unit, 2), mask)
    threshold = uniform.flatten(1).sort(dim=1).values[:, int(coarse[0].sum()) - 1]
    assert torch.equal(coarse == 1, uniform <= threshold[:, None, None])


def test_patches_equal_lightly() -> None:
    """Oracle: lightly's patchify and unpatchify, written by others."""
    images = torch.randn(2, 3, 24, 24)
    patches = patchify(images, 4)
    assert torch.equal(patches, lightly_patchify(images, 4))
    assert torch.equal(unpatchify(patches, 4), lightly_unpatchify(patches, 4))
    assert torch.equal(unpatchify(patches, 4), images)


def test_patches_of_an_oblong() -> None:
    """Oracle: slices of the image, raster order of patches and of pixels, channel fastest."""
    images = torch.randn(2, 3, 8, 12)
    expected = [images[:, :, r : r + 4, c : c + 4].permute(0, 2, 3, 1).flatten(1) for r in (0, 4) for c in (0, 4, 8)]
    assert torch.equal(patchify(images, 4), torch.stack(expected, dim=1))


def blocks_by_loops(draws: list[list[float]], ratio: float, side: int) -> set[tuple[int, int]]:
    """Mask one image as the authors' code of iBOT does (loader.py), but for when it stops."""
    masked: set[tuple[int, int]] = set()
    low, high = math.log(0.3), math.log(1 / 0.3)
    for area, shape, row, column in draws:
        room = ratio * side * side - len(masked)
        target, aspect = (side // 3) ** 2 * (1 - area) + room * area, math.exp(low + shape * (high - low))
        height, width = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if height < side and width < side:
            top, left = int(row * (side - height + 1)), int(column * (side - width + 1))
            new = {(i, j) for i in range(top, top + height) for j in range(left, left + width)} - masked
            if 0 < len(new) <= room:
                masked |= new
    return masked


@pytest.mark.parametrize(("side", "share"), [(4, 0.265), (8, 0.2915), (14, 0.2934)])
def test_blocks_are_those_of_the_authors(side: int, share: float) -> None:
    """Oracle: loops over the same draws; then the mean share that the authors' code masked of 4,000 images when tried,
    at ratios uniform from 0.1 to 0.5."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2000, 16, 4, generator=generator, dtype=torch.float64)
    ratio = 0.1 + 0.4 * torch.rand(2000, generator=generator, dtype=torch.float64)
    masks = masked_blocks(uniform, ratio, side, (0.3, 1 / 0.3))
    for draws, at, mask in zip(uniform[:100], ratio, masks, strict=False):
        expected = blocks_by_loops(draws.tolist(), float(at), side)
        assert {(int(i), int(j)) for i, j in mask.view(side, side).nonzero()} == expected
    assert float(masks.mean()) == pytest.approx(share, abs=0.005)
    assert not masked_blocks(uniform[:9], torch.zeros(9), side, (0.3, 1 / 0.3)).any()
