"""CAN against its equation by hand and the authors' formulas, mistakes that these must find, and its refusals."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightly.loss import NTXentLoss
from nets16 import BATCH, resnet, views, vit
from torch import Tensor
from torch.nn import functional as F

import baselines.can
from baselines.byol import BYOL
from baselines.can import CAN
from baselines.simclr import SimCLR
from benchmark.errors import ConfigError
from benchmark.losses import reconstruction
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


def require_equation(method: CAN) -> None:
    """Oracle: the equation and its gradient."""
    loss, expected = method(views(), DRAWS).loss, equation(method)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # levels and noise are drawn in float32
    trained = [p for p in method.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, retain_graph=True)
    scale = max(float(g.abs().max()) for g in gradients)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, trained), rtol=1e-4, atol=1e-6 * scale)


def test_loss_and_gradient_are_the_equation() -> None:
    """Oracle: `equation`; the logs are its terms."""
    method = can()
    require_equation(method)
    step = method(views(), DRAWS)
    terms = [step.logs[name] for name in ("base_loss", "reconstruction_loss", "noise_loss")]
    torch.testing.assert_close(step.loss.detach(), torch.stack(terms) @ torch.tensor([0.3, 0.6, 0.2]).double())


def clean_images_encoded(method: CAN, patch: pytest.MonkeyPatch) -> None:
    passes = method.base.passes
    patch.setattr(method.base, "passes", lambda _, draws, visible: passes(views(), draws, visible))


def noisy_images_restored(method: CAN, patch: pytest.MonkeyPatch) -> None:
    compute = method._errors
    patch.setattr(method, "_errors", lambda view, noise, *rest: compute(view + noise, noise, *rest))


def noise_of_masked_patches_predicted(method: CAN, patch: pytest.MonkeyPatch) -> None:
    def wrong(predicted: Tensor, patches: Tensor, masked: Tensor, **settings: Any) -> Tensor:
        return reconstruction(predicted, patches, masked if settings["masked_weight"] else 1 - masked, **settings)

    patch.setattr(baselines.can, "reconstruction", wrong)


def unit_noise_predicted(method: CAN, patch: pytest.MonkeyPatch) -> None:
    compute = method._errors

    def wrong(view: Tensor, noise: Tensor, level: Tensor, features: Features) -> tuple[Tensor, Tensor]:
        return compute(view, noise / level[:, None, None, None], level, features)

    patch.setattr(method, "_errors", wrong)


def decoder_does_not_know_the_level(method: CAN, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(method, "_with_level", lambda features, level: features)


def views_of_the_other_image_contrasted(method: CAN, patch: pytest.MonkeyPatch) -> None:
    compare = method.base.objective
    patch.setattr(method.base, "objective", lambda online, targets: compare(online, {1: targets[1].roll(1, 0)}))


def errors_of_views_summed(method: CAN, patch: pytest.MonkeyPatch) -> None:
    compute = method._errors
    patch.setattr(method, "_errors", lambda *inputs: [2 * error for error in compute(*inputs)])


MISTAKES: tuple[Callable[[CAN, pytest.MonkeyPatch], None], ...] = (
    clean_images_encoded,
    noisy_images_restored,
    noise_of_masked_patches_predicted,
    unit_noise_predicted,
    decoder_does_not_know_the_level,
    views_of_the_other_image_contrasted,
    errors_of_views_summed,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_planted_mistakes_are_found(
    mistake: Callable[[CAN, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the equation, which each mistake fails."""
    method = can()
    mistake(method, monkeypatch)
    with pytest.raises(AssertionError):
        require_equation(method)


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
