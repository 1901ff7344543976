"""Patches as vectors, and random subsets of them."""

import math

import torch
from torch import Tensor

from benchmark.errors import ConfigError


def kept(tokens: int, ratio: float) -> int:
    """Return how many of `tokens` stay visible at mask `ratio`: the floor, so at least the ratio is masked.

    The small addend undoes float error: 100 * (1 - 0.8) is 19.999... and keeps 20.
    """
    return math.floor(tokens * (1 - ratio) + 1e-9)


def visible_tokens(uniform: Tensor, ratio: float) -> Tensor | None:
    """Choose visible token ids `(batch, kept)` from draws `uniform` `(batch, tokens)`; None at ratio 0 (all)."""
    if ratio == 0:
        return None
    return uniform.argsort(dim=1)[:, : kept(uniform.shape[1], ratio)]


def masked_tokens(visible: Tensor | None, batch: int, tokens: int, device: torch.device) -> Tensor:
    """Return `(batch, tokens)` floats: 1 where a token is masked, 0 where it is visible."""
    if visible is None:
        return torch.zeros(batch, tokens, device=device)
    return torch.ones(batch, tokens, device=device).scatter(1, visible, 0.0)


def pick(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick the tokens `(batch, chosen, width)` with the ids `(batch, chosen)` out of `(batch, tokens, width)`.

    Whole rows are indexed: where a GPU has to repeat its bits, the gradient of a `gather` is sorted number by number.
    """
    return tokens[_images(ids), ids]


def place(tokens: Tensor, ids: Tensor, blank: Tensor) -> Tensor:
    """Return `blank` `(batch, tokens, width)` with `tokens` `(batch, chosen, width)` at the ids `(batch, chosen)`."""
    return blank.index_put((_images(ids), ids), tokens)


def _images(ids: Tensor) -> Tensor:
    return torch.arange(len(ids), device=ids.device)[:, None]


def masked_units(uniform: Tensor, ratio: float, unit: int) -> Tensor:
    """Choose masked token ids `(batch, masked)`: whole squares of `unit` x `unit` tokens, the ceiling of their share.

    `uniform` `(batch, rows, columns)` has one draw per square. Every image has the same number of masked tokens (Xie
    et al. 2022, arXiv:2111.09886, section 3.2 and the authors' code).
    """
    batch, rows, columns = uniform.shape
    count = math.ceil(rows * columns * ratio - 1e-9)
    chosen = uniform.reshape(batch, -1).argsort(dim=1)[:, :count]
    inner = torch.arange(unit, device=uniform.device)
    first = chosen // columns * unit * columns * unit + chosen % columns * unit
    offsets = inner[:, None] * columns * unit + inner
    return (first[..., None] + offsets.flatten()).flatten(1)


def mask_of(ids: Tensor, tokens: int) -> Tensor:
    """Return `(batch, tokens)` floats: 1 at the ids `(batch, masked)`, 0 elsewhere."""
    return torch.zeros(len(ids), tokens, device=ids.device).scatter(1, ids, 1.0)


def masked_blocks(uniform: Tensor, ratio: Tensor, side: int, aspect: tuple[float, float]) -> Tensor:
    """Mask rectangles of random sizes and places, some of them overlapping: `(images, side * side)` floats, 1 masked.

    `uniform` `(images, tries, 4)` has the draws for area, shape, row and column of each try. The masked share of an
    image is at most its `ratio` `(images,)`. The area of a rectangle lies between (side // 3)^2 and what the ratio
    leaves, the logarithm of height / width between those of `aspect`. A rectangle counts if it is smaller than the
    image, masks something new, and not too much (Bao et al. 2022, arXiv:2106.08254, Algorithm 1, as in the authors'
    code of Zhou et al. 2022, arXiv:2111.07832).
    """
    least, (low, high) = (side // 3) ** 2, map(math.log, aspect)
    mask = uniform.new_zeros(len(uniform), side, side, dtype=torch.bool)
    place = torch.arange(side, device=uniform.device)
    for draws in uniform.unbind(1):
        area, shape, top, left = draws.unbind(1)
        room = ratio * side**2 - mask.sum((1, 2))
        area = least + area * (room - least)
        shape = (low + shape * (high - low)).exp()
        height, width = (area * shape).sqrt().round(), (area / shape).sqrt().round()
        new = (_span(top, height, place)[:, :, None] & _span(left, width, place)[:, None]) & ~mask
        count = new.sum((1, 2))
        fits = (height < side) & (width < side) & (count > 0) & (count <= room)
        mask = mask | (new & fits[:, None, None])
    return mask.flatten(1).float()


def _span(draw: Tensor, length: Tensor, place: Tensor) -> Tensor:
    """Return `(images, side)`, whether a place is within a length that begins at a random place."""
    first = (draw * (len(place) - length + 1)).floor()[:, None]
    return (place >= first) & (place < first + length[:, None])


def check_visible(ratio: float, tokens: int, name: str) -> float:
    """Return a mask ratio that leaves a visible token of `tokens`; raises ConfigError, naming the parameter."""
    if not 0 <= ratio < 1 or kept(tokens, ratio) < 1:
        raise ConfigError(
            f"{name} = {ratio} leaves no visible patch of {tokens}; use at least 0 and at most "
            f"{math.floor(1000 - 1000 / tokens) / 1000}."
        )
    return ratio


def check_squares(ratio: float, squares: int, name: str) -> float:
    """Return a mask ratio that masks a square of `squares` and leaves one; raises ConfigError, naming the parameter."""
    if not 0 < ratio <= 1 - 1 / squares:
        raise ConfigError(
            f"{name} = {ratio} must mask at least one of the {squares} squares of patches and leave one; use a ratio "
            f"above 0 and at most {1 - 1 / squares:.3f}."
        )
    return ratio


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut `(batch, 3, height, width)` into `(batch, tokens, patch * patch * 3)`, raster order, channel fastest."""
    batch, channels, height, width = images.shape
    cells = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Undo `patchify` for square images."""
    batch, tokens, pixels = patches.shape
    side, channels = math.isqrt(tokens), pixels // patch**2
    cells = patches.reshape(batch, side, side, patch, patch, channels)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * patch, side * patch)
