"""Encoders against timm, lightly, a naive attention, and published sizes."""

import math

import pytest
import timm
import torch
import torchvision
from lightly.models.utils import get_2d_sine_cosine_positional_embedding
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.encoders import ViT
from benchmark.nets.initial import sincos_positions
from benchmark.nets.resnet import ResNet
from benchmark.nets.timm_net import Timm


def vit(seed: int = 0) -> ViT:
    """A float64 ViT of 16 tokens whose biases and norms are not at their initial zeros and ones."""
    torch.manual_seed(seed)
    encoder = ViT(16, name="vit", width=24, depth=2, heads=3, patch=4).double()
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def images(batch: int = 3, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def naive(
    encoder: ViT, view: Tensor, allowed: Tensor, mask: Tensor | None = None, token: Tensor | None = None
) -> Tensor:
    """Encode one image with loops over heads; `allowed` (1 + tokens,) says which keys attention may read."""
    net, width = encoder.net, encoder.width
    rows = [view[:, r : r + 4, c : c + 4].flatten() for r in range(0, 16, 4) for c in range(0, 16, 4)]
    x = torch.stack(rows) @ net.patch_embed.proj.weight.reshape(width, -1).T + net.patch_embed.proj.bias
    if mask is not None:
        x = torch.stack([token if hidden else row for row, hidden in zip(x, mask, strict=True)])
    x = torch.cat([net.cls_token[0], x]) + net.pos_embed[0]

    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias

    for block in net.blocks:
        y, heads = norm(block.norm1, x), []
        q, k, v = (y @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=1)
        for part in torch.arange(width).chunk(3):
            scores = q[:, part] @ k[:, part].T / 8**0.5
            scores[:, ~allowed] = -torch.inf
            heads.append(scores.softmax(1) @ v[:, part])
        x = x + torch.cat(heads, dim=1) @ block.attn.proj.weight.T + block.attn.proj.bias
        y = norm(block.norm2, x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
        x = x + y @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    return norm(net.norm, x)


@pytest.mark.parametrize(("width", "side"), [(24, 4), (192, 8), (64, 14)])
def test_positions_equal_lightly(width: int, side: int) -> None:
    """Oracle: lightly's table, written by others."""
    expected = torch.as_tensor(get_2d_sine_cosine_positional_embedding(width, side, cls_token=True)).float()
    torch.testing.assert_close(sincos_positions(width, side)[0], expected, rtol=0, atol=1e-6)


def test_vit_equals_a_naive_vit() -> None:
    """Oracle: the transformer in loops, from patches to the final norm."""
    encoder, everything = vit(), torch.ones(17, dtype=torch.bool)
    features = encoder(images())
    expected = torch.stack([naive(encoder, image, everything) for image in images()])
    torch.testing.assert_close(features.pooled, expected[:, 0], rtol=0, atol=1e-11)
    torch.testing.assert_close(features.tokens, expected[:, 1:], rtol=0, atol=1e-11)
    assert features.visible is None


@pytest.mark.parametrize(("size", "side"), [(8, 2), (12, 3), (24, 6)])
def test_views_of_other_sizes_have_their_own_tokens_and_positions(size: int, side: int) -> None:
    """Oracle: an encoder of that size with the same weights, whose positions are scipy's resampling by Keys' cubic with
    a = -3/4, written as sums; a view of the usual size keeps the fixed positions."""
    encoder, view = vit(), images(size=size)
    other = ViT(size, name="vit", width=24, depth=2, heads=3, patch=4).double()
    other.load_state_dict({k: v for k, v in encoder.state_dict().items() if "pos_embed" not in k}, strict=False)
    grid = encoder.net.pos_embed[0, 1:].view(4, 4, 24)
    for axis in (0, 1):
        grid = torch.stack([resampled(grid, axis, (at + 0.5) * 4 / side - 0.5) for at in range(side)], dim=axis)
    other.net.pos_embed.data = torch.cat([encoder.net.pos_embed[:, :1], grid.reshape(1, side**2, 24)], dim=1)
    torch.testing.assert_close(encoder.positions_of(size, size), other.net.pos_embed, rtol=1e-9, atol=1e-9)
    features, expected = encoder(view), other(view)
    assert features.tokens.shape == (3, side**2, 24)
    torch.testing.assert_close(features.pooled, expected.pooled, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(features.tokens, expected.tokens, rtol=1e-8, atol=1e-8)
    assert encoder.positions_of(16, 16) is encoder.net.pos_embed


def resampled(grid: Tensor, axis: int, place: float) -> Tensor:
    """Return the values of a grid of 4 at a place between its rows or columns; beyond its border the last one holds."""
    total, first = torch.zeros_like(grid.select(axis, 0)), math.floor(place) - 1
    for at in range(first, first + 4):
        d = abs(place - at)
        near, far = (1.25 * d - 2.25) * d * d + 1, -0.75 * (((d - 5) * d + 8) * d - 4)
        total = total + (near if d <= 1 else far) * grid.select(axis, min(max(at, 0), 3))
    return total


def test_views_of_a_wrong_size_are_refused() -> None:
    """Oracle: a sentence that names the size: no whole number of patches, masked patches, a network of timm."""
    with pytest.raises(ConfigError, match="A view of 10 x 10 px does not divide into patches of 4 px"):
        vit()(images(size=10))
    with pytest.raises(ConfigError, match="in views of 16 px alone, which have 16; got one of 8 px with 4"):
        vit()(images(size=8), torch.arange(2).expand(3, 2))
    torch.manual_seed(0)
    with pytest.raises(
        ConfigError, match="vit_tiny_patch16_224 was built for views of 32 px alone; got one of 16 x 16"
    ):
        Timm(32, name="vit_tiny_patch16_224")(torch.zeros(1, 3, 16, 16))
    assert Timm(32, name="resnet10t").eval()(torch.zeros(1, 3, 16, 16)).pooled.shape == (1, 512)


def test_visible_tokens_see_only_each_other() -> None:
    """Oracle: the naive transformer over all tokens, whose attention may read the visible ones only."""
    encoder = vit()
    visible = torch.tensor([[3, 11, 0, 7], [15, 1, 2, 8], [4, 5, 6, 9]])
    features = encoder(images(), visible)
    assert features.visible is visible
    for i, ids in enumerate(visible):
        allowed = torch.zeros(17, dtype=torch.bool)
        allowed[0] = True
        allowed[ids + 1] = True
        expected = naive(encoder, images()[i], allowed)
        torch.testing.assert_close(features.pooled[i], expected[0], rtol=0, atol=1e-11)
        torch.testing.assert_close(features.tokens[i], expected[ids + 1], rtol=0, atol=1e-11)


def test_order_of_visible_tokens_is_kept() -> None:
    """Oracle: the forward of all tokens: all ids in order give it exactly, shuffled ids give it shuffled."""
    encoder = vit()
    whole = encoder(images())
    in_order = encoder(images(), torch.arange(16).expand(3, -1))
    assert torch.equal(in_order.pooled, whole.pooled)
    assert torch.equal(in_order.tokens, whole.tokens)
    ids = torch.randperm(16, generator=torch.Generator().manual_seed(0)).expand(3, -1)
    torch.testing.assert_close(encoder(images(), ids).tokens, whole.tokens[:, ids[0]], rtol=0, atol=1e-11)


def test_fill_replaces_tokens_before_positions() -> None:
    """Oracle: the naive transformer, where masked embeddings are exchanged before positions are added."""
    encoder, everything = vit(), torch.ones(17, dtype=torch.bool)
    mask = torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5
    token = torch.randn(24, dtype=torch.float64, requires_grad=True)
    features = encoder(images(), fill=(mask.double(), token))
    expected = torch.stack([naive(encoder, *row, token) for row in zip(images(), [everything] * 3, mask, strict=True)])
    torch.testing.assert_close(features.tokens, expected[:, 1:], rtol=0, atol=1e-11)
    features.pooled.sum().backward()
    assert token.grad is not None
    assert token.grad.abs().sum() > 0


def test_vit_weights_load_into_timm() -> None:
    """Oracle: timm's own model, built by name, with our weights loaded strictly: no key more, none less."""
    encoder = vit().float().eval()
    settings = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    theirs = timm.create_model("vit_tiny_patch16_224", **settings).eval()
    theirs.load_state_dict(encoder.net.state_dict(), strict=True)
    view = images().float()
    torch.testing.assert_close(theirs(view), encoder(view).pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_patches_are_not_trained(frozen: bool) -> None:
    """Oracle: weight and bias of the projection, and no other, get no gradient; gradients do flow through elsewhere."""
    encoder = ViT(16, name="vit", width=24, depth=1, heads=3, patch=4, frozen_patches=frozen)
    encoder(images().float()).pooled.sum().backward()
    patches = {"net.patch_embed.proj.weight", "net.patch_embed.proj.bias"}
    without = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert without == {"net.pos_embed"} | (patches if frozen else set())
    assert frozen == (not encoder.net.patch_embed.proj.bias.any())


def test_vit_starts_from_xavier_uniform_matrices() -> None:
    """Oracle: a uniform law on +-sqrt(6 / (rows + columns)), by its bound and its deviation, for each matrix alone.

    The fused layer of attention is three matrices of width x width.
    """
    net = ViT(32, name="vit", width=96, depth=2, heads=3, patch=4).net
    matrices = {"patches": net.patch_embed.proj.weight.detach().view(96, 48)}
    for name, weight in net.blocks.named_parameters():
        if weight.ndim == 2:
            matrices |= {
                f"{name} {i}": part
                for i, part in enumerate(weight.detach().split(96) if "qkv" in name else [weight.detach()])
            }
        elif "norm" not in name:
            assert weight.count_nonzero() == 0, name
    assert len(matrices) == 1 + 2 * (3 + 1 + 2)
    for name, matrix in matrices.items():
        bound = (6 / sum(matrix.shape)) ** 0.5
        assert 0.98 * bound < matrix.abs().max() <= bound, name
        assert matrix.std() == pytest.approx(bound / 3**0.5, rel=0.04), name
    assert net.cls_token.detach().std() == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"patch": 5}, "ViT.patch = 5 does not divide"), ({"width": 30}, "multiple of 4"), ({"heads": 5}, "ViT.heads")],
)
def test_impossible_vits_are_refused(settings: dict[str, int], message: str) -> None:
    """Oracle: the message names the setting."""
    with pytest.raises(ConfigError, match=message):
        ViT(32, name="vit", **{"width": 24, "depth": 1, "heads": 3, "patch": 4} | settings)


