"""Colour operations against torchvision's float functions, image by image."""

from itertools import permutations

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from benchmark.views import colour

ADJUST = (V.adjust_brightness, V.adjust_contrast, V.adjust_saturation, V.adjust_hue)  # by their number in an order
NEUTRAL = torch.tensor([1.0, 1.0, 1.0, 0.0])


@pytest.fixture
def images() -> Tensor:
    """Random images and the hard cases of hue: grey, black, white, pure colours, two channels equal."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(24, 3, 14, 18, generator=generator)
    images[0] = 0.3
    images[1] = 0.0
    images[2] = 1.0
    for image, (first, second) in enumerate(permutations(range(3), 2), start=3):
        images[image, first] = images[image, second]
    images[9] = torch.eye(3)[torch.randint(3, (14, 18), generator=generator)].permute(2, 0, 1)
    return images


@pytest.mark.parametrize("operation", range(4))
def test_single_adjustment_equals_torchvision(images: Tensor, operation: int) -> None:
    """Oracle: torchvision's adjust_*, with the other three operations neutral."""
    strengths = [0.0] * 4
    strengths[operation] = 0.5 if operation == colour.HUE else 0.9
    factors = colour.jitter_factors(torch.rand(24, 4, generator=torch.Generator().manual_seed(1)), strengths)
    assert torch.equal(factors.ne(NEUTRAL).any(dim=0), torch.arange(4) == operation)
    adjusted = images.clone()
    colour.jitter_(adjusted, torch.arange(24), torch.arange(4).expand(24, 4), factors)
    expected = [ADJUST[operation](*row) for row in zip(images, factors[:, operation].tolist(), strict=True)]
    torch.testing.assert_close(adjusted, torch.stack(expected), rtol=0, atol=5e-6)


def test_jitter_in_every_order_equals_torchvision(images: Tensor) -> None:
    """Oracle: torchvision's adjust_* one after the other, each image in another of the 24 orders."""
    order = torch.tensor(list(permutations(range(4))))
    factors = colour.jitter_factors(torch.rand(24, 4, generator=torch.Generator().manual_seed(2)), (0.8, 0.8, 0.8, 0.2))
    jittered = images.clone()
    colour.jitter_(jittered, torch.arange(24), order, factors)
    for image in range(24):
        expected = images[image]
        for operation in order[image].tolist():
            expected = ADJUST[operation](expected, factors[image, operation].item())
        torch.testing.assert_close(jittered[image], expected, rtol=0, atol=1e-5)


def test_factors_are_uniform_in_their_ranges() -> None:
    """Oracle: the ranges of torchvision's ColorJitter, whose lower end is cut at zero; Kolmogorov-Smirnov."""
    draws = torch.rand(4000, 4, generator=torch.Generator().manual_seed(3))
    factors = colour.jitter_factors(draws, (0.4, 1.5, 0.8, 0.1)).T
    for column, (low, high) in zip(factors, [(0.6, 1.4), (0.0, 2.5), (0.2, 1.8), (-0.1, 0.1)], strict=True):
        assert kstest(column.numpy(), "uniform", (low, high - low)).pvalue > 1e-3
        assert low - 1e-6 <= column.min() < column.max() <= high + 1e-6


def test_greyscale_equals_torchvision(images: Tensor) -> None:
    """Oracle: torchvision's rgb_to_grayscale."""
    grey = images.clone()
    colour.greyscale_(grey, torch.arange(24))
    torch.testing.assert_close(grey, V.rgb_to_grayscale(images, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "kernel"), [(16, 16, 3), (32, 39, 3), (64, 64, 7), (96, 96, 9), (224, 224, 23)]
)
def test_blur_equals_torchvision(height: int, width: int, kernel: int) -> None:
    """Oracle: torchvision's gaussian_blur with a kernel of a tenth of the side made odd."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(6, 3, height, width, generator=generator)
    sigma = torch.tensor([0.1, 0.3, 0.7, 1.1, 1.6, 2.0])
    blurred = images.clone()
    colour.blur_(blurred, torch.arange(6), sigma)
    expected = [
        V.gaussian_blur(image, [kernel, kernel], [s, s]) for image, s in zip(images, sigma.tolist(), strict=True)
    ]
    torch.testing.assert_close(blurred, torch.stack(expected), rtol=0, atol=5e-6)


@pytest.mark.parametrize(("side", "deviation"), [(64, 1.641), (96, 1.8516), (224, 2.0)])
def test_short_kernels_blur_less(side: int, deviation: float) -> None:
    """Oracle: the second moment of exp(-k^2 / 8) over k = -3..3, -4..4 and -11..11, by hand: the blur of one pixel."""
    blurred = torch.zeros(1, 3, side, side)
    blurred[:, :, side // 2, side // 2] = 1.0
    colour.blur_(blurred, torch.tensor([0]), torch.tensor([2.0]))
    offsets = torch.arange(side) - side // 2
    for line in (blurred[0, 0].sum(0), blurred[0, 0].sum(1)):
        assert (line * offsets**2).sum().sqrt().item() == pytest.approx(deviation, abs=1e-4)


def test_solarize_equals_torchvision() -> None:
    """Oracle: torchvision's solarize, to the last bit, on all 256 values: 127 stays, 128 is inverted."""
    images = (torch.arange(256).view(1, 1, 16, 16) / 255).expand(2, 3, 16, 16).contiguous()
    solarized = images.clone()
    colour.solarize_(solarized, torch.tensor([1]))
    assert torch.equal(solarized[0], images[0])
    assert torch.equal(solarized[1], V.solarize(images[1], 128 / 255))


def test_normalise_equals_torchvision(images: Tensor) -> None:
    """Oracle: torchvision's normalize; the views stay as they were."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    views = images.clone()
    torch.testing.assert_close(colour.normalise(views, mean, std), V.normalize(images, list(mean), list(std)))
    assert torch.equal(views, images)
