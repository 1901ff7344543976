"""The kernel of attention, chosen by a fixed table so that one configuration gives one result.

| device | precision | kernel | why |
|---|---|---|---|
| cpu | bfloat16 | plain products and softmax | 2.2 times faster (step of a small ViT, 256 x 65 tokens) |
| cpu | float32 | fused | no difference beyond noise (with AVX2 alone: 0.99 times, 0.90 to 1.25) |
| cuda | any | fused | keeps no matrix of tokens by tokens |
"""

import torch
from torch import nn


def choose_attention(module: nn.Module, device: torch.device, precision: str) -> None:
    """Set timm's attention layers in `module` to the kernel of the table."""
    set_fused(module, not (device.type == "cpu" and precision == "bfloat16"))


def set_fused(module: nn.Module, fused: bool) -> None:
    """Make timm's attention layers use the fused kernel, or matrix products and a softmax."""
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]
