"""DINO against its equations by loops, its head against lightly's, its crops, and what small ones cost."""

import math

import pytest
import torch
from lightly.models.modules import DINOProjectionHead
from nets16 import BATCH, require_same, unlike, views, vit
from torch import Tensor, nn

from baselines.dino import DINO, multi_crop
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import prototype_head
from benchmark.nets.momentum import MomentumCopy
from benchmark.randomness import Draws
from benchmark.timing.costs import flops_per_image
from benchmark.training.flops import count_step
from benchmark.views.recipes import ViewLimits

PROTOTYPES, HIDDEN, BOTTLENECK = 12, 20, 10
SETTINGS = {
    "temperature": 0.1,
    "teacher_temperatures": (0.04, 0.07),
    "temperature_warmup": 0.5,
    "momentum": 0.9,
    "centre_momentum": 0.8,
    "prototypes": PROTOTYPES,
    "prototypes_frozen": 0.25,
    "head_hidden": HIDDEN,
    "bottleneck": BOTTLENECK,
}


def dino(encoder: Encoder | None = None, **changes: object) -> DINO:
    encoder = encoder or vit()
    torch.manual_seed(1)
    return DINO(encoder, **(SETTINGS | changes)).double().train()


def apart() -> DINO:
    """Return a method whose student has left the teacher, whose centre is not 0, a quarter of the run on."""
    method = dino()
    unlike(method.encoder)
    unlike(method.projector)
    method.centre += 0.3 * torch.randn(PROTOTYPES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    method.set_progress(0.25)
    return method


def crops(step: int = 0) -> list[Tensor]:
    """Return two views of 16 px and three of 8 px."""
    large = views(step)
    return [*large, large[0][..., :8, :8], large[1][..., 8:, :8], large[0][..., 4:12, 4:12]]


def cosines(head: nn.Sequential, hidden: Tensor) -> Tensor:
    """Return the cosines with the prototypes, by hand."""
    *layers, prototypes = head
    for layer in layers:
        hidden = layer(hidden)
    directions = prototypes.weight / prototypes.weight.square().sum(1, keepdim=True).sqrt()
    return (hidden / hidden.square().sum(-1, keepdim=True).sqrt()) @ directions.T


def logits(part: DINO | MomentumCopy, view: Tensor) -> Tensor:
    """Encode a view by itself."""
    return cosines(part.projector, part.encoder(view).pooled)


def equation(method: DINO, shown: list[Tensor], temperature: float) -> Tensor:
    """Eq. 3 with Eq. 1 and 4 by loops: the mean over images and pairs of a large crop t and another crop s."""
    terms = []
    for t in range(2):
        teacher = logits(method.target, shown[t]).detach()
        for s, view in enumerate(shown):
            if s == t:
                continue
            student = logits(method, view)
            for i in range(BATCH):
                weights = ((teacher[i] - method.centre) / temperature).exp()
                scores = student[i] / 0.1
                terms.append(-(weights / weights.sum() * (scores - scores.exp().sum().log())).sum())
    return torch.stack(terms).mean()


def test_loss_and_gradient_are_the_equation() -> None:
    """Oracle: the equation at a quarter of the run, halfway from 0.04 to 0.07; only the student gets a gradient."""
    method = apart()
    loss, expected = method(crops(), Draws(0, 0, BATCH)).loss, equation(method, crops(), 0.055)
    require_same(method, loss, expected, rtol=1e-9, of_gradient=(1e-6, 1e-10))
    assert not any(p.requires_grad for p in method.target.parameters())


def test_centre_follows_the_teacher() -> None:
    """Oracle: 0.8 old + 0.2 times the mean of the teacher's logits over both large crops, once after the backward."""
    method = apart()
    before = method.centre.clone()
    mean = torch.stack([logits(method.target, view) for view in crops()[:2]]).mean((0, 1)).detach()
    step = method(crops(), Draws(0, 0, BATCH))
    assert torch.equal(method.centre, before)
    method.after_backward(step)
    torch.testing.assert_close(method.centre, 0.8 * before + 0.2 * mean, rtol=1e-9, atol=1e-12)


def test_head_equals_lightly() -> None:
    """Oracle: lightly's head with the same weights, and the deviation of 0.02 in which both begin."""
    torch.manual_seed(0)
    ours = prototype_head(24, 400, 60, PROTOTYPES)
    theirs = DINOProjectionHead(24, 400, 60, PROTOTYPES)
    for at in (0, 2, 4):
        for layer in (ours[at], theirs.layers[at]):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        theirs.layers[at].load_state_dict(ours[at].state_dict())
    theirs.last_layer.weight_v.data.copy_(ours[5].weight)
    features = torch.randn(7, 24)
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-5, atol=1e-6)


