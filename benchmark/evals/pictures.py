"""Pictures of what was predicted beside the truth: a few test images, the same for every encoder."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmark.data.boxes import Objects
from benchmark.data.masks import UNLABELLED
from benchmark.data.pixels import Pixels
from benchmark.data.subsets import hashed_order
from benchmark.evals.average_precision import Detections
from benchmark.report.palette import COLOURS

SHOWN = 5  # images
SIDE = 160  # pixels at most of the longer side of an image in a picture
GAP = 4  # pixels between them


def shown(n: int, dataset: str) -> list[int]:
    """Return the ids of the images that are shown, of `n`: the first of a hashed order."""
    if n == 0:
        return []
    (order,) = hashed_order(torch.zeros(n, dtype=torch.int64), dataset, "pictures")
    return sorted(order[:SHOWN].tolist())


def of_masks(images: Pixels, ids: Sequence[int], masks: Sequence[Tensor], predicted: Sequence[Tensor]) -> Image.Image:
    """Return a row for each of these images: itself, its mask, and the one that is predicted; all of one size.

    Classes have colours; a pixel without a label is black.
    """
    rows = []
    for index, mask, guess in zip(ids, masks, predicted, strict=True):
        size = _size(*mask.shape)
        painted = [Image.fromarray(_painted(each)).resize(size, Image.Resampling.NEAREST) for each in (mask, guess)]
        rows.append([_image(images, index, size), *painted])
    return _table(rows)


def of_boxes(
    images: Pixels, ids: Sequence[int], objects: Sequence[Objects], found: Sequence[Detections]
) -> Image.Image:
    """Return a row for each of these images: with the boxes of its objects, and with those that are found.

    Classes have colours. Of what is found as many boxes are drawn as there are objects, those with the highest scores.
    Crowds are crossed out.
    """
    rows = []
    for index, truth, guess in zip(ids, objects, found, strict=True):
        size = _size(*truth.size)
        scale = size[0] / truth.size[1]
        kept = guess.scores.argsort(descending=True, stable=True)[: int((~truth.crowd).sum())]
        drawn = []
        for boxes, labels, crowd in (
            (truth.boxes, truth.labels, truth.crowd),
            (guess.boxes[kept], guess.labels[kept], torch.zeros(len(kept), dtype=torch.bool)),
        ):
            image = _image(images, index, size)
            pen = ImageDraw.Draw(image)
            for box, label, is_crowd in zip((boxes * scale).tolist(), labels.tolist(), crowd.tolist(), strict=True):
                pen.rectangle(box, outline=COLOURS[label % len(COLOURS)], width=2)
                if is_crowd:
                    pen.line(box, fill=COLOURS[label % len(COLOURS)])
            drawn.append(image)
        rows.append(drawn)
    return _table(rows)


def _size(height: int, width: int) -> tuple[int, int]:
    """Return width and height of an image in a picture."""
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _image(images: Pixels, index: int, size: tuple[int, int]) -> Image.Image:
    """Return an image, of which the harness has a square, at its own proportions."""
    (square,) = images[torch.tensor([index])]
    return Image.fromarray(square.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)


def _painted(mask: Tensor) -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]":
    """Return the colours of a mask: those of VOC, which spread the bits of a class over the three channels."""
    classes = mask.long() + 1
    channels = [sum(((classes >> (3 * bit + shift)) & 1) << (7 - bit) for bit in range(3)) for shift in range(3)]
    colours = torch.stack([torch.as_tensor(channel) for channel in channels], dim=-1)
    colours[mask == UNLABELLED] = 0
    return colours.to(torch.uint8).numpy()


def _table(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Return images in rows and columns, white between them."""
    width = max(sum(image.width + GAP for image in row) for row in rows) - GAP
    table = Image.new("RGB", (width, sum(row[0].height + GAP for row in rows) - GAP), "white")
    top = 0
    for row in rows:
        left = 0
        for image in row:
            table.paste(image, (left, top))
            left += image.width + GAP
        top += row[0].height + GAP
    return table
