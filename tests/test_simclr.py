"""The joint forward of both views against each view alone."""

import pytest
import torch
from nets16 import vit
from torch import Tensor

from baselines.simclr import SimCLR
from benchmark.errors import ConfigError
from benchmark.losses import info_nce, nt_xent
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws


def simclr(encoder: Encoder, **settings: bool) -> SimCLR:
    torch.manual_seed(1)
    return SimCLR(encoder, temperature=0.3, projector_layers=2, projector_hidden=16, projector_width=8, **settings)


@pytest.fixture
def method() -> SimCLR:
    return simclr(vit())


@pytest.fixture
def views() -> list[Tensor]:
    return list(torch.randn(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def test_batch_norm_sees_both_views(method: SimCLR, views: list[Tensor]) -> None:
    """Oracle: the projector on the features of both views together; apart, its batch norm gives others."""
    pooled = [method.encoder(view).pooled for view in views]
    together = method.projector(torch.cat(pooled)).chunk(2)
    for branch, expected, features in zip(method.encode(views), together, pooled, strict=True):
        torch.testing.assert_close(branch.projection, expected)
        assert (method.projector(features) - expected).abs().max() > 1e-2
    torch.testing.assert_close(method(views, Draws(0, 0, 6)).loss, nt_xent(*together, temperature=0.3))


def test_views_can_pass_apart(views: list[Tensor]) -> None:
    """Oracle: the projector on each view alone, whose batch norm sees that view."""
    method = simclr(vit(), joint=False)
    apart = [method.projector(method.encoder(view).pooled) for view in views]
    torch.testing.assert_close(method(views, Draws(0, 0, 6)).loss, nt_xent(*apart, temperature=0.3))


def test_head_without_batch_norm_and_with_bias() -> None:
    """Oracle: the layers that are asked for; a hidden layer has a bias where no batch norm follows."""
    plain = simclr(vit(), projector_norm=False, projector_bias=True).projector
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear"]
    assert plain[0].bias is not None
    assert plain[2].bias is not None
    assert simclr(vit()).projector[3].bias is None


def test_gradient_flows_through_both_views(method: SimCLR, views: list[Tensor]) -> None:
    """Oracle: the gradient of the loss of both projections, computed apart; no side of it is a stopped target."""
    a, b = method.projector(method.encoder(torch.cat(views)).pooled).chunk(2)
    trained = [p for p in method.parameters() if p.requires_grad]
    expected = torch.autograd.grad(nt_xent(a, b, temperature=0.3), trained)
    ours = torch.autograd.grad(method(views, Draws(0, 0, 6)).loss, trained)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_each_view_keeps_its_own_tokens(method: SimCLR, views: list[Tensor]) -> None:
    """Oracle: the encoder on each view alone with its own ids."""
    visible = [torch.rand(6, 16, generator=torch.Generator().manual_seed(k)).argsort(1)[:, :5] for k in range(2)]
    for view, ids, branch in zip(views, visible, method.encode(views, visible), strict=True):
        assert torch.equal(branch.features.visible, ids)
        torch.testing.assert_close(branch.features.tokens, method.encoder(view, ids).tokens)


def test_one_view_can_be_encoded_alone(method: SimCLR, views: list[Tensor]) -> None:
    """Oracle: encoder and projector in sequence."""
    (branch,) = method.encode(views[:1])
    torch.testing.assert_close(branch.projection, method.projector(method.encoder(views[0]).pooled))


def test_one_direction_has_no_negatives_of_its_own_view(method: SimCLR) -> None:
    """Oracle: InfoNCE at the method's temperature."""
    a, b = torch.randn(2, 6, 8)
    assert torch.equal(method.compare(a, b), info_nce(a, b, temperature=0.3))


def test_unequal_masks_are_refused(method: SimCLR, views: list[Tensor]) -> None:
    """Oracle: a ConfigError; a joint forward would silently drop the rows of the view without ids."""
    four, five = (torch.arange(count).expand(6, -1) for count in (4, 5))
    for visible in ([four, None], [None, four], [four, five]):
        with pytest.raises(ConfigError, match="Mask the views at one ratio"):
            method.encode(views, visible)
