"""Feature extraction: eval mode, float32, independent of batches, in the order of the images."""

from collections.abc import Iterator

import pytest
import torch
from tiny import TinyEncoder
from torch import Tensor, nn

from benchmark.evals.features import extract
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.resnet import ResNet

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (21, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def prepare(images: Tensor, ids: Tensor) -> Tensor:
    """Normalise, and tell each image by its id: a shuffle between the two would show."""
    return (images.float() / 255 - 0.4) / 0.3 + ids[:, None, None, None] / 50


@pytest.fixture(params=["vit", "resnet", "batch norm"], scope="module")
def encoder(request: pytest.FixtureRequest) -> Iterator[Encoder]:
    torch.manual_seed(0)
    if request.param == "vit":
        yield ViT(16, name="tiny", width=16, depth=2, heads=2, patch=4).train()
    elif request.param == "resnet":
        yield ResNet(16, name="resnet18", base_width=8).train()
    else:
        yield TinyEncoder().train()


def test_features_do_not_depend_on_the_batch(encoder: Encoder) -> None:
    """Oracle: the features of each image alone; a batch norm in train mode or a shuffle would differ."""
    whole = extract(encoder, IMAGES, prepare, CPU)
    for size in (1, 8, 21):
        for name, features in extract(encoder, IMAGES, prepare, CPU, batch_size=size).items():
            torch.testing.assert_close(features, whole[name], rtol=1e-4, atol=1e-5)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(1))
    for name, features in extract(encoder, IMAGES[order], lambda images, ids: prepare(images, order[ids]), CPU).items():
        torch.testing.assert_close(features, whole[name][order], rtol=1e-4, atol=1e-5)


def test_extraction_leaves_no_trace(encoder: Encoder) -> None:
    """Oracle: every parameter and buffer bit by bit, batch counts included, no gradient, and the mode of before."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = extract(encoder, IMAGES, prepare, CPU)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert not any(value.requires_grad for value in features.values())
    assert all(value.dtype == torch.float32 for value in features.values())


def test_layers_are_joined_feature_by_feature() -> None:
    """Oracle: what the encoder returns for its last two layers; of one layer, what it returns by itself."""
    torch.manual_seed(0)
    vit = ViT(16, name="tiny", width=16, depth=3, heads=2, patch=4).eval()
    with torch.no_grad():
        first, last = vit.last(prepare(IMAGES, torch.arange(21)), 2)
    features = extract(vit, IMAGES, prepare, CPU, layers=2)
    assert first.tokens is not None
    assert last.tokens is not None
    means = [first.tokens.mean(1), last.tokens.mean(1)]
    torch.testing.assert_close(features["cls"], torch.cat([first.pooled, last.pooled], dim=1))
    torch.testing.assert_close(features["mean"], torch.cat(means, dim=1))
    torch.testing.assert_close(features["both"], torch.cat([first.pooled, means[0], last.pooled, means[1]], dim=1))
    resnet = ResNet(16, name="resnet18", base_width=8).eval()
    assert extract(resnet, IMAGES, prepare, CPU, layers=2)["pooled"].shape == (21, 32 + 64)


def test_vit_features_are_token_and_mean() -> None:
    """Oracle: the encoder's own output on normalised images in [0, 1]."""
    torch.manual_seed(0)
    vit = ViT(16, name="tiny", width=16, depth=1, heads=2, patch=4).eval()
    with torch.no_grad():
        expected = vit(prepare(IMAGES, torch.arange(21)))
    features = extract(vit, IMAGES, prepare, CPU)
    assert expected.tokens is not None
    torch.testing.assert_close(features["cls"], expected.pooled)
    torch.testing.assert_close(features["mean"], expected.tokens.mean(1))
    torch.testing.assert_close(features["both"], torch.cat([expected.pooled, expected.tokens.mean(1)], 1))
    assert not vit.training


def test_projections_are_the_head_on_the_pooled_features() -> None:
    """Oracle: the head in eval mode on the features of the same call; its own mode and buffers stay."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(16, 5), nn.BatchNorm1d(5)).train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    features = extract(TinyEncoder(), IMAGES, prepare, CPU, head, batch_size=8)
    assert head.training
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    torch.testing.assert_close(features["projection"], head.eval()(features["pooled"]))