@pytest.mark.parametrize(
    ("size", "stem", "first_map", "last_map"),
    [(16, "3x3", 16, 2), (48, "3x3", 48, 6), (64, "3x3-pool", 64, 4), (128, "3x3-pool", 128, 8), (224, "7x7", 112, 7)],
)
def test_resnet_stem_follows_the_image(size: int, stem: str, first_map: int, last_map: int) -> None:
    """Oracle: sides of the first and last feature maps: three stages halve, pooling and a strided stem each once."""
    with torch.device("meta"):
        encoder = ResNet(size, name="resnet18")
    maps = []
    for layer in (encoder.net.conv1, encoder.net.layer4):
        layer.register_forward_hook(lambda module, inputs, output: maps.append(output.shape[-1]))
    pooled = encoder(torch.empty(2, 3, size, size, device="meta")).pooled
    assert maps == [first_map, last_map]
    assert (encoder.stem, pooled.shape, encoder.width) == (stem, (2, 512), 512)


def test_a_narrow_resnet_has_the_size_of_its_widths() -> None:
    """Oracle: weights summed over the layers by hand; timm with the lines of `spec` gives the same features."""
    weights, inputs = 9 * 3 * 16 + 2 * 16, 16
    for stage, width in enumerate((16, 32, 64, 128)):
        weights += 9 * inputs * width + 3 * 9 * width**2 + (inputs * width if stage else 0)
        weights += 2 * width * (5 if stage else 4)
        inputs = width
    for size, name in ((32, "resnet18w16_stem3x3"), (224, "resnet18w16_stem7x7")):
        encoder = ResNet(size, name="resnet18", base_width=16).eval()
        assert (encoder.name, encoder.width) == (name, 128)
        stem = 0 if size == 32 else (49 - 9) * 3 * 16
        assert sum(p.numel() for p in encoder.parameters()) == weights + stem
        rebuilt = timm.create_model(encoder.spec.architecture, **encoder.spec.arguments)
        for line in encoder.spec.changes:
            exec(line, {"torch": torch, "model": rebuilt})
        rebuilt.load_state_dict(encoder.net.state_dict())
        view = torch.randn(2, 3, size, size)
        assert torch.equal(rebuilt.eval()(view), encoder(view).pooled)


