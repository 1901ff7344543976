"""Decoders from encoded tokens back to pixels."""

from functools import partial
from typing import Any

import gin
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from benchmark.annotations import Count
from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.initial import sincos_positions, xavier_
from benchmark.nets.masking import place


@gin.register
class PixelDecoder(nn.Module):
    """A narrow transformer that predicts the pixels of all patches (He et al. 2022, arXiv:2111.06377, section 3).

    It sees the class token, the visible tokens and a learned mask token in every other place, adds fixed positions,
    and returns `(batch, tokens, patch * patch * 3)`. It needs a block: without one no token sees another, and a loss on
    masked patches gives the encoder no gradient.
    """

    def __init__(self, encoder: Encoder, *, width: Count, depth: Count, heads: Count) -> None:
        super().__init__()
        self.n_tokens, patch = encoder.patch_grid()
        if width % 4 or width % heads:
            raise ConfigError(
                f"PixelDecoder.width = {width} must be a multiple of 4 and of PixelDecoder.heads = {heads}."
            )
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)  # timm asks for a class and calls it
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, patch**2 * 3)
        xavier_(self)
        nn.init.normal_(self.mask_token, std=0.02)
        self.positions = nn.Parameter(sincos_positions(width, encoder.image_size // patch), requires_grad=False)

    def forward(self, features: Features) -> Tensor:
        """Reconstruct every patch from the pooled class token and the visible tokens."""
        assert features.tokens is not None
        tokens = self.embed(features.tokens)
        if features.visible is not None:
            blank = self.mask_token.to(tokens.dtype).expand(len(tokens), self.n_tokens, -1)
            tokens = place(tokens, features.visible, blank)
        start = self.embed(features.pooled)[:, None]
        tokens = torch.cat([start, tokens], dim=1) + self.positions
        predicted: Tensor = self.predict(self.norm(self.blocks(tokens)))
        return predicted[:, 1:]
