"""CAN against its equation by hand and the authors' formulas, and its refusals."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from lightly.loss import NTXentLoss
from nets16 import BATCH, require_same, resnet, views, vit
from torch import Tensor
from torch.nn import functional as F

from baselines.byol import BYOL
from baselines.can import CAN
from baselines.simclr import SimCLR
from benchmark.errors import ConfigError
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.masking import patchify, unpatchify
from benchmark.randomness import Draws

SIMCLR = partial(SimCLR, temperature=0.1, projector_layers=2, projector_hidden=16, projector_width=8)
SETTINGS: dict[str, Any] = {
    "base": SIMCLR,
    "decoder": partial(PixelDecoder, width=16, depth=1, heads=2),
    "mask_ratio": 0.5,
    "noise": 0.4,
    "contrast_weight": 0.3,
    "restored_weight": 0.6,
    "noise_weight": 0.2,
}
DRAWS = Draws(0, 0, BATCH)


def can(encoder: Encoder | None = None, **changes: Any) -> CAN:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return CAN(encoder, **(SETTINGS | changes)).double().train()


def sines(levels: Tensor) -> Tensor:
    """The authors' embedding (pos_embed.py): 64 frequencies from 1 down to 1 / 10,000, sines and then cosines."""
    rows = []
    for level in levels.tolist():
        angles = [level / 10_000 ** (n / 63) for n in range(64)]
        rows.append([*map(math.sin, angles), *map(math.cos, angles)])
    return torch.tensor(rows, dtype=torch.float64)


def equation(method: CAN) -> Tensor:
    """The paper's loss, and the weights and means of the authors' code; lightly's contrast on the projections."""
    noises, seen, errors = [], [], []
    for k, view in enumerate(views()):
        levels = 0.4 * DRAWS.rows(("level", k)).double()
        noises.append((levels, levels[:, None, None, None] * DRAWS.normal(("noise", k), 3, 16, 16).double()))
        ids = DRAWS.rows(("mask", k), 16).argsort(1)[:, :8]
        seen.append(method.encoder(view + noises[k][1], ids))
    projections = method.projection_head()(torch.cat([each.pooled for each in seen]))
    contrast = NTXentLoss(temperature=0.1)(*projections.chunk(2))
    for (levels, noise), features, view in zip(noises, seen, views(), strict=True):
        extra = method.embed_level(sines(levels))
        embedded = Features(features.pooled + extra, features.tokens + extra[:, None], features.visible)
        predicted, pixels, blurred = method.restore.decoder(embedded), patchify(view, 4), patchify(noise, 4)
        restored, denoised = [], []
        for i in range(BATCH):
            for token in range(16):
                visible = token in features.visible[i].tolist()
                target = blurred if visible else pixels
                (denoised if visible else restored).append(F.mse_loss(predicted[i, token], target[i, token]))
        errors.append(0.6 * torch.stack(restored).mean() + 0.2 * torch.stack(denoised).mean())
    return 0.3 * contrast + torch.stack(errors).mean()


def test_loss_and_gradient_are_the_equation() -> None:
    """Oracle: the equation and its gradient; the logs are its terms."""
    method = can()
    step, expected = method(views(), DRAWS), equation(method)
    trained = [p for p in method.parameters() if p.requires_grad]
    scale = max(float(g.abs().max()) for g in torch.autograd.grad(step.loss, trained, retain_graph=True))
    # levels and noise are drawn in float32
    require_same(method, step.loss, expected, rtol=1e-6, of_gradient=(1e-4, 1e-6 * scale))
    terms = [step.logs[name] for name in ("base_loss", "reconstruction_loss", "noise_loss")]
    torch.testing.assert_close(step.loss.detach(), torch.stack(terms) @ torch.tensor([0.3, 0.6, 0.2]).double())


def test_pictures_show_a_masked_view() -> None:
    """Oracle: the first view; the decoder's output for it, noisy and masked as in the loss, where it is masked."""
    method, predicted = can(), []
    method.restore.decoder.register_forward_hook(lambda module, inputs, output: predicted.append(output))
    method(views(), DRAWS)
    pictures = method.pictures(views(), DRAWS)
    view, seen, restored = (pictures[f"reconstructions/{row}"] for row in ("original", "visible", "restored"))
    assert torch.equal(view, views()[0])
    hidden = seen.isnan()
    assert float(hidden.double().mean()) == 0.5
    assert torch.equal(restored[~hidden], view[~hidden])
    torch.testing.assert_close(restored[hidden], unpatchify(predicted[0], 4)[hidden])


def test_embedding_of_the_level_is_two_layers() -> None:
    """Oracle: the authors' layers by hand."""
    method = can()
    first, second = (method.embed_level[at] for at in (0, 2))
    waves = torch.randn(5, 128, dtype=torch.float64)
    expected = (waves @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(method.embed_level(waves), expected)


def test_standardised_targets_are_a_binding() -> None:
    """Oracle: the error of a decoder that predicts 0: the mean of the unbiased variance's share, 47 / 48."""
    method = can(standardised=True)
    torch.nn.init.zeros_(method.restore.decoder.predict.weight)
    logs = method(views(), DRAWS).logs
    assert float(logs["reconstruction_loss"]) == pytest.approx(47 / 48, rel=1e-4)
    assert 0.8 < float(logs["noise_loss"]) / (0.4**2 / 3) < 1.6  # levels are uniform below 0.4


def test_it_has_other_bases() -> None:
    """Oracle: with BYOL, its loss on the same noisy, masked views, whose targets see them too."""
    byol = partial(BYOL, momentum=0.9, projector_layers=2, head_hidden=16, projector_width=8)
    step = can(base=byol, contrast_weight=1.0, restored_weight=0.0, noise_weight=0.0)(views(), DRAWS)
    torch.testing.assert_close(step.loss.detach(), step.logs["base_loss"])


def test_wrong_settings_are_refused() -> None:
    """Oracle: the message names the setting, or what kind of network is needed."""
    for ratio in (0, 1.0):
        with pytest.raises(ConfigError, match=rf"CAN\.mask_ratio = {ratio}"):
            can(mask_ratio=ratio)
    with pytest.raises(ConfigError, match="subset of patches"):
        can(resnet())
