"""Random crops of a batch, resized as `torchvision.transforms.RandomResizedCrop` does, with one box per image.

Resampling an axis is a sparse matrix per image: a few weighted source rows for each output row. `embedding_bag`
computes such sums in one pass over the data, many times faster than products with dense matrices, and in float32
whatever precision the process allows those.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.runtime.transfer import send

TRIES = 10  # boxes that torchvision draws before it falls back to a central one

Interpolation = Literal["bilinear", "bicubic"]


class Taps(NamedTuple):
    """A resampling of one axis: output o of image b sums, over t, weight[b, o, t] times position source[b, o, t]."""

    source: Tensor  # (batch, outputs, taps), int64
    weight: Tensor  # (batch, outputs, taps), float32


def crop_boxes(
    tries: Tensor, corner: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes (batch, 4), int64 top, left, height and width, distributed as those of torchvision's `RandomResizedCrop`.

    `tries` (batch, 10, 2) and `corner` (batch, 2) are uniform in [0, 1). A try asks for a share of the image's area,
    uniform in `scale`, and a width over height, log-uniform in `ratio`; the first that fits is placed uniformly, and if
    none fits the box is the largest central one whose aspect lies in `ratio`.
    """
    share, aspect = _asked(tries, scale, ratio)
    area = height * width * share
    sides = torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()], dim=-1)

    image = sides.new_tensor([height, width])
    fits = ((sides > 0) & (sides <= image)).all(dim=-1)
    central = sides.new_tensor([min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))])
    sides = torch.where(
        fits.any(dim=1, keepdim=True), sides[torch.arange(len(sides)), fits.int().argmax(dim=1)], central
    )
    room = image - sides
    placed = torch.where(fits.any(dim=1, keepdim=True), (corner.double() * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([placed, sides], dim=1).long()


class Cut:
    """The boxes of `crop_boxes` for images whose sizes are known one after the other, when they are decoded."""

    def __init__(
        self,
        tries: Tensor,
        corner: Tensor,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        interpolation: Interpolation,
    ) -> None:
        self._tries = torch.stack(_asked(tries, scale, ratio), dim=-1).tolist()
        self._corner = corner.double().tolist()
        self._ratio = ratio
        self.interpolation = interpolation

    def __call__(self, row: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the box in the image of a row."""
        for share, aspect in self._tries[row]:
            area = height * width * share
            sides = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < sides[0] <= height and 0 < sides[1] <= width:
                top, left = self._corner[row]
                return int(top * (height - sides[0] + 1)), int(left * (width - sides[1] + 1)), *sides
        sides = min(height, round(width / self._ratio[0])), min(width, round(height * self._ratio[1]))
        return (height - sides[0]) // 2, (width - sides[1]) // 2, *sides


def crop_resize(images: Tensor, boxes: Tensor, flips: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Cuts each image to its box, resizes it with antialiasing and mirrors it where `flips` says so.

    `images` are uint8 (batch, 3, height, width) on any device; `boxes` (batch, 4) and bool `flips` (batch,) are on the
    host, so that the number of taps is known without waiting for the device. Returns float32 (batch, 3, size, size) in
    [0, 1], equal to `torch.nn.functional.interpolate(antialias=True)` of the cut image, clamped.
    """
    largest = int(boxes[:, 2:].max())
    moved, flips = send(images.device, boxes.float(), flips)
    top, left, height, width = moved.unbind(1)
    rows = _interpolation_taps(top, height, torch.zeros_like(flips), size, largest, interpolation)
    columns = _interpolation_taps(left, width, flips, size, largest, interpolation)
    views = resample(images, rows, Taps(columns.source, columns.weight / 255))
    return views.clamp_(0, 1) if interpolation == "bicubic" else views


def mirrored(images: Tensor, flips: Tensor) -> Tensor:
    """Return uint8 images (batch, 3, height, width) as float32 in [0, 1], mirrored where bool `flips` (batch,) says."""
    (flips,) = send(images.device, flips)
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images).float().div_(255)


def resample(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Resamples both axes of images (batch, 3, height, width) to float32 (batch, 3, row outputs, column outputs)."""
    return _resample_rows(_resample_rows(images.mT, columns).mT, rows)


def _asked(tries: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the shares of the area and the aspects that tries ask for, float64."""
    share, aspect = tries.double().unbind(-1)
    return (
        scale[0] + (scale[1] - scale[0]) * share,
        (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * aspect).exp(),
    )


def _resample_rows(images: Tensor, taps: Taps) -> Tensor:
    batch, channels, height, width = images.shape
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1, 1)
    index = taps.source.unsqueeze(1) + planes * height
    weight = taps.weight.unsqueeze(1).expand(index.shape)
    table = images.contiguous().float().view(-1, width)
    count = index.shape[-1]
    summed = F.embedding_bag(index.view(-1, count), table, per_sample_weights=weight.reshape(-1, count), mode="sum")
    return summed.view(batch, channels, -1, width)


def _interpolation_taps(
    start: Tensor, length: Tensor, flips: Tensor, size: int, largest: int, interpolation: Interpolation
) -> Taps:
    """Taps that resize `length` source positions from `start` on, all (batch,), to `size`; no length exceeds `largest`.

    The triangle or the cubic of Keys (1981) with a = -1/2 is centred on the output's position and widened by the scale
    where the image shrinks; taps outside the box get no weight, and the weights of an output sum to one.
    """
    radius = 1 if interpolation == "bilinear" else 2
    count = math.ceil(2 * radius * max(largest / size, 1))
    start, length, flips = start.view(-1, 1, 1), length.view(-1, 1, 1), flips.view(-1, 1, 1)
    scale = length / size
    stretch = scale.clamp(min=1)
    centre = scale * (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5)
    centre = torch.where(flips, length - centre, centre)
    first = (centre - radius * stretch + 0.5).floor().clamp_(min=0)
    position = first + torch.arange(count, device=start.device)
    distance = ((position + 0.5 - centre) / stretch).abs_()
    weight = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    weight *= position < length
    weight /= weight.sum(dim=-1, keepdim=True)
    return Taps((start + position.minimum(length - 1)).long(), weight)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    near, far = distance.clamp(max=1), distance.clamp(1, 2)  # either piece is zero where the other one holds
    return (1.5 * near - 2.5) * near * near + 1 - 0.5 * (((far - 5) * far + 8) * far - 4)
