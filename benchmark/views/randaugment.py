"""RandAugment on a batch: every image has its own two operations, magnitudes and signs.

The operations and their ranges are those of timm's `rand-m9-mstd0.5-inc1` (Cubuk et al. 2020, arXiv:1909.13719), which
grow with the magnitude. Differs from it: pixels stay float, and warps are bilinear, where timm draws bilinear or
bicubic. Images that share an operation pass it together.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from benchmark.runtime.transfer import send
from benchmark.views.recipes import Draw

LAYERS = 2  # operations that each image may get
PROBABILITY = 0.5  # of each of them
DEVIATION = 0.5  # of the magnitude
STRONGEST = 10  # the magnitude at which an operation reaches the end of its range


def rand_augment(images: Tensor, magnitude: float, fill: Sequence[float], draw: Draw) -> Tensor:
    """Augment square `images` (batch, 3, size, size), float32 in [0, 1]; a magnitude of 0 changes nothing.

    Magnitudes are normal around `magnitude`, in [0, 10]. Warps uncover pixels of the colour `fill`, in [0, 1]. `draw`
    is that of a view: uniform float32 numbers (batch, *shape) on the host. An image's outcome depends on its own rows
    alone.
    """
    if magnitude == 0:
        return images
    chosen = (draw("operation", LAYERS) * len(OPERATIONS)).long()
    chosen[draw("applied", LAYERS) >= PROBABILITY] = -1
    level = torch.special.ndtri(draw("magnitude", LAYERS)).mul(DEVIATION).add(magnitude).clamp(0, STRONGEST) / STRONGEST
    signed = torch.where(draw("sign", LAYERS) < 0.5, -level, level)
    groups = [
        (operation, (chosen[:, layer] == number).nonzero().squeeze(1), layer)
        for layer in range(LAYERS)
        for number, operation in enumerate(OPERATIONS.values())
    ]
    groups = [group for group in groups if len(group[1])]
    amounts = [signed[index, layer].view(-1, 1, 1, 1) for _, index, layer in groups]
    colour, *moved = send(
        images.device, torch.tensor(fill).view(-1, 1, 1), *(index for _, index, _ in groups), *amounts
    )
    images = images.clone()
    for (operation, _, _), index, amount in zip(groups, moved[: len(groups)], moved[len(groups) :], strict=True):
        images.index_copy_(0, index, operation(images.index_select(0, index), amount, colour))
    return images


def _posterize(images: Tensor, signed: Tensor, fill: Tensor) -> Tensor:
    step = 2 ** (4 + (4 * signed.abs()).floor().clamp_(max=3))  # 4 down to 1 of 8 bits are kept
    return (images * 255).round().div_(step).floor_().mul_(step / 255)


def _solarize(images: Tensor, signed: Tensor, fill: Tensor) -> Tensor:
    threshold = 256 - (256 * signed.abs()).floor()
    return torch.where(images * 255 >= threshold, 1 - images, images)


def _solarize_add(images: Tensor, signed: Tensor, fill: Tensor) -> Tensor:
    added = (110 * signed.abs()).floor() / 255
    return torch.where(images * 255 < 128, images + added, images).clamp_(max=1)


def _enhance(degenerate: Callable[[Tensor], Tensor]) -> "Operation":
    """Return the operation that blends images with `degenerate(images)`, or extrapolates away from it."""

    def operation(images: Tensor, signed: Tensor, fill: Tensor) -> Tensor:
        factor = (1 + 0.9 * signed).clamp_(min=0.1)
        return torch.lerp(degenerate(images), images, factor).clamp_(0, 1)

    return operation


def _mean_grey(images: Tensor) -> Tensor:
    mean: Tensor = V.rgb_to_grayscale(images).mean((1, 2, 3), keepdim=True)
    return mean


def _rotate(images: Tensor, signed: Tensor, fill: Tensor) -> Tensor:
    angle = signed * math.radians(30)
    return _warp(images, fill, angle.cos(), -angle.sin(), 0, angle.sin(), angle.cos(), 0)


def _warp(images: Tensor, fill: Tensor, *entries: Tensor | float) -> Tensor:
    """Take each pixel from where the matrix of these 6 `entries` sends it, in coordinates from -1 to 1."""
    rows = [entry if isinstance(entry, Tensor) else images.new_full((len(images), 1, 1, 1), entry) for entry in entries]
    grid = F.affine_grid(torch.cat(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images - fill, grid, align_corners=False).add_(fill).clamp_(0, 1)


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images (n, 3, size, size), signed shares (n, 1, 1, 1) of the range, and a colour (3, 1, 1) to images."""

OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda images, signed, fill: V.autocontrast(images),
    "Equalize": lambda images, signed, fill: V.equalize(images),
    "Invert": lambda images, signed, fill: 1 - images,
    "Rotate": _rotate,
    "PosterizeIncreasing": _posterize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "ColorIncreasing": _enhance(lambda images: V.rgb_to_grayscale(images, 3)),
    "ContrastIncreasing": _enhance(_mean_grey),
    "BrightnessIncreasing": _enhance(torch.zeros_like),
    "SharpnessIncreasing": _enhance(lambda images: V.adjust_sharpness(images, 0.0)),
    # The shears leave the top row or the left column where it is.
    "ShearX": lambda images, signed, fill: _warp(images, fill, 1, 0.3 * signed, 0.3 * signed, 0, 1, 0),
    "ShearY": lambda images, signed, fill: _warp(images, fill, 1, 0, 0, 0.3 * signed, 1, 0.3 * signed),
    "TranslateXRel": lambda images, signed, fill: _warp(images, fill, 1, 0, 2 * 0.45 * signed, 0, 1, 0),
    "TranslateYRel": lambda images, signed, fill: _warp(images, fill, 1, 0, 0, 0, 1, 2 * 0.45 * signed),
}
