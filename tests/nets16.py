"""Encoders of 16 px, views for them, and what the tests of the two-view methods share."""

import torch
from torch import Tensor, nn

from benchmark.method import Branch, Method
from benchmark.nets.encoders import Features, ViT
from benchmark.nets.resnet import ResNet
from benchmark.randomness import Draws

BATCH = 8


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(16, name="vit", width=24, depth=1, heads=3, patch=4)


def resnet() -> ResNet:
    """A narrow residual network without its two large last stages, to save time."""
    torch.manual_seed(0)
    encoder = ResNet(16, name="resnet18", base_width=16)
    encoder.net.layer3 = encoder.net.layer4 = nn.Identity()
    encoder.width = 32
    return encoder


def views(step: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return list(torch.randn(2, BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step)).to(dtype))


def unlike(module: nn.Module) -> None:
    """Move every parameter at random, so that a copy no longer equals its original."""
    generator = torch.Generator().manual_seed(9)
    for p in module.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator).to(p.dtype)


def branch(prediction: Tensor) -> Branch:
    """Return a branch of which only the prediction matters: its projection is of no use to any loss."""
    return Branch(prediction, torch.full_like(prediction, torch.nan), Features(prediction))


def hidden(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a hidden layer of a head."""
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]


def require_same(
    method: Method, loss: Tensor, expected: Tensor, *, rtol: float, of_gradient: tuple[float, float]
) -> None:
    """Hold a loss to the one expected, and its gradient in all that is trained, by a relative and an absolute bound."""
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(each, trained, retain_graph=True) for each in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=of_gradient[0], atol=of_gradient[1])


def train(method: Method, steps: int = 3) -> list[float]:
    """Take steps as the training loop does, and return their losses."""
    optimiser = torch.optim.AdamW([{"params": group.params} for group in method.param_groups()], lr=1e-2)
    losses = []
    for t in range(steps):
        step = method(views(t, torch.float32)[: method.n_views], Draws(0, t, BATCH))
        step.loss.backward()
        method.after_backward(step)
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(t / steps)
        losses.append(step.loss.item())
    return losses


def untrained(method: Method) -> set[str]:
    """Return the trainable parameters that a step in float32 leaves without a finite gradient that is not zero."""
    step = method.train()(views(dtype=torch.float32)[: method.n_views], Draws(0, 0, BATCH))
    step.loss.backward()
    assert step.loss.isfinite()
    return {
        name
        for name, p in method.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all() or not p.grad.any())
    }
