"""Initial weights and fixed positions of transformers (He et al. 2022, arXiv:2111.06377)."""

import torch
from torch import Tensor, nn


def xavier_(module: nn.Module) -> None:
    """Set every linear layer to Xavier-uniform weights and zero bias (He et al. 2022, arXiv:2111.06377).

    A fused layer of queries, keys and values counts as the three square matrices that it holds (Chen et al. 2021,
    arXiv:2104.02057): as one matrix of 3 x width rows they would start smaller by a factor of sqrt(2).
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            for matrix in part.weight.chunk(3) if name.endswith("qkv") else (part.weight,):
                nn.init.xavier_uniform_(matrix)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sincos_positions(width: int, side: int) -> Tensor:
    """Return fixed positions `(1, 1 + side * side, width)`, zero for the class token.

    The first half of the channels encodes the column, the second half the row, each as sines then cosines of
    frequencies 10000^(-4 i / width) (He et al. 2022, arXiv:2111.06377).
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = line[None].expand(side, -1, -1)
    rows = line[:, None].expand(-1, side, -1)
    grid = torch.cat([columns, rows], dim=2).reshape(side * side, width)
    return torch.cat([grid.new_zeros(1, width), grid])[None].float()
