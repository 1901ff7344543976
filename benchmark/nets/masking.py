"""Patches as vectors, and random subsets of them."""

import math

import torch
from torch import Tensor


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
