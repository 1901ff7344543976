"""A frozen encoder: nothing about it moves."""

import torch
from nets16 import BATCH, resnet, views, vit
from torch import nn

from benchmark.nets.encoders import Encoder
from benchmark.nets.frozen import Frozen


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_features_are_those_of_the_encoder_in_eval_mode() -> None:
    """Oracle: the encoder itself, set to eval mode."""
    for build in (vit, resnet):
        frozen, encoder = Frozen(build()), build().eval()
        features, expected = frozen(views(dtype=torch.float32)[0]), encoder(views(dtype=torch.float32)[0])
        assert torch.equal(features.pooled, expected.pooled)
        assert not features.pooled.requires_grad


def test_the_mode_of_the_method_does_not_reach_it() -> None:
    """Oracle: all state, batch-norm statistics included, before and after training mode and a forward pass."""

    class Holder(nn.Module):
        def __init__(self, encoder: Encoder) -> None:
            super().__init__()
            self.frozen = Frozen(encoder)

    holder = Holder(resnet()).train()
    before = state(holder)
    assert holder.training
    assert not any(part.training for part in holder.frozen.modules())
    assert not any(p.requires_grad for p in holder.parameters())
    holder.frozen(views(dtype=torch.float32)[0])
    assert all(torch.equal(value, before[name]) for name, value in state(holder).items())
    assert len(views()[0]) == BATCH