def test_prototypes_rest_in_a_group_of_their_own() -> None:
    """Oracle: the last layer alone, by its shape; the rest is in the other group."""
    others, resting = dino().param_groups()
    assert (others.frozen, resting.frozen) == (0.0, 0.25)
    assert [p.shape for p in resting.params] == [(PROTOTYPES, BOTTLENECK)]
    assert len(others.params) + 1 == sum(p.requires_grad for p in dino().parameters())


def test_recipe_of_crops() -> None:
    """Oracle: the authors' augmentations by hand; limits of the data cut both ranges, and forbid flip and blur."""
    first, second, *local = multi_crop(ViewLimits(), local_views=8, local_resolution=3 / 7)
    assert len(local) == 8
    for view in (first, second, *local):
        assert (view.jitter, view.jitter_p, view.grey_p, view.flip) == ((0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.5)
        assert view.interpolation == "bicubic"
    assert [(view.blur_p, view.solarize_p) for view in (first, second, local[0])] == [(1.0, 0), (0.1, 0.2), (0.5, 0)]
    assert [(view.crop_scale, view.side(224)) for view in (first, second, local[7])] == [
        ((0.4, 1.0), 224),
        ((0.4, 1.0), 224),
        ((0.05, 0.4), 96),
    ]
    for limit, wide, narrow in (
        ((0.3, 1.0), (0.4, 1.0), (0.3, 0.4)),
        ((0.5, 0.9), (0.5, 0.9), (0.5, 0.5)),
        ((0.01, 0.3), (0.3, 0.3), (0.05, 0.3)),
    ):
        limited = multi_crop(ViewLimits(crop_scale=limit, flip=False, blur=False))
        assert [view.crop_scale for view in limited] == [wide] * 2 + [narrow] * 6
        assert not any(view.flip or view.blur_p for view in limited)


def by_hand(crops: dict[int, int], width: int, depth: int, hidden: int, bottleneck: int, count: int) -> int:
    """Count a step for one image from shapes: `crops` of a side for the student, two of 32 px for the teacher."""

    def forward(side: int) -> tuple[int, int]:
        tokens = (side // 4) ** 2
        blocks = depth * ((1 + tokens) * 24 * width**2 + 4 * (1 + tokens) ** 2 * width)
        head = 2 * (width * hidden + hidden**2 + hidden * bottleneck + bottleneck * count)
        return 2 * tokens * 48 * width, blocks + head

    trained = sum(number * (2 * forward(side)[0] + 3 * forward(side)[1]) for side, number in crops.items())
    return trained + 2 * sum(forward(32))


@pytest.mark.parametrize(("small", "most"), [(6, 1.7), (0, 1.0)])
def test_small_crops_cost_what_they_cost(small: int, most: float) -> None:
    """Oracle: the count by hand for 32 and 16 px, within 1 %; 2 + 6 crops cost at most 1.7 times two."""
    from benchmark.config.load import build, load

    experiment = build(
        load(["gin/dino.gin", "gin/protocol/cifar10_vit_micro.gin"], (f"multi_crop.local_views={small}",))
    )
    stage = experiment.pretraining()
    sides = [view.side(32) for view in stage.views(experiment.limits())]
    if small:
        counted = flops_per_image("gin/dino.gin", "gin/protocol/cifar10_vit_micro.gin")
    else:
        counted = count_step(lambda: stage.method(experiment.encoder(32)), 8, sides) / 8
    expected = by_hand({32: 2, 16: small}, 96, 3, 256, 64, 1024)
    assert counted == pytest.approx(expected, rel=0.01)
    assert counted <= most * by_hand({32: 2}, 96, 3, 256, 64, 1024) * 1.01


def test_a_share_of_the_warmup_is_a_share_of_the_rise() -> None:
    """Oracle: the teacher's temperature by hand, through its softmax: at 0, halfway, and after the rise."""
    for progress, temperature in ((0.0, 0.04), (0.25, 0.055), (0.5, 0.07), (0.9, 0.07)):
        method = apart()
        method.set_progress(progress)
        expected = equation(method, crops(), temperature)
        assert math.isclose(float(method(crops(), Draws(0, 0, BATCH)).loss), float(expected), rel_tol=1e-6)
