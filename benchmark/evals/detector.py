"""A detector on an encoder: the pyramid of its maps, and torchvision's Faster R-CNN on that."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder

FINEST = 4  # stated: pixels between the cells of the finest map (Lin et al. 2017, arXiv:1612.03144)
LEVELS = 4  # stated: there, and Li et al. 2022, arXiv:2203.16527
ANCHOR = 8  # stated: there: the side of an anchor, in cells of its map
RATIOS = (0.5, 1.0, 2.0)  # stated: there: height over width of anchors
CELLS = 7  # stated: there: a side of what is cut out for a proposal
CANONICAL = 224, 4  # stated: there, Eq. 1: a box of this side is cut out of the map with 2^4 pixels a cell


class Pyramid(nn.Module):
    """Maps of an encoder at four scales and a coarser one, each `out_channels` wide, of images of `size` px.

    An encoder whose maps shrink has a feature pyramid (Lin et al. 2017, arXiv:1612.03144) of those with at least 4
    pixels a cell. Any other has a simple one of its last map (Li et al. 2022, arXiv:2203.16527), scaled so that the
    finest has 4 pixels a cell, or the fewest above 4 that halving leads to. Coarser maps that are missing are pooled.
    `strides` are the pixels a cell of the four scales.
    """

    def __init__(self, encoder: Encoder, out_channels: int, size: int) -> None:
        super().__init__()
        self.encoder, self.out_channels = encoder, out_channels
        shapes = _shapes(encoder, size)
        for side in {side for _, side in shapes}:
            if size % side:
                raise ConfigError(
                    f"Images.size = {size}: a map of {encoder.name} has {side} cells a side, which are no whole number "
                    f"of pixels. Choose a multiple of the coarsest stride of the encoder, such as 32."
                )
        last = {size // side: place for place, (_, side) in enumerate(shapes)}  # of equal maps the last
        self.places = [place for stride, place in last.items() if stride >= FINEST] or [len(shapes) - 1]
        widths = [shapes[place][0] for place in self.places]
        strides = [size // shapes[place][1] for place in self.places]
        self.is_simple = len(self.places) == 1
        if self.is_simple:
            stride, finest = strides[0], strides[0]
            while finest < FINEST:
                finest *= 2
            while finest % 2 == 0 and finest // 2 >= FINEST:
                finest //= 2
            strides = [finest * 2**level for level in range(LEVELS)]
            self.levels = nn.ModuleList(_scaled(widths[0], out_channels, stride, each) for each in strides)
        else:
            self.levels = nn.ModuleList([FeaturePyramidNetwork(widths, out_channels)])
        self.strides = strides[-LEVELS:]
        while len(self.strides) < LEVELS:
            self.strides.append(2 * self.strides[-1])
        if size % self.strides[-1]:
            raise ConfigError(
                f"Images.size = {size}: the coarsest map of the detector has {self.strides[-1]} pixels a cell, which "
                f"leave a rest. Choose a multiple of {self.strides[-1]}."
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of normalised images, the finest first."""
        maps = self.encoder.stages(images, self.places)
        if self.is_simple:
            scaled = [level(maps[0]) for level in self.levels]
        else:
            scaled = list(self.levels[0]({str(place): each for place, each in enumerate(maps)}).values())[-LEVELS:]
        while len(scaled) <= LEVELS:
            scaled.append(F.max_pool2d(scaled[-1], 1, stride=2))
        return {str(level): each for level, each in enumerate(scaled)}


@torch.no_grad()
def _shapes(encoder: Encoder, size: int) -> list[tuple[int, int]]:
    """Return width and side of the maps of all stages."""
    was_training, parameter = encoder.training, next(encoder.parameters())
    maps = encoder.eval().stages(torch.zeros(1, 3, size, size, device=parameter.device))
    encoder.train(was_training)
    return [(each.shape[1], each.shape[-1]) for each in maps]


def _scaled(width: int, out_channels: int, stride: int, wanted: int) -> nn.Module:
    """Return the layers that scale a map from one stride to another, as ViTDet does."""
    layers: list[nn.Module] = []
    while stride > wanted:
        layers += [LayerNorm2d(width), nn.GELU()] if layers else []
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, 2))
        width, stride = width // 2, stride // 2
    if stride < wanted:
        layers.append(nn.MaxPool2d(wanted // stride))
    for kernel in (1, 3):
        layers.append(nn.Conv2d(width, out_channels, kernel, padding=kernel // 2, bias=False))
        layers.append(LayerNorm2d(out_channels))
        width = out_channels
    return nn.Sequential(*layers)


def faster_rcnn(encoder: Encoder, classes: int, size: int, *, width: int, samples: int, proposals: int) -> FasterRCNN:
    """Return torchvision's Faster R-CNN for normalised square images of `size` px; class 0 is the background.

    Maps are `width` wide, and layers of the head 4 times as wide. `samples` are the boxes of an image that the head
    learns from, `proposals` those that it gets.
    """
    pyramid = Pyramid(encoder, width, size)
    strides = [*pyramid.strides, 2 * pyramid.strides[-1]]
    pool = MultiScaleRoIAlign([str(level) for level in range(LEVELS)], CELLS, sampling_ratio=2)
    exponents = [torch.tensor(float(stride)).log2().item() for stride in pyramid.strides]
    pool.scales = [1 / stride for stride in pyramid.strides]  # torchvision would round them to powers of 2
    pool.map_levels = initLevelMapper(
        exponents[0], exponents[-1], canonical_scale=CANONICAL[0], canonical_level=CANONICAL[1]
    )
    as_they_are: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "min_size": size, "max_size": size}
    return FasterRCNN(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(tuple((ANCHOR * each,) for each in strides), (RATIOS,) * len(strides)),
        rpn_pre_nms_top_n_train=proposals,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        box_roi_pool=pool,
        box_head=TwoMLPHead(width * CELLS**2, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, classes + 1),
        box_batch_size_per_image=samples,
        size_divisible=1,
        **as_they_are,
    )


def scaled(boxes: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Return boxes `(n, 4)` in an image of one (height, width) as boxes in the same image of another."""
    down, right = (new / old for new, old in zip(after, before, strict=True))
    return boxes * boxes.new_tensor([right, down, right, down])