@pytest.mark.parametrize("name", ["resnet50", "convnext_atto", "resnet18d"])
def test_only_basic_blocks_can_be_narrow(name: str) -> None:
    """Oracle: the message, for blocks of three layers, another family, and a stem of three convolutions."""
    with pytest.raises(ConfigError, match=rf"base_width = 32: {name} does not consist of basic blocks"):
        ResNet(32, name=name, base_width=32)


def test_resnet_equals_timm() -> None:
    """Oracle: timm's network, with our weights loaded strictly, where no stem is exchanged."""
    encoder = ResNet(224, name="resnet18").eval()
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    theirs.load_state_dict(encoder.net.state_dict(), strict=True)
    view = torch.randn(1, 3, 224, 224)
    assert torch.equal(theirs(view), encoder(view).pooled)


def test_resnet_refuses_tokens() -> None:
    """Oracle: a ConfigError that says what to use instead."""
    encoder = ResNet(16, name="resnet18")
    view = torch.randn(1, 3, 16, 16)
    with pytest.raises(ConfigError, match="Use a ViT"):
        encoder(view, torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ConfigError, match="Use a ViT"):
        encoder(view, fill=(torch.zeros(1, 16), torch.zeros(512)))
    with pytest.raises(ConfigError, match="Use a ViT"):
        encoder.patch_grid()


