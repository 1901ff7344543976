"""Crops and resampling against torchvision."""

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as V

from benchmark.views.geometry import Interpolation, crop_boxes, crop_resize

RATIO = (3 / 4, 4 / 3)


def sampled_boxes(batch: int, height: int, width: int, scale: tuple[float, float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tries = torch.rand(batch, 10, 2, generator=generator)
    return crop_boxes(tries, torch.rand(batch, 2, generator=generator), height, width, scale, RATIO)


def reference_crop(image: Tensor, box: Tensor, flip: bool, size: int, interpolation: Interpolation) -> Tensor:
    cut = V.resized_crop(
        image.double() / 255,
        *box.tolist(),
        [size, size],
        interpolation=InterpolationMode(interpolation),
        antialias=True,
    )
    return (V.horizontal_flip(cut) if flip else cut).clamp(0, 1).float()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (20, 44, 64), (96, 80, 32), (96, 96, 96), (70, 90, 16)]
)
def test_crop_equals_torchvision(height: int, width: int, size: int, interpolation: Interpolation) -> None:
    """Oracle: torchvision's resized_crop in float64, image by image, then its flip for every second one."""
    generator = torch.Generator().manual_seed(height)
    images = torch.randint(0, 256, (24, 3, height, width), dtype=torch.uint8, generator=generator)
    boxes = sampled_boxes(24, height, width, (0.02, 1.0))
    boxes[0] = torch.tensor([0, 0, height, width])
    boxes[1] = torch.tensor([height - 1, width - 1, 1, 1])
    flips = torch.arange(24) % 2 == 1
    original = images.clone()

    views = crop_resize(images, boxes, flips, size, interpolation)

    expected = [reference_crop(*row, size, interpolation) for row in zip(images, boxes, flips.tolist(), strict=True)]
    torch.testing.assert_close(views, torch.stack(expected), rtol=0, atol=2e-5)
    assert torch.equal(images, original)


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(32, 32, (0.08, 1.0)), (32, 32, (0.2, 1.0)), (96, 60, (0.08, 1.0)), (30, 75, (0.9, 1.0))],
)
def test_boxes_have_torchvision_distribution(height: int, width: int, scale: tuple[float, float]) -> None:
    """Oracle: Kolmogorov-Smirnov tests of area, aspect and position against RandomResizedCrop.get_params."""
    torch.manual_seed(1)
    image = torch.empty(3, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(3000)]).double()
    ours = sampled_boxes(6000, height, width, scale).double()
    for statistic in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: (b[:, 0] + 0.5) / (height - b[:, 2] + 1),
        lambda b: (b[:, 1] + 0.5) / (width - b[:, 3] + 1),
    ):
        assert ks_2samp(statistic(ours).numpy(), statistic(theirs).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(20, 100), (100, 20), (40, 40), (41, 50)])
def test_fallback_is_the_central_box(height: int, width: int) -> None:
    """Oracle: RandomResizedCrop.get_params where no try can fit, because an area above the image's is asked for."""
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), [3.0, 3.0], list(RATIO))
    assert sampled_boxes(3, height, width, (3.0, 3.0)).tolist() == [list(theirs)] * 3


def test_first_fitting_try_is_taken() -> None:
    """Oracle: by hand; the first try is wider than the image, the second asks for a quarter of its area."""
    tries = torch.full((1, 10, 2), 0.9)
    tries[0, :, 1] = 0.5  # aspect 1
    tries[0, 0] = torch.tensor([0.99, 0.99])
    tries[0, 1, 0] = 0.25
    corner = torch.tensor([[0.0, 1 - 2**-24]])
    assert crop_boxes(tries, corner, 32, 32, (0.0, 1.0), RATIO).tolist() == [[0, 16, 16, 16]]
