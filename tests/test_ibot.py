"""iBOT against its equations by loops, and its masks."""

from typing import Any

import pytest
import torch
from nets16 import BATCH, require_same, unlike, vit
from test_dino import PROTOTYPES, cosines, crops
from test_dino import SETTINGS as OF_DINO
from torch import Tensor

from baselines.ibot import IBOT
from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder
from benchmark.nets.swin import Swin
from benchmark.randomness import Draws

SETTINGS: dict[str, Any] = OF_DINO | {"mask_p": 0.5, "mask_ratios": (0.1, 0.5), "mask_aspect": (0.3, 1 / 0.3)}
TOKENS = 16
DRAWS = Draws(0, 0, BATCH)


def ibot(encoder: Encoder | None = None, **changes: object) -> IBOT:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return IBOT(encoder, **(SETTINGS | changes)).double().train()


def apart() -> IBOT:
    """Return a method whose student has left the teacher, whose centres are not 0, a quarter of the run on."""
    method = ibot()
    unlike(method.encoder)
    unlike(method.projector)
    generator = torch.Generator().manual_seed(5)
    method.mask_token.data += 0.5 * torch.randn(24, generator=generator)
    for centre in (method.centre, method.patch_centre):
        centre += 0.3 * torch.randn(PROTOTYPES, generator=generator, dtype=torch.float64)
    method.set_progress(0.25)
    return method


def outputs(method: IBOT) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], tuple[Tensor, ...]]:
    """Return, by crops, logits of the student's classes and patches, of the teacher's, and the masks."""
    masks = method.masks(DRAWS).chunk(2)
    seen = [method.encoder(crops()[k], fill=(masks[k], method.mask_token)) for k in range(2)]
    whole = [method.target.encoder(crop) for crop in crops()[:2]]
    small = [method.encoder(crop) for crop in crops()[2:]]
    return (
        [cosines(method.projector, each.pooled) for each in (*seen, *small)],
        [cosines(method.projector, each.tokens) for each in seen],
        [cosines(method.target.projector, each.pooled).detach() for each in whole],
        [cosines(method.target.projector, each.tokens).detach() for each in whole],
        masks,
    )


def equation(method: IBOT) -> tuple[Tensor, Tensor]:
    """Both losses by loops over images, pairs of crops, and masked patches, at temperatures 0.055 and 0.1."""

    def entropy(teacher: Tensor, centre: Tensor, student: Tensor) -> Tensor:
        weights = ((teacher - centre) / 0.055).exp()
        return -(weights / weights.sum() * (student / 0.1 - (student / 0.1).exp().sum().log())).sum()

    classes, patches, expected_classes, expected_patches, masks = outputs(method)
    between = [
        entropy(expected_classes[t][i], method.centre, classes[s][i])
        for t in range(2)
        for s in range(len(classes))
        if s != t
        for i in range(BATCH)
    ]
    within = []
    for k in range(2):
        for i in range(BATCH):
            masked = [n for n in range(TOKENS) if masks[k][i, n]]
            terms = [entropy(expected_patches[k][i, n], method.patch_centre, patches[k][i, n]) for n in masked]
            within.append(torch.stack(terms).mean() if terms else torch.zeros((), dtype=torch.float64))
    return torch.stack(between).mean(), torch.stack(within).mean()


def test_loss_and_gradient_are_the_equation() -> None:
    """Oracle: `equation`, whose terms are logged; some crops are masked and some are whole."""
    method = apart()
    masked = method.masks(DRAWS).any(1)
    assert 0 < int(masked.sum()) < 2 * BATCH
    step, terms = method(crops(), DRAWS), equation(method)
    require_same(method, step.loss, sum(terms), rtol=1e-9, of_gradient=(1e-6, 1e-10))
    logged = [step.logs["class_loss"], step.logs["patch_loss"]]
    torch.testing.assert_close(logged, [term.detach() for term in terms], rtol=1e-9, atol=0)


def test_centres_follow_the_teacher() -> None:
    """Oracle: 0.8 old + 0.2 times the mean of the teacher's logits: of both class tokens, and of all patches."""
    method = apart()
    _, _, classes, patches, _ = outputs(method)
    expected = [0.8 * method.centre + 0.2 * torch.cat(classes).mean(0)]
    expected.append(0.8 * method.patch_centre + 0.2 * torch.cat(patches).mean((0, 1)))
    method.after_backward(method(crops(), DRAWS))
    torch.testing.assert_close([method.centre, method.patch_centre], expected, rtol=1e-9, atol=1e-12)


def test_a_share_of_the_crops_is_masked_by_a_share_in_the_range() -> None:
    """Oracle: the shares by which a mask may fall short of what was drawn; crops have masks of their own."""
    method, draws = ibot(mask_p=0.3, mask_ratios=(0.25, 0.5)), Draws(0, 0, 4096)
    first, second = method.masks(draws).mean(1).chunk(2)
    assert float((first > 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    shares = first[first > 0]
    assert 0.3 < float(shares.mean()) < 0.375
    assert float(shares.max()) <= 0.5
    assert float(torch.stack([first, second]).corrcoef()[0, 1].abs()) < 0.05


def test_a_swin_masks_squares_of_the_large_crops() -> None:
    """Oracle: a loss of patches where some are masked, and none else."""
    encoder = Swin(16, name="swin", width=8, depths=(2, 1), heads=(1, 2), window=2, patch=4, split=2)
    whole = ibot(encoder, mask_p=0.0)(crops()[:2], DRAWS)
    masked = ibot(encoder, mask_p=1.0, mask_ratios=(0.5, 0.5))(crops()[:2], DRAWS)
    assert float(whole.logs["patch_loss"]) == 0
    assert float(masked.logs["patch_loss"]) > 0
    assert float(masked.logs["mask_ratio"]) > 0.3


def test_wrong_settings_are_refused() -> None:
    """Oracle: the message names the setting."""
    for name in ("mask_ratios", "mask_aspect"):
        with pytest.raises(ConfigError, match=rf"IBOT\.{name} = \(0\.5, 0\.4\)"):
            ibot(**{name: (0.5, 0.4)})
