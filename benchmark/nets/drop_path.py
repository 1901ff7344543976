"""Stochastic depth: residual branches are left out at random, image by image (Huang et al. 2016, arXiv:1603.09382)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def path_scales(uniform: Tensor, rate: float) -> Tensor:
    """Return the factors of residual branches, each 0 or 1 / (1 - p): their mean is 1.

    `uniform`: `(batch, blocks, 2)` numbers in [0, 1), for attention and MLP of each block of each image. The
    probability p of leaving out a branch rises linearly from 0 for the first block to `rate` for the last.
    """
    kept = 1 - torch.linspace(0, rate, uniform.shape[1], device=uniform.device)[:, None]
    return (uniform < kept) / kept


def scaled_block(block: Any, attend: Callable[[Tensor], Tensor], inputs: Tensor, scales: Tensor) -> Tensor:
    """Pass a block of a timm transformer whose two branches are scaled, by `scales` `(batch, 2)`.

    `attend` is the attention of the block, on `inputs` `(batch, ..., width)`. Where the block is `recomputed`, what
    lies inside is computed again for the backward pass.
    """
    attention, mlp = scales.view(len(scales), 2, *[1] * (inputs.ndim - 1)).unbind(1)

    def both(inputs: Tensor) -> Tensor:
        inputs = inputs + attention * attend(block.norm1(inputs))
        return inputs + mlp * block.mlp(block.norm2(inputs))  # type: ignore[no-any-return]

    is_recomputed = getattr(block, "recomputed", False)
    outputs: Tensor = checkpoint(both, inputs, use_reentrant=False) if is_recomputed else both(inputs)
    return outputs
