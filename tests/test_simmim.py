"""SimMIM against the authors' formula on whole images, on a ViT and on a Swin, and its refusals."""

from typing import Any

import pytest
import torch
from nets16 import BATCH, resnet, untrained, views, vit
from torch import Tensor

from baselines.simmim import SimMIM
from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder
from benchmark.nets.swin import Swin
from benchmark.randomness import Draws


def swin() -> Swin:
    torch.manual_seed(0)
    return Swin(16, name="swin", width=8, depths=(2, 1), heads=(1, 2), window=2, patch=4, split=2)


def simmim(encoder: Encoder | None = None, **changes: Any) -> SimMIM:
    torch.manual_seed(1)
    return SimMIM(encoder or vit(), **({"mask_ratio": 0.6, "mask_unit": 1, "patch": 4} | changes))


def mask_of_pixels(draws: Draws, squares: int) -> Tensor:
    """Return `(batch, 16, 16)`, 1 where a pixel is in one of the first 0.6 of the squares drawn, rounded up."""
    order = draws.rows("mask", squares, squares).flatten(1).argsort(1)
    masked = torch.zeros(BATCH, squares**2).scatter(1, order[:, : -(-(squares**2) * 6 // 10)], 1.0)
    side = 16 // squares
    return masked.view(-1, squares, squares).repeat_interleave(side, 1).repeat_interleave(side, 2)


@pytest.mark.parametrize(("build", "unit", "count"), [(vit, 1, 10), (vit, 2, 3), (swin, 1, 10), (swin, 2, 3)])
def test_loss_equals_the_authors_formula(build: Any, unit: int, count: int) -> None:
    """Oracle: sum(|x - x_rec| * mask) / (sum(mask) + 1e-5) / 3 over pixels, the image restored place by place.

    Units of 1 and 2 patches of 4 px make 16 and 4 squares, of which 10 and 3 are masked.
    """
    method, view, draws = simmim(build(), mask_unit=unit).double(), views()[0], Draws(0, 7, BATCH)
    mask = mask_of_pixels(draws, 4 // unit).double()
    assert float(mask.sum()) == BATCH * count * (4 * unit) ** 2
    places = mask[:, 2::4, 2::4].flatten(1)
    tokens = method.encoder(view, fill=(places, method.mask_token)).tokens
    restored = torch.empty_like(view)
    for place in range(16):
        row, column = 4 * (place // 4), 4 * (place % 4)
        pixels = tokens[:, place] @ method.predict.weight.T + method.predict.bias
        restored[:, :, row : row + 4, column : column + 4] = pixels.view(-1, 4, 4, 3).permute(0, 3, 1, 2)
    expected = ((view - restored).abs() * mask[:, None]).sum() / (mask.sum() + 1e-5) / 3
    step = method([view], draws)
    torch.testing.assert_close(step.loss, expected, rtol=1e-7, atol=0)
    assert float(step.logs["mask_ratio"]) == pytest.approx(float(mask.mean()))


@pytest.mark.parametrize("build", [vit, swin])
def test_every_weight_learns(build: Any) -> None:
    """Oracle: gradients of a step."""
    assert untrained(simmim(build())) == set()


@pytest.mark.parametrize("build", [vit, swin])
def test_visible_pixels_enter_no_target(build: Any) -> None:
    """Oracle: with all weights of the prediction 0, the mean of the masked pixels' absolute values."""
    method, view, draws = simmim(build()), views(dtype=torch.float32)[0], Draws(0, 0, BATCH)
    for parameter in method.predict.parameters():
        torch.nn.init.zeros_(parameter)
    masked = view.abs().mean(1)[mask_of_pixels(draws, 4).bool()]
    torch.testing.assert_close(method([view], draws).loss, masked.mean())


def test_pictures_restore_masked_squares_alone() -> None:
    """Oracle: the view outside of the masked squares, hidden within them; the prediction in their place."""
    method, view, draws = simmim(swin()), views(dtype=torch.float32)[0], Draws(0, 0, BATCH)
    pictures = method.pictures([view], draws)
    masked = mask_of_pixels(draws, 4).bool()[:, None].expand_as(view)
    assert torch.equal(pictures["reconstructions/original"], view)
    assert torch.equal(pictures["reconstructions/visible"].isnan(), masked)
    restored = pictures["reconstructions/restored"]
    assert torch.equal(restored[~masked], view[~masked])
    error = (restored - view).abs()[masked].mean()
    torch.testing.assert_close(error, method([view], draws).loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 0.0}, r"SimMIM.mask_ratio = 0.0 must mask at least one of the 16 squares"),
        ({"mask_ratio": 1.0}, r"SimMIM.mask_ratio = 1.0 .* above 0 and at most 0.938"),
        ({"mask_unit": 3}, r"SimMIM.mask_unit = 3 and SimMIM.patch = 4 make squares of 12 px.*side 16"),
        ({"patch": 2}, r"squares of 2 px. They must consist of tokens of 4 px"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    """Oracle: the message names the settings and what they may be."""
    with pytest.raises(ConfigError, match=message):
        simmim(**changes)


def test_convolutional_encoders_are_refused() -> None:
    """Oracle: the message names the encoder and what to use instead."""
    with pytest.raises(ConfigError, match=r"got resnet18.*Use a ViT"):
        simmim(resnet())
