"""RandAugment against timm's own operations on PIL images, and its promises about draws."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from timm.data import auto_augment
from torch import Tensor

from benchmark.views import randaugment
from benchmark.views.randaugment import LAYERS, OPERATIONS, rand_augment

FILL = (0.25, 0.5, 0.75)


def photo(size: int = 64) -> Tensor:
    """A smooth colour image of uint8 values, so that what interpolation does to it is small."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True).clamp(0, 1)
    return (smooth * 255).round() / 255


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy())


def drawn(batch: int, seed: int = 0) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = {
        name: torch.rand(batch, LAYERS, generator=generator) for name in ("operation", "applied", "magnitude", "sign")
    }
    return lambda name, *shape: rows[name]


@pytest.mark.parametrize("magnitude", [2.0, 9.0, 9.9])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_timms(name: str, sign: int, magnitude: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: timm's function and range of the same name on a PIL image, with its coin for the sign set.

    Up to a grey level of rounding for most pixels; at the border of the image timm does not blend with the fill.
    """
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.9 if sign < 0 else 0.1)
    fill = tuple(round(255 * value) for value in FILL)
    hparams = {"img_mean": fill, "interpolation": Image.Resampling.BILINEAR}
    operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
    image = photo()
    expected = torch.from_numpy(np.asarray(operation(pil(image))).copy()).permute(2, 0, 1) / 255
    signed = torch.full((1, 1, 1, 1), sign * magnitude / 10)
    ours = OPERATIONS[name](image, signed, torch.tensor(FILL).view(-1, 1, 1))[0]
    error = (ours - expected).abs()
    assert error.median() <= 1.1 / 255
    assert error.mean() < 2.5 / 255
    assert ours.min() >= 0
    assert ours.max() <= 1


def test_list_is_timms() -> None:
    """Oracle: timm's list of operations that grow with the magnitude, and its default number and probability."""
    assert list(OPERATIONS) == auto_augment._RAND_INCREASING_TRANSFORMS
    transform = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 1})
    assert transform.num_layers == LAYERS
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in transform.ops} == {
        (randaugment.PROBABILITY, 9, randaugment.DEVIATION)
    }


def test_magnitude_0_is_the_identity() -> None:
    """Oracle: the images themselves."""
    images = torch.rand(6, 3, 8, 8)
    assert torch.equal(rand_augment(images, 0.0, FILL, drawn(6)), images)


def test_images_are_independent_and_left_alone() -> None:
    """Oracle: each image alone with its own rows of the draws; the batch given stays as it was."""
    images = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    before, draw = images.clone(), drawn(60)
    whole = rand_augment(images, 9.0, FILL, draw)
    assert torch.equal(images, before)
    for i in range(60):
        alone = rand_augment(images[i : i + 1], 9.0, FILL, lambda name, *shape, i=i: draw(name)[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1e-6)


def test_amounts_stay_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: shares in [-1, 1] for the largest magnitude and the most extreme draws.

    Binomial tests of the signs, of how many layers do something, and of each operation's frequency.
    """
    counts: dict[str, int] = {}
    seen: list[Tensor] = []

    def spy(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def operation(images: Tensor, signed: Tensor, fill: Tensor) -> Tensor:
            counts[name] = counts.get(name, 0) + len(images)
            seen.append(signed.flatten())
            return images

        return operation

    monkeypatch.setattr(randaugment, "OPERATIONS", {name: spy(name) for name in OPERATIONS})
    draw = drawn(3000)
    draw("magnitude")[:20, 0], draw("magnitude")[20:40, 0] = 0.0, 1 - 2**-24
    rand_augment(torch.rand(3000, 3, 2, 2), 10.0, FILL, draw)
    shares = torch.cat(seen)
    assert shares.abs().max() <= 1
    assert binomtest(int((shares > 0).sum()), int((shares != 0).sum())).pvalue > 1e-3
    assert set(counts) == set(OPERATIONS)
    assert binomtest(sum(counts.values()), 6000).pvalue > 1e-3
    assert all(binomtest(count, 6000, 0.5 / 15).pvalue > 1e-4 for count in counts.values())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The amounts that the only operation gets, one tensor a layer."""
    amounts: list[Tensor] = []
    spy = {"spy": lambda images, signed, fill: amounts.append(signed.flatten()) or images}
    monkeypatch.setattr(randaugment, "OPERATIONS", spy)
    return amounts


def test_magnitude_is_normal_around_its_mean(seen: list[Tensor]) -> None:
    """Oracle: mean and deviation of the magnitudes that operations see, of a magnitude far from the ends."""
    rand_augment(torch.rand(4000, 3, 2, 2), 5.0, FILL, drawn(4000))
    magnitudes = 10 * torch.cat(seen).abs()
    assert magnitudes.mean() == pytest.approx(5.0, abs=0.03)
    assert magnitudes.std() == pytest.approx(0.5, abs=0.03)


def test_each_layer_has_its_own_draws(seen: list[Tensor]) -> None:
    """Oracle: by hand: the first operation of every image shrinks and the second grows, where the signs say so."""
    draw = drawn(50)
    draw("sign")[:, 0], draw("sign")[:, 1] = 0.0, 0.9
    rand_augment(torch.rand(50, 3, 2, 2), 9.0, FILL, draw)
    first, second = seen
    assert (first < 0).all()
    assert (second > 0).all()