@pytest.mark.parametrize("zero_last", [True, False])
def test_last_norm_of_a_block_starts_at_zero_or_one(zero_last: bool) -> None:
    """Oracle: timm's default, and torchvision's; with the lines of `spec` timm builds the same network."""
    encoder = ResNet(16, name="resnet18", zero_last=zero_last)
    assert {float(block.bn2.weight.detach().sum()) == 0 for block in encoder.net.layer1} == {zero_last}
    theirs = torchvision.models.resnet18(zero_init_residual=zero_last)
    assert torch.equal(encoder.net.layer4[1].bn2.weight, theirs.layer4[1].bn2.weight)
    assert torch.equal(
        timm.create_model(encoder.spec.architecture, **encoder.spec.arguments).layer1[0].bn2.weight,
        encoder.net.layer1[0].bn2.weight,
    )


def test_the_stem_starts_as_asked() -> None:
    """Oracle: deviations by hand: sqrt(2 / (64 * 9)), and of a uniform distribution up to 1 / sqrt(27)."""
    for plain_stem, deviation in ((False, math.sqrt(2 / 576)), (True, 1 / math.sqrt(27 * 3))):
        torch.manual_seed(0)
        weight = ResNet(16, name="resnet18", plain_stem=plain_stem).net.conv1.weight
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.06)


def test_last_blocks_of_a_vit() -> None:
    """Oracle: block after block by hand, each followed by the final norm; the last one is the encoder's output."""
    torch.manual_seed(0)
    vit = ViT(16, name="tiny", width=16, depth=4, heads=2, patch=4).eval()
    view, tokens, expected = torch.randn(3, 3, 16, 16), None, []
    with torch.no_grad():
        tokens = vit.net.patch_embed(view) + vit.net.pos_embed[:, 1:]
        tokens = torch.cat([(vit.net.cls_token + vit.net.pos_embed[:, :1]).expand(3, -1, -1), tokens], dim=1)
        for block in vit.net.blocks:
            tokens = block(tokens)
            expected.append(vit.net.norm(tokens))
        blocks, whole = vit.last(view, 3), vit(view)
    assert len(blocks) == 3
    for block, normed in zip(blocks, expected[1:], strict=True):
        torch.testing.assert_close(block.pooled, normed[:, 0])
        torch.testing.assert_close(block.tokens, normed[:, 1:])
    torch.testing.assert_close(blocks[-1].pooled, whole.pooled)
    assert not torch.allclose(blocks[0].pooled, blocks[-1].pooled, atol=0.1)


def test_last_stages_of_a_resnet() -> None:
    """Oracle: the averages of what its stages return, noted on the way to the encoder's own output."""
    torch.manual_seed(0)
    resnet, view = ResNet(32, name="resnet18").eval(), torch.randn(2, 3, 32, 32)
    maps: list[Tensor] = []
    for stage in (resnet.net.layer2, resnet.net.layer3, resnet.net.layer4):
        stage.register_forward_hook(lambda *arguments: maps.append(arguments[2]))
    with torch.no_grad():
        whole = resnet(view)
        stages = resnet.last(view, 3)
    assert [stage.pooled.shape[1] for stage in stages] == [128, 256, 512]
    for stage, features in zip(stages, maps[:3], strict=True):
        torch.testing.assert_close(stage.pooled, features.mean((2, 3)))
    assert torch.equal(stages[-1].pooled, whole.pooled)


@pytest.mark.parametrize("count", [3, 9])
def test_more_layers_than_there_are_are_refused(count: int) -> None:
    """Oracle: a ViT of two blocks; the message names it and how many it has."""
    vit = ViT(16, name="tiny", width=16, depth=2, heads=2, patch=4)
    with pytest.raises(ConfigError, match=rf"last {count} layers of tiny_patch4.*1 to 2"):
        vit.last(torch.zeros(1, 3, 16, 16), count)


def test_maps_are_the_patch_tokens_at_any_size() -> None:
    """Oracle: the tokens of the forward pass, by rows; positions of a larger image are timm's own resampling."""
    encoder = ViT(32, name="v", width=48, depth=2, heads=2, patch=8).eval()
    before = encoder.net.pos_embed.detach().clone()
    for size, grid in ((32, 4), (48, 6)):
        encoder.resize(size)
        view = torch.randn(2, 3, size, size)
        maps = encoder.maps(view)
        assert maps.shape == (2, 48, grid, grid)
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), encoder(view).tokens)
    assert encoder.positions == "4 x 4 to 6 x 6"
    expected = resample_abs_pos_embed(before, [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(encoder.net.pos_embed.detach(), expected)
    with pytest.raises(ConfigError, match="patches of 8 px, which leave a rest"):
        encoder.resize(50)
    network = ResNet(32, name="resnet18").eval()
    network.resize(64)
    assert network.maps(torch.randn(1, 3, 64, 64)).shape == (1, 512, 8, 8)
    assert (network.stem, network.positions) == ("3x3", None)
