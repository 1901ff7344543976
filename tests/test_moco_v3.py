"""MoCo v3 against its algorithm by hand."""

import pytest
import torch
from nets16 import BATCH, unlike, views, vit
from torch import Tensor
from torch.nn import functional as F

from baselines.moco_v3 import MoCoV3
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws


def moco_v3(encoder: Encoder | None = None, temperature: float = 0.2, momentum: float = 0.9) -> MoCoV3:
    encoder = encoder or vit()
    torch.manual_seed(1)
    method = MoCoV3(
        encoder, temperature=temperature, momentum=momentum, projector_layers=3, head_hidden=16, projector_width=6
    )
    unlike(method.target)
    return method.double().train()


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Run the paper's function ctr (Algorithm 1) row by row."""
    losses = []
    for i, query in enumerate(queries):
        similarities = torch.stack([torch.cosine_similarity(query, key, dim=0) for key in keys]) / temperature
        losses.append(similarities.exp().sum().log() - similarities[i])
    return 2 * temperature * torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_loss_is_the_algorithm(temperature: float) -> None:
    """Oracle: Algorithm 1 row by row: predictions of one view against the copy's keys of the other, summed."""
    method = moco_v3(temperature=temperature)
    q = [method.predictor(method.projector(method.encoder(view).pooled)) for view in views()]
    k = [method.target.projector(method.target.encoder(view).pooled) for view in views()]
    expected = contrast(q[0], k[1], temperature) + contrast(q[1], k[0], temperature)
    torch.testing.assert_close(method(views(), Draws(0, 0, BATCH)).loss, expected, rtol=1e-10, atol=0)


def test_one_direction_carries_the_factor() -> None:
    """Oracle: half the loss of two equal directions, by cross entropy."""
    method = moco_v3()
    q, k = torch.randn(2, BATCH, 6, dtype=torch.float64)
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / 0.2
    torch.testing.assert_close(method.compare(q, k), 0.4 * F.cross_entropy(logits, torch.arange(BATCH)))
