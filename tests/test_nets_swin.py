"""Swin as an encoder against timm, loops over images and places, and sizes and FLOPs by hand."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
from nets16 import views
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from baselines.mae import MAE
from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.evals.features import extract
from benchmark.nets.attention import set_fused
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.swin import Swin

MICRO: dict[str, Any] = {
    "name": "swin", "width": 32, "depths": (2, 2, 2), "heads": (1, 2, 4), "window": 4, "patch": 4, "split": 2
}  # fmt: skip


def swin(size: int = 16, **changes: Any) -> Swin:
    """A Swin of 32 px and 16 tokens of 8 px, or of 16 px and 4 tokens; its biases are not at their initial zeros."""
    torch.manual_seed(0)
    encoder = Swin(size, **(MICRO | changes))
    for parameter in encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return encoder.eval()


def images(size: int = 16) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("size", "tokens"), [(16, 4), (32, 16), (64, 64)])
def test_swin_equals_timm(size: int, tokens: int) -> None:
    """Oracle: timm's own network, built by name from `spec`, with our weights loaded strictly; its map in raster order.

    On 64 px windows are shifted in the first two stages, on 16 px in the first alone.
    """
    encoder = swin(size)
    theirs = timm.create_model(encoder.spec.architecture, **encoder.spec.arguments).eval()
    theirs.load_state_dict(encoder.net.state_dict(), strict=True)
    features, places = encoder(images(size)), theirs.forward_features(images(size))
    torch.testing.assert_close(features.pooled, theirs(images(size)), rtol=0, atol=1e-6)
    assert features.tokens.shape == (3, tokens, encoder.width)
    assert encoder.patch_grid(dropped=False) == (tokens, 8)
    side = round(tokens**0.5)
    for i in range(tokens):
        torch.testing.assert_close(features.tokens[:, i], places[:, i // side, i % side], rtol=0, atol=1e-6)
    torch.testing.assert_close(features.pooled, features.tokens.mean(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [32, 48])
def test_a_resized_swin_keeps_its_windows(size: int) -> None:
    """Oracle: a network that is built for the new size and takes the same weights strictly, also with masked tokens."""
    small = swin(64)
    built = Swin(size, **MICRO).eval()
    built.load_state_dict(small.state_dict(), strict=True)
    small.resize(size)
    tokens = (size // 8) ** 2
    assert (small.n_tokens, small.positions) == (built.n_tokens, None) == (tokens, None)
    mask = torch.arange(3 * tokens).reshape(3, tokens) % 3 == 0
    for fill in (None, (mask, torch.ones(MICRO["width"]))):
        torch.testing.assert_close(small(images(size), fill=fill), built(images(size), fill=fill), rtol=0, atol=0)


def test_windows_that_grow_are_recorded() -> None:
    """Oracle: 2 x 2 places of the last map are one window at 16 px and four windows of 4 x 4 at 64 px."""
    encoder = swin(16)
    encoder.resize(64)
    assert {block.window_size for stage in encoder.net.layers for block in stage.blocks} == {(4, 4)}
    assert encoder.positions == "8 x 8 to 32 x 32"


def test_fill_replaces_every_patch_of_a_masked_square() -> None:
    """Oracle: timm's layers after each masked square, in loops, had its embedded patches exchanged."""
    encoder = swin(32)
    mask = (torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    token = torch.randn(32, requires_grad=True)
    features = encoder(images(32), fill=(mask, token))
    embedded = encoder.net.patch_embed(images(32)).clone()
    for image, square in mask.nonzero().tolist():
        row, column = 4 * (square // 4), 4 * (square % 4)
        embedded[image, row : row + 4, column : column + 4] = token
    expected = encoder.net.norm(encoder.net.layers(embedded)).flatten(1, 2)
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=1e-6)
    features.pooled.sum().backward()
    assert token.grad is not None
    assert token.grad.abs().sum() > 0


def test_masked_pixels_do_not_matter() -> None:
    """Oracle: an image with noise in its masked squares of 8 px has the same features; noise beside them has not."""
    encoder = swin(32)
    mask = torch.zeros(3, 16)
    mask[:, 6] = 1  # rows 8 to 15, columns 16 to 23
    view, fill = images(32), (mask, torch.randn(32))
    inside, beside = view.clone(), view.clone()
    inside[:, :, 8:16, 16:24] = 5.0
    beside[:, :, 8:16, 15] = 5.0
    assert torch.equal(encoder(inside, fill=fill).tokens, encoder(view, fill=fill).tokens)
    assert not torch.equal(encoder(beside, fill=fill).tokens, encoder(view, fill=fill).tokens)


def test_training_draws_nothing() -> None:
    """Oracle: the same features again, in train mode, and those of eval mode: timm by itself leaves branches out."""
    encoder = swin()
    expected = encoder(images()).pooled
    assert torch.equal(encoder.train()(images()).pooled, expected)


def flops(size: int, **changes: Any) -> int:
    with torch.device("meta"):
        encoder = Swin(size, **(MICRO | changes))
    set_fused(encoder, False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops()


def by_hand(side: int, patch: int, width: int, depths: tuple[int, ...], window: int) -> int:
    """Count a forward pass of one image whose first map has `side` x `side` patches.

    A block has 12 width^2 multiply-adds a place in linear layers, and in attention 2 width for each place that a
    window has. Merging passes 4 widths to 2.
    """
    total = 2 * side**2 * 3 * patch**2 * width
    for stage, depth in enumerate(depths):
        if stage:
            side, width = side // 2, 2 * width
            total += 2 * side**2 * (2 * width) * width
        total += depth * side**2 * (2 * 12 * width**2 + 2 * 2 * width * min(window, side) ** 2)
    return total


def test_a_forward_pass_costs_its_closed_form() -> None:
    """Oracle: the sum above; for Swin-T it is 4.49 GMACs, where the paper's Table 1 has 4.5 G, and 27.5 M weights."""
    assert flops(32) == by_hand(16, 2, 32, (2, 2, 2), 4) == 41_877_504
    assert flops(16) == by_hand(8, 2, 32, (2, 2, 2), 4)
    tiny = {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7, "patch": 16, "split": 4}
    assert flops(224, **tiny) == by_hand(56, 4, 96, (2, 2, 6, 2), 7) == 2 * 4_489_798_656
    with torch.device("meta"):
        assert sum(p.numel() for p in Swin(224, **(MICRO | tiny)).parameters()) == 28_288_354 - 769_000


def test_it_starts_from_xavier_uniform_matrices() -> None:
    """Oracle: a uniform law on +-sqrt(6 / (rows + columns)) for each matrix alone, of attention as three; no biases."""
    torch.manual_seed(0)
    net = Swin(32, **MICRO).net
    matrices = [net.patch_embed.proj.weight.detach().view(32, 12)]
    for name, weight in net.layers.named_parameters():
        if weight.ndim == 2 and "table" not in name:
            matrices += weight.detach().split(len(weight) // 3) if "qkv" in name else [weight.detach()]
        elif name.endswith("bias") and "norm" not in name:
            assert weight.count_nonzero() == 0, name
    assert len(matrices) == 1 + 6 * 6 + 2
    for matrix in matrices:
        bound = (6 / sum(matrix.shape)) ** 0.5
        assert 0.95 * bound < matrix.abs().max() <= bound
        assert matrix.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_features_are_the_mean_of_the_tokens() -> None:
    """Oracle: the tokens of each image, averaged; of two stages, the average of the second map is joined before."""
    encoder = swin(32)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    of_images = partial(extract, encoder, pixels, lambda batch, _: batch / 255, torch.device("cpu"))
    with torch.no_grad():
        expected = encoder(pixels / 255).tokens.mean(1)
        before = encoder.net.layers[:2](encoder.net.patch_embed(pixels / 255)).mean((1, 2))
    features = of_images()
    assert set(features) == {"mean"}
    torch.testing.assert_close(features["mean"], expected)
    torch.testing.assert_close(of_images(layers=2)["mean"], torch.cat([before, expected], dim=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": (1, 2)}, r"Swin.depths = \(2, 2, 2\) and Swin.heads = \(1, 2\)"),
        ({"depths": (), "heads": ()}, r"Swin.depths = \(\)"),
        ({"heads": (1, 3, 4)}, r"Swin.width = 32.* multiple of Swin.heads = \(1, 3, 4\)"),
        ({"split": 3}, r"Swin.split = 3 does not divide Swin.patch = 4"),
        ({"split": 1}, r"tokens of 16 px, which do not divide the image side 24"),
    ],
)
def test_impossible_swins_are_refused(changes: dict[str, Any], message: str) -> None:
    """Oracle: the message names the settings and what they may be."""
    with pytest.raises(ConfigError, match=message):
        swin(24, **changes)


def test_tokens_cannot_be_dropped() -> None:
    """Oracle: a ConfigError that says what to use instead, when a decoder is built and when tokens are named."""
    with pytest.raises(ConfigError, match=r"can replace masked tokens, but not drop them\. Use a ViT"):
        swin()(views(dtype=torch.float32)[0], torch.zeros(8, 2, dtype=torch.long))
    decoder = partial(PixelDecoder, width=16, depth=1, heads=2)
    with pytest.raises(ConfigError, match="encode a subset of patches; got swin_patch2"):
        MAE(swin(), decoder=decoder, mask_ratio=0.75)


def test_shipped_sizes() -> None:
    """Oracle: tokens of 8 px on CIFAR-10 and of 24 px on Imagenette, 16 of each, where a ViT has 64."""
    for data, size, patch in (("cifar10", 32, 8), ("imagenette96", 96, 24), ("digits", 16, 8)):
        loaded = configuration.load(["gin/simclr.gin", f"gin/protocol/{data}_swin_micro.gin"])
        with torch.device("meta"):
            encoder = configuration.build(loaded).encoder(size)
        assert encoder.patch_grid(dropped=False) == ((size // patch) ** 2, patch)
