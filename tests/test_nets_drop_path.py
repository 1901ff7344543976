"""Stochastic depth against timm's own blocks, and against its probabilities by counting."""

from collections.abc import Callable

import pytest
import timm
import torch
from nets16 import BATCH, resnet, views
from test_nets_swin import swin
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.attention import set_fused
from benchmark.nets.drop_path import path_scales
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.swin import Swin
from benchmark.randomness import Draws
from benchmark.training.flops import count_forward


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(16, name="vit", width=24, depth=3, heads=3, patch=4)


ENCODERS: tuple[Callable[[], Encoder], ...] = (vit, swin)


class Factor(nn.Module):
    """What stands in timm's place for a dropped path: it multiplies each image by a number of its own."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, branch: Tensor) -> Tensor:
        return torch.stack([factor * image for factor, image in zip(self.factors, branch, strict=True)])


@pytest.mark.parametrize("build", ENCODERS)
def test_branches_are_scaled_where_timm_drops_them(build: Callable[[], Encoder]) -> None:
    """Oracle: timm's own network by name, with our weights, whose `drop_path1` and `drop_path2` multiply by factors."""
    encoder, view = build().double().train(), views()[0]
    blocks = encoder.n_blocks
    assert blocks is not None
    factors = torch.rand(BATCH, blocks, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    theirs = timm.create_model(encoder.spec.architecture, **encoder.spec.arguments).double()
    theirs.load_state_dict(encoder.net.state_dict(), strict=True)
    theirs.pos_embed = getattr(encoder.net, "pos_embed", None)
    dropping = [part for part in theirs.modules() if hasattr(part, "drop_path1")]
    assert len(dropping) == blocks
    for number, block in enumerate(dropping):
        block.drop_path1, block.drop_path2 = Factor(factors[:, number, 0]), Factor(factors[:, number, 1])
    expected = theirs(view)
    features = encoder(view, paths=factors)
    torch.testing.assert_close(features.pooled, expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(encoder(view).pooled, expected, rtol=1e-3)
    assert torch.equal(encoder(view, paths=torch.ones_like(factors)).pooled, encoder(view).pooled)


def test_probabilities_rise_linearly_and_means_stay() -> None:
    """Oracle: counts over a grid of 1,000 numbers: of 5 blocks 0, 5, 10, 15 and 20 % are 0; each column's mean is 1."""
    grid = ((torch.arange(1000) + 0.5) / 1000)[:, None, None].expand(-1, 5, 2)
    scales = path_scales(grid, 0.2)
    assert (scales == 0).sum(0).tolist() == [[0, 0], [50, 50], [100, 100], [150, 150], [200, 200]]
    torch.testing.assert_close(scales.mean(0), torch.ones(5, 2))
    assert all(len(scales[:, block].unique()) == 1 + (block > 0) for block in range(5))
    assert path_scales(grid[:, :1], 0.5).eq(1).all()  # of one block, the first


@pytest.mark.parametrize("build", ENCODERS)
def test_each_image_and_branch_has_a_draw_of_its_own(build: Callable[[], Encoder]) -> None:
    """Oracle: the draws by their name, seed and step alone; other numbers for another one of these."""
    encoder = build()
    paths = encoder.draw_paths(Draws(0, 5, 64), ("paths", 0), 0.9)
    expected = path_scales(Draws(0, 5, 64).rows(("paths", 0), encoder.n_blocks, 2), 0.9)
    assert torch.equal(paths, expected)
    for draws, name in (
        (Draws(0, 5, 64), ("paths", 1)),
        (Draws(0, 6, 64), ("paths", 0)),
        (Draws(1, 5, 64), ("paths", 0)),
    ):
        assert not torch.equal(encoder.draw_paths(draws, name, 0.9), paths)


def test_a_pass_costs_what_it_costs_without() -> None:
    """Oracle: the count of a plain pass on the meta device."""
    with torch.device("meta"):
        encoders = vit(), Swin(16, name="swin", width=8, depths=(2, 1), heads=(1, 2), window=2, patch=4, split=2)
    for encoder in encoders:
        plain, forward = count_forward(encoder, 16), encoder.forward
        draws = Draws(0, 0, 1, "meta")
        encoder.forward = lambda view, of=encoder, pas=forward, d=draws: pas(view, paths=of.draw_paths(d, "paths", 0.2))
        set_fused(encoder, False)
        assert count_forward(encoder, 16) == plain > 0


def test_networks_without_blocks_refuse() -> None:
    """Oracle: the message names the rate, the encoder and what to use; nothing is drawn for a rate of 0."""
    with pytest.raises(ConfigError, match=r"drop_path of 0.2 .*resnet18.* Use a ViT or a Swin, or set drop_path to 0"):
        resnet().draw_paths(Draws(0, 0, BATCH), "paths", 0.2)
    assert resnet().draw_paths(Draws(0, 0, BATCH), "paths", 0.0) is None
    assert vit().draw_paths(Draws(0, 0, BATCH), "paths", 0.0) is None
