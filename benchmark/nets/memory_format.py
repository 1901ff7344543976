"""How images lie in memory: convolutions are faster where the channels of a pixel lie together."""

import torch
from torch import nn

LEAST_CHANNELS = 8


def choose_memory_format(module: nn.Module, device: torch.device) -> None:
    """Store convolutions with channels last, and by them all that they compute.

    On a processor a module stays as it is if a 1x1 convolution of it strides over fewer than 8 channels, as the first
    of RepVGG and MobileOne do: with AVX2 alone, PyTorch 2.15 writes the gradient of its weights beyond their memory.
    """
    if device.type != "cpu" or not any(map(_is_narrow, module.modules())):
        module.to(memory_format=torch.channels_last)


def _is_narrow(part: nn.Module) -> bool:
    if not isinstance(part, nn.Conv2d):
        return False
    strides = part.kernel_size == (1, 1) and part.stride != (1, 1)
    return strides and part.in_channels // part.groups < LEAST_CHANNELS
