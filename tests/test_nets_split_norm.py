"""Split batch norm against an ordinary one on each part."""

import pytest
import timm
import torch
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.resnet import ResNet
from benchmark.nets.split_norm import SplitBatchNorm2d, split_batch_norms


def images(batch: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 3, 4, 5, dtype=torch.float64, generator=generator) * 3
        + torch.arange(batch)[:, None, None, None]
    )


def ordinary() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3, eps=1e-3, momentum=0.2).double()
    norm.weight.data = torch.tensor([1.0, 2.0, -3.0]).double()
    norm.bias.data = torch.tensor([0.5, 0.0, 1.0]).double()
    return norm


def split(splits: int) -> SplitBatchNorm2d:
    norm = SplitBatchNorm2d(3, splits, eps=1e-3, momentum=0.2).double()
    norm.load_state_dict(ordinary().state_dict())
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_each_part_is_normalised_by_itself(splits: int, layout: torch.memory_format) -> None:
    """Oracle: an ordinary batch norm on every splits-th image; the mean of their running statistics over two steps."""
    ours, mean, var = split(splits), torch.zeros(3).double(), torch.ones(3).double()
    for seed in range(2):
        x = images(seed=seed).to(memory_format=layout).requires_grad_()
        means, variances = [], []
        expected = torch.empty_like(x)
        for part in range(splits):
            norm = ordinary()
            norm.running_mean, norm.running_var = mean.clone(), var.clone()
            expected[part::splits] = norm(x[part::splits])
            means.append(norm.running_mean)
            variances.append(norm.running_var)
        mean, var = torch.stack(means).mean(0), torch.stack(variances).mean(0)
        normed = ours(x)
        torch.testing.assert_close(normed, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            torch.autograd.grad(normed.pow(3).sum(), x), torch.autograd.grad(expected.pow(3).sum(), x)
        )
        torch.testing.assert_close(ours.running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.running_var, var, rtol=1e-12, atol=1e-12)
    assert int(ours.num_batches_tracked) == 2


def test_in_eval_it_is_an_ordinary_batch_norm() -> None:
    """Oracle: nn.BatchNorm2d with the same state; any batch is fine, and nothing is written."""
    ours, theirs = split(4), ordinary()
    ours(images())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    assert torch.equal(ours.eval()(images(7)), theirs.eval()(images(7)))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_indivisible_batches_are_refused() -> None:
    """Oracle: the message names batch, parts and setting."""
    with pytest.raises(ConfigError, match=r"batch of 6 .* 4 parts .*Pretraining\.batch_size"):
        split(4)(images(6))


def test_every_batch_norm_of_a_network_is_replaced() -> None:
    """Oracle: the state before, and timm's own network, into which the state loads strictly."""
    torch.manual_seed(1)
    encoder = ResNet(16, name="resnet18")
    for p in encoder.parameters():
        p.data += torch.randn_like(p)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    count = sum(isinstance(part, nn.BatchNorm2d) for part in encoder.modules())
    assert split_batch_norms(encoder, 4)
    norms = [part for part in encoder.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == count
    assert all(isinstance(norm, SplitBatchNorm2d) and norm.splits == 4 for norm in norms)
    assert encoder.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    theirs = timm.create_model("resnet18", num_classes=0)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(encoder.net.state_dict(), strict=True)
    view = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(theirs.eval()(view), encoder.eval()(view).pooled)


def test_settings_of_the_replaced_norm_are_kept() -> None:
    """Oracle: the eps and momentum of the norm that was there; other layers stay the same objects."""
    convolution = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(convolution, nn.Sequential(nn.BatchNorm2d(3, eps=0.5, momentum=0.7)))
    split_batch_norms(net, 2)
    assert (net[1][0].eps, net[1][0].momentum) == (0.5, 0.7)
    assert net[0] is convolution


def test_networks_without_batch_norm_are_left_alone() -> None:
    """Oracle: the answer no; a batch norm of vectors is none of images."""
    assert not split_batch_norms(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), 2)
