"""Restoration against the reconstruction loss on patches cut and masked by hand."""

from functools import partial
from typing import Any

import pytest
import torch
from nets16 import BATCH, resnet, views, vit
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.restoration import Restoration

DECODER = partial(PixelDecoder, width=16, depth=1, heads=2)


class Fixed(nn.Module):
    """A decoder that predicts given patches and counts its calls."""

    def __init__(self, patches: Tensor) -> None:
        super().__init__()
        self.patches, self.calls = patches, 0

    def forward(self, features: Features) -> Tensor:
        self.calls += 1
        return self.patches


def by_hand(view: Tensor, predicted: Tensor, visible: Tensor, settings: dict[str, Any]) -> float:
    errors: dict[bool, list[Tensor]] = {True: [], False: []}
    for image, patches, seen in zip(view, predicted, visible.tolist(), strict=True):
        for token in range(16):
            row, column = divmod(token, 4)
            target = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0).flatten()
            if settings["standardised"]:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            error = patches[token] - target
            error = error.square() if settings["kind"] == "l2" else error.abs()
            errors[token not in seen].append(error.mean() if settings["reduction"] == "mean" else error.sum())
    masked, seen = (float(torch.stack(errors[key]).mean()) for key in (True, False))
    return float(settings["masked_weight"] * masked + settings["visible_weight"] * seen)


@pytest.mark.parametrize(
    "settings",
    [
        {"masked_weight": 1.0, "visible_weight": 0.0},
        {"masked_weight": 7.0, "visible_weight": 2.0},
        {"masked_weight": 0.0, "visible_weight": 3.0},
        {"masked_weight": 7.0, "visible_weight": 2.0, "kind": "l1", "reduction": "sum", "standardised": False},
    ],
)
def test_error_equals_patches_by_hand(settings: dict[str, Any]) -> None:
    """Oracle: each patch cut from the image and scored by itself; every setting reaches the loss."""
    predicted = torch.randn(BATCH, 16, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    restore = Restoration(vit(), lambda encoder: Fixed(predicted), **settings)
    visible = torch.rand(BATCH, 16, generator=torch.Generator().manual_seed(6)).argsort(1)[:, :5]
    view = views()[0]
    defaults = {"visible_weight": 0.0, "kind": "l2", "reduction": "mean", "standardised": True}
    expected = by_hand(view, predicted, visible, defaults | settings)
    assert float(restore(view, Features(view.mean(), None, visible))) == pytest.approx(expected, rel=1e-10)


def test_defaults_are_squares_of_standardised_patches() -> None:
    """Oracle: the paper's normalised target predicted exactly leaves 0, and zeros leave (n - 1) / n with n = 48."""
    view = views()[0]
    cells = view.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(BATCH, 16, 48)
    exact = (cells - cells.mean(-1, keepdim=True)) / (cells.var(-1, keepdim=True) + 1e-6).sqrt()
    visible = torch.arange(4).expand(BATCH, -1)
    for predicted, expected in ((exact, 0.0), (torch.zeros_like(exact), 47 / 48)):
        restore = Restoration(vit(), lambda encoder, patches=predicted: Fixed(patches), masked_weight=1.0)
        assert float(restore(view, Features(view, None, visible))) == pytest.approx(expected, abs=1e-5)


def test_what_the_encoder_saw_is_not_masked() -> None:
    """Oracle: a perfect prediction of masked patches alone leaves 0 for the masked weight alone."""
    view = views()[0]
    visible = torch.tensor([3, 8]).expand(BATCH, -1)
    cells = view.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(BATCH, 16, 48).clone()
    cells[:, [3, 8]] += 100
    for weights, expected in (((1.0, 0.0), 0.0), ((0.0, 1.0), 100.0**2)):
        restore = Restoration(
            vit(), lambda encoder: Fixed(cells), masked_weight=weights[0], visible_weight=weights[1], standardised=False
        )
        assert float(restore(view, Features(view, None, visible))) == pytest.approx(expected, abs=1e-9)


def test_no_weight_no_decoding() -> None:
    """Oracle: 0 in the type of the view, and a decoder that was never called."""
    restore = Restoration(vit(), lambda encoder: Fixed(torch.zeros(1)), masked_weight=0.0)
    loss = restore(views()[0], Features(views()[0]))
    assert (float(loss), loss.shape, loss.dtype, restore.decoder.calls) == (0, (), torch.float64, 0)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 0.9375])
def test_ratios_with_a_visible_patch_pass(ratio: float) -> None:
    """Oracle: the ratio itself; of 16 patches 15/16 leave one."""
    assert Restoration(vit(), DECODER, masked_weight=1.0).check(ratio, "X.ratio") == ratio


@pytest.mark.parametrize("ratio", [-0.1, 0.938, 0.95, 1.0, 1.5, float("nan")])
def test_other_ratios_are_refused(ratio: float) -> None:
    """Oracle: the message names the parameter; the largest ratio that it offers is accepted."""
    restore = Restoration(vit(), DECODER, masked_weight=1.0)
    with pytest.raises(ConfigError, match=r"X\.ratio = .* leaves no visible patch of 16") as refusal:
        restore.check(ratio, "X.ratio")
    offered = float(str(refusal.value).rstrip(".").split()[-1])
    assert restore.check(offered, "X.ratio") == pytest.approx(15 / 16, abs=1e-3)


def test_convolutional_encoders_are_refused() -> None:
    """Oracle: the message says what to use instead; the decoder is not what refuses."""

    def decoder(encoder: Encoder) -> nn.Module:
        return nn.Identity()

    with pytest.raises(ConfigError, match=r"resnet18.* Use a ViT .*without a decoder"):
        Restoration(resnet(), decoder, masked_weight=1.0)
