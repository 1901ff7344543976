"""Restoration against the reconstruction loss on patches cut and masked by hand."""

from functools import partial
from typing import Any

import pytest
import torch
from nets16 import BATCH, views, vit
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Features
from benchmark.nets.reconstruction import Restoration

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


def test_no_weight_no_decoding() -> None:
    """Oracle: 0 in the type of the view, and a decoder that was never called."""
    restore = Restoration(vit(), lambda encoder: Fixed(torch.zeros(1)), masked_weight=0.0)
    loss = restore(views()[0], Features(views()[0]))
    assert (float(loss), loss.shape, loss.dtype, restore.decoder.calls) == (0, (), torch.float64, 0)


def test_ratios_that_leave_no_patch_are_refused() -> None:
    """Oracle: of 16 patches 15/16 leave one; the message names the parameter and a ratio that is accepted."""
    restore = Restoration(vit(), DECODER, masked_weight=1.0)
    assert [restore.check(ratio, "X.ratio") for ratio in (0.0, 0.5, 0.9375)] == [0.0, 0.5, 0.9375]
    for ratio in (-0.1, 0.938, 1.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"X\.ratio = .* no visible patch of 16") as refusal:
            restore.check(ratio, "X.ratio")
        offered = float(str(refusal.value).rstrip(".").split()[-1])
        assert restore.check(offered, "X.ratio") == pytest.approx(15 / 16, abs=1e-3)
