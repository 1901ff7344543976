"""MAE against lightly, and against a mask by hand."""

from functools import partial

import pytest
import torch
from lightly.models.utils import normalize_mean_var, patchify
from nets16 import BATCH, resnet, views
from test_nets_decoder import LightlyAutoencoder

from baselines.mae import MAE
from benchmark.errors import ConfigError
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, ViT
from benchmark.randomness import Draws

DECODER = partial(PixelDecoder, width=16, depth=2, heads=2)


def mae(ratio: float = 0.75, encoder: Encoder | None = None) -> MAE:
    encoder = encoder or ViT(16, name="vit", width=24, depth=2, heads=3, patch=4)
    torch.manual_seed(1)
    return MAE(encoder, decoder=DECODER, mask_ratio=ratio)


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 4), (0.5, 8), (0.1, 14), (0.9375, 1)])
def test_loss_equals_lightly(ratio: float, count: int) -> None:
    """Oracle: lightly's encoder, decoder, patches and normalised targets, written by others, on the drawn ids."""
    torch.manual_seed(0)
    method = mae(ratio).double()
    view = views(dtype=torch.float64)[0]
    visible = Draws(0, 7, BATCH).rows(("mask", 0), 16).argsort(1)[:, :count]
    masked = torch.ones(BATCH, 16, dtype=torch.bool).scatter(1, visible, False)
    _, predicted = LightlyAutoencoder(method.encoder, method.restore.decoder)(view, visible)
    expected = (predicted - normalize_mean_var(patchify(view, 4))).square()[masked].mean()
    torch.testing.assert_close(method([view], Draws(0, 7, BATCH)).loss, expected, rtol=1e-10, atol=0)


def test_loss_is_the_mean_over_masked_patches() -> None:
    """Oracle: (n - 1) / n for a decoder that predicts 0, n = 48 pixels; a flat image leaves 0."""
    method = mae()
    torch.nn.init.zeros_(method.restore.decoder.predict.weight)
    view = views(dtype=torch.float32)[0]
    assert float(method([view], Draws(0, 0, BATCH)).loss.detach()) == pytest.approx(47 / 48, rel=1e-4)
    assert float(method([torch.full_like(view, 0.3)], Draws(0, 0, BATCH)).loss.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("ratio", "effective"), [(0.75, 12 / 16), (0.8, 13 / 16)])
def test_effective_ratio_is_recorded(ratio: float, effective: float) -> None:
    """Oracle: ceil(16 ratio) masked patches, by hand."""
    drawn = views(dtype=torch.float32)[:1], Draws(0, 0, BATCH)
    assert float(mae(ratio=ratio)(*drawn).logs["mask_ratio"]) == effective


def test_convolutional_encoders_are_refused() -> None:
    """Oracle: the message names the encoder, what it lacks, and both ways out."""
    with pytest.raises(
        ConfigError, match=r"subset of patches; got resnet18.*Use a ViT .*or a method without a decoder"
    ):
        mae(encoder=resnet())


@pytest.mark.parametrize(
    ("ratio", "message"), [(0.0, "masks no patch"), (1.0, "leaves no visible"), (0.95, "leaves no visible")]
)
def test_ratios_without_a_loss_or_without_input_are_refused(ratio: float, message: str) -> None:
    """Oracle: the message names the setting; with nothing masked the loss would be 0 for any weights."""
    with pytest.raises(ConfigError, match=rf"MAE\.mask_ratio = \S+ {message}"):
        mae(ratio)
