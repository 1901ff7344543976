"""Feature extraction: eval mode, float32, independent of batches, in the order of the images."""

from collections.abc import Iterator

import pytest
import torch
from tiny import TinyEncoder
from torch import Tensor

from benchmark.evals.features import extract, raw_pixels
from benchmark.nets.encoders import Encoder, ResNet, ViT

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (21, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalise(images: Tensor) -> Tensor:
    return (images - 0.4) / 0.3


@pytest.fixture(params=["vit", "resnet", "batch norm"], scope="module")
def encoder(request: pytest.FixtureRequest) -> Iterator[Encoder]:
    torch.manual_seed(0)
    if request.param == "vit":
        yield ViT(16, name="tiny", width=16, depth=2, heads=2, patch=4).train()
    elif request.param == "resnet":
        yield ResNet(16, name="resnet18").train()
    else:
        yield TinyEncoder().train()


def test_features_do_not_depend_on_the_batch(encoder: Encoder) -> None:
    """Oracle: the features of each image alone; a batch norm in train mode or a shuffle would differ."""
    whole = extract(encoder, IMAGES, normalise, CPU)
    for size in (1, 8, 21):
        for name, features in extract(encoder, IMAGES, normalise, CPU, batch_size=size).items():
            torch.testing.assert_close(features, whole[name], rtol=1e-4, atol=1e-5)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(1))
    for name, features in extract(encoder, IMAGES[order], normalise, CPU).items():
        torch.testing.assert_close(features, whole[name][order], rtol=1e-4, atol=1e-5)


def test_extraction_leaves_no_trace(encoder: Encoder) -> None:
    """Oracle: every parameter and buffer bit by bit, batch counts included, no gradient, and the mode of before."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = extract(encoder, IMAGES, normalise, CPU)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert not any(value.requires_grad for value in features.values())
    assert all(value.dtype == torch.float32 for value in features.values())


def test_vit_features_are_token_and_mean() -> None:
    """Oracle: the encoder's own output on normalised images in [0, 1]."""
    torch.manual_seed(0)
    vit = ViT(16, name="tiny", width=16, depth=1, heads=2, patch=4).eval()
    with torch.no_grad():
        expected = vit(normalise(IMAGES.float() / 255))
    found = extract(vit, IMAGES, normalise, CPU)
    assert expected.tokens is not None
    torch.testing.assert_close(found["cls"], expected.pooled)
    torch.testing.assert_close(found["mean"], expected.tokens.mean(1))
    torch.testing.assert_close(found["both"], torch.cat([expected.pooled, expected.tokens.mean(1)], 1))
    assert not vit.training


def test_raw_pixels_are_the_pixels() -> None:
    """Oracle: uint8 / 255 in memory order."""
    (pixels,) = raw_pixels(IMAGES).values()
    assert pixels.shape == (21, 768)
    assert pixels[3, 300].item() == pytest.approx(IMAGES[3].flatten()[300].item() / 255)
