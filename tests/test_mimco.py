"""MimCo against its formula by hand, against its degeneracies, and its refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets16 import BATCH, resnet, untrained, views

from baselines.mimco import MimCo
from benchmark.errors import ConfigError
from benchmark.nets.encoders import ViT
from benchmark.randomness import Draws

SETTINGS: dict[str, Any] = {
    "mask_ratio": 0.6,
    "mask_unit": 2,
    "patch_temperature": 0.2,
    "image_temperature": 0.3,
    "patch_weight": 1.0,
    "image_weight": 0.5,
}


def vit(seed: int, width: int = 24, patch: int = 2, side: int = 16) -> ViT:
    torch.manual_seed(seed)
    return ViT(side, name="vit", width=width, depth=2, heads=3, patch=patch)


def mimco(teacher: ViT | None = None, student: ViT | None = None, **changes: Any) -> MimCo:
    torch.manual_seed(2)
    return MimCo(student or vit(0), teacher or vit(1), **(SETTINGS | changes))


def test_loss_equals_its_formula() -> None:
    """Oracle: masks from the draws, features of both encoders, and both losses by loops over images and patches."""
    method = mimco().double()
    view, draws = views()[0], Draws(0, 3, BATCH)
    uniform = draws.rows("mask", 4, 4)
    losses = []
    squares = uniform.flatten(1).argsort(1)[:, :10]  # ceil(16 * 0.6) squares of 2 x 2 patches
    mask = torch.zeros(BATCH, 16).scatter(1, squares, 1.0).view(BATCH, 4, 4)
    mask = mask.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
    student = method.encoder(view, fill=(mask, method.mask_token))
    teacher = method.teacher.encoder.eval()(view)
    for image in range(BATCH):
        places = mask[image].nonzero().flatten()
        q = F.normalize(method.patch_head(student.tokens[image, places]), dim=1)
        k = F.normalize(teacher.tokens[image, places], dim=1)
        losses += [-((k @ q[i]) / 0.2).log_softmax(0)[i] for i in range(len(places))]
    q, k = F.normalize(method.image_head(student.pooled), dim=1), F.normalize(teacher.pooled, dim=1)
    images = torch.stack([-((k @ q[i]) / 0.3).log_softmax(0)[i] for i in range(BATCH)]).mean()
    patches = torch.stack(losses).mean()
    step = method([view], draws)
    torch.testing.assert_close(step.loss, patches + 0.5 * images, rtol=1e-10, atol=0)
    torch.testing.assert_close(step.logs["patch_loss"], patches.detach())
    torch.testing.assert_close(step.logs["image_loss"], images.detach())
    assert float(step.logs["mask_ratio"]) == pytest.approx(10 / 16)


def test_each_weight_alone() -> None:
    """Oracle: the logged terms; a term of weight 0 sends its head no gradient."""
    for weights, term, idle in (((2.0, 0.0), "patch_loss", "image_head"), ((0.0, 3.0), "image_loss", "patch_head")):
        method = mimco(patch_weight=weights[0], image_weight=weights[1])
        step = method(views(dtype=torch.float32)[:1], Draws(0, 0, BATCH))
        torch.testing.assert_close(step.loss.detach(), sum(weights) * step.logs[term])
        step.loss.backward()
        assert all(not p.grad.any() for p in method.get_submodule(idle).parameters() if p.grad is not None)


def test_teacher_stays_as_it_was() -> None:
    """Oracle: its state before and after three steps of the optimiser, in train mode and with decay; its outputs."""
    teacher = vit(1)
    expected = vit(1).eval()(views(dtype=torch.float32)[0]).tokens
    method = mimco(teacher).train()
    assert torch.equal(method.teacher(views(dtype=torch.float32)[0]).tokens, expected)
    optimiser = torch.optim.AdamW([p for group in method.param_groups() for p in group.params], lr=0.1)
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    for t in range(3):
        method(views(t, torch.float32)[:1], Draws(0, t, BATCH)).loss.backward()
        optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    assert not torch.equal(
        method.encoder(views(dtype=torch.float32)[0]).tokens, vit(0)(views(dtype=torch.float32)[0]).tokens
    )


def test_everything_but_the_teacher_is_trained() -> None:
    """Oracle: gradients of a step; bias terms before a batch norm do not exist."""
    assert untrained(mimco()) == set()


def test_teacher_of_another_width() -> None:
    """Oracle: heads end in the teacher's width; a step is finite."""
    method = mimco(vit(1, width=36))
    step = method(views(dtype=torch.float32)[:1], Draws(0, 0, BATCH))
    assert step.loss.isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 0.0}, r"mask at least one of the 16 squares .* above 0 and at most 0.938"),
        ({"mask_ratio": 0.95}, r"MimCo.mask_ratio = 0.95"),
        ({"mask_unit": 3}, r"mask_unit = 3 does not divide the 8 x 8 patches"),
        ({"mask_unit": 0}, r"mask_unit = 0"),
        ({"patch_weight": 0.0, "image_weight": 0.0}, r"one of them above"),
        ({"patch_weight": -1.0}, r"patch_weight = -1.0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    """Oracle: the message names the setting and what it may be."""
    with pytest.raises(ConfigError, match=message):
        mimco(**changes)


def test_networks_without_patches_are_refused() -> None:
    """Oracle: a message that names the alternative, for either side; patch grids must be equal."""
    for student, teacher in ((vit(0), resnet()), (resnet(), vit(0))):
        with pytest.raises(ConfigError, match="Use a ViT"):
            MimCo(student, teacher, **SETTINGS)
    with pytest.raises(ConfigError, match=r"teacher has 16 of 4 px and the student 64 of 2 px"):
        mimco(vit(1, patch=4))
