"""Channels last, but for convolutions of a processor that would write beyond their memory."""

import pytest
import timm
import torch
from torch import nn

from benchmark.nets.memory_format import choose_memory_format
from benchmark.nets.resnet import ResNet

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NETS = {
    "a ResNet of width 4": (lambda: ResNet(16, name="resnet18", base_width=4), True),
    "a ResNet of width 8": (lambda: ResNet(16, name="resnet18", base_width=8), False),
    "RepVGG": (lambda: timm.create_model("repvgg_a0"), True),
    "groups of 4": (lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 1, 2, groups=8)), True),
    "no stride": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 32, 1)), False),
    "3x3": (lambda: nn.Conv2d(3, 32, 3, 2), False),
}


@pytest.mark.parametrize("name", NETS)
def test_narrow_networks_keep_channels_first_on_a_processor(name: str) -> None:
    """Oracle: by hand, from the shapes of each network; on a GPU all have channels last."""
    build, is_narrow = NETS[name]
    for device in (CPU, GPU):
        net = build()
        choose_memory_format(net, device)
        weights = [part.weight for part in net.modules() if isinstance(part, nn.Conv2d) and part.kernel_size > (1, 1)]
        is_last = all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
        assert is_last == (device is GPU or not is_narrow)
