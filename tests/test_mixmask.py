"""Mixtures against their definition image by image, on every base, and each mixer by itself."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from nets16 import BATCH, require_same, unlike, untrained, views, vit
from scipy.stats import binomtest, kstest
from torch import Tensor
from torch.nn import functional as F

from baselines.barlow_twins import BarlowTwins
from baselines.byol import BYOL
from baselines.mixmask import Erase, Mixer, MixMask, Mixture, UnMix
from baselines.moco import MoCo
from baselines.simclr import SimCLR
from baselines.simsiam import SimSiam
from benchmark.errors import ConfigError
from benchmark.method import Siamese
from benchmark.nets.encoders import Encoder
from benchmark.nets.mixing import GridMask, Pattern, box_map
from benchmark.randomness import Draws

T = 0.3
MOCO = partial(MoCo, temperature=T, momentum=0.9, queue_size=20, projector_width=6, splits=1)
HEADS = {"projector_layers": 2, "projector_width": 8}
BASES: dict[str, Callable[[Encoder], Siamese]] = {
    "moco": partial(MOCO, symmetric=False),
    "simclr": partial(SimCLR, temperature=T, projector_hidden=16, **HEADS),
    "byol": partial(BYOL, momentum=0.9, head_hidden=16, **HEADS),
    "simsiam": partial(SimSiam, bottleneck=4, **HEADS),
}
GRID = {"grid": 3, "pattern": "discrete"}
MASK = partial(MixMask, **GRID, mask_ratio=0.4, permutation="random")
ERASE = partial(Erase, **GRID, mask_ratio=0.4, fill="mean")
UNMIX = partial(UnMix, blend_probability=0.5, permutation="reverse")


def mixture(
    base: Callable[[Encoder], Siamese] = BASES["moco"],
    *mixers: Callable[[int], Mixer],
    target_views: tuple[int, ...] = (1,),
) -> Mixture:
    encoder = vit()
    torch.manual_seed(1)
    method = Mixture(encoder, base=base, mixers=mixers or (MASK,), target_views=target_views).double()
    if method.base.target is not None:
        unlike(method.base.target)
    return method


def drawn(step: int = 0) -> Draws:
    return Draws(0, step, BATCH)


def mask_of(place: int = 0, step: int = 0) -> Tensor:
    mask = GridMask(16, **GRID, ratio=0.4)
    return mask(drawn(step).shared(("mixer", place, "mask"), mask.numbers))


def partners(permutation: str, place: int = 0, step: int = 0) -> list[int]:
    if permutation == "reverse":
        return list(range(BATCH))[::-1]
    return drawn(step).shared(("mixer", place, "partner"), BATCH).argsort().tolist()


def mixed_by_hand(own: Tensor, partner: list[int], view: Tensor) -> Tensor:
    return torch.stack([torch.where(own == 1, view[i], view[j]) for i, j in enumerate(partner)])


def row_losses(name: str, method: Mixture, prediction: Tensor, targets: Tensor) -> Tensor:
    """Spell out each base's loss of prediction i with the target of image j as its positive: `(batch, batch)`."""
    a, t = F.normalize(prediction, dim=1), F.normalize(targets, dim=1)
    cosine = a @ t.T
    if name == "moco":
        negatives = (a @ method.base.queue.keys.T / T).exp().sum(1, keepdim=True)
        return -(cosine / T - ((cosine / T).exp() + negatives).log())
    if name == "simclr":
        return -(cosine / T).log_softmax(1)
    return {"byol": (a[:, None] - t[None]).square().sum(2), "simsiam": -cosine}[name]


@pytest.mark.parametrize("permutation", ["reverse", "random"])
@pytest.mark.parametrize("name", BASES)
def test_mixture_is_scored_against_both_images(name: str, permutation: str) -> None:
    """Oracle: mixture i against target i at the mask's own share and against its partner's target at the rest.

    So written no inverse is needed, and for a cross entropy over the batch it is that of soft labels. Values and
    gradients, in float64.
    """
    method = mixture(BASES[name], partial(MASK, permutation=permutation))
    own, partner = mask_of(), partners(permutation)
    online, targets = method.base.passes(views(), drawn())
    (branch,) = method.base.encode([mixed_by_hand(own, partner, views()[0])])
    losses = row_losses(name, method, branch.prediction, targets[1])
    share = own.double().mean()
    rows = [share * losses[i, i] + (1 - share) * losses[i, j] for i, j in enumerate(partner)]
    expected = method.base.objective(online, targets) + torch.stack(rows).mean()
    step = method(views(), drawn())
    require_same(method, step.loss, expected, rtol=1e-6, of_gradient=(1e-5, 1e-7))
    assert not 0.49 < share < 0.51


@pytest.mark.parametrize("name", [*BASES, "barlow_twins"])
def test_images_mixed_with_their_equal_are_views(name: str) -> None:
    """Oracle: in a batch that reads the same backwards each mixture is the image: the term is that of the clean view.

    The weights of the two terms must add up to 1.
    """
    bases = BASES | {"barlow_twins": partial(BarlowTwins, redundancy_weight=0.01, projector_width=8)}
    method = mixture(bases[name], partial(MASK, permutation="reverse"))
    halves = [view[: BATCH // 2] for view in views()]
    palindromes = [torch.cat([half, half.flip(0)]) for half in halves]
    online, targets = method.base.passes(palindromes, drawn())
    (branch,) = method.base.encode(palindromes[:1])
    expected = method.base.objective(online, targets) + method.base.compare(branch.prediction, targets[1])
    torch.testing.assert_close(method(palindromes, drawn()).loss, expected, rtol=1e-6, atol=1e-9)


def test_share_is_what_the_mixture_holds() -> None:
    """Oracle: images of ones among zeros: the mean pixel of the own image is the recorded share, and it varies."""
    view = torch.zeros(BATCH, 3, 16, 16)
    view[1] = 1
    for mixer in (partial(MASK, permutation="reverse"), ERASE, UNMIX):
        mixtures = [mixer(16)(view, drawn(step), 0) for step in range(12)]
        shares = [float(mixed.own_share) for mixed in mixtures]
        assert shares == pytest.approx([float(mixed.view[1].mean()) for mixed in mixtures], abs=1e-6)
        assert 0 < min(shares) < max(shares) <= 1


def test_logs_record_actual_shares() -> None:
    """Oracle: the mean of the mask that was drawn, never the ratio asked for; the losses add up."""
    for t in range(5):
        step = mixture()(views(), drawn(t))
        assert float(step.logs["own_share_0"]) == pytest.approx(float(mask_of(step=t).mean()))
        assert float(step.logs["mask_ratio_0"]) == pytest.approx(1 - float(mask_of(step=t).mean()))
        torch.testing.assert_close(step.logs["base_loss"] + step.logs["mixture_loss"], step.loss.detach())
        assert not any(log.requires_grad for log in step.logs.values())


def test_two_mixers_add_a_term_each() -> None:
    """Oracle: the term of each mixer alone, the second one at its own place; the base counts once."""
    method = mixture(BASES["moco"], MASK, UNMIX)
    first = mixture(BASES["moco"], MASK)(views(), drawn())
    _, targets = method.base.passes(views(), drawn())
    mixed = UNMIX(16)(views()[0], drawn(), 1)
    (branch,) = method.base.encode([mixed.view])
    losses = row_losses("moco", method, branch.prediction, targets[1])
    term = mixed.own_share * losses.diagonal().mean() + (1 - mixed.own_share) * losses.fliplr().diagonal().mean()
    torch.testing.assert_close(method(views(), drawn()).loss, first.loss + term, rtol=1e-6, atol=0)


def test_no_two_draws_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: equal names give equal numbers, so mixers of one kind, and mask and noise of one, need names apart."""
    names: list[object] = []
    shared = Draws.shared

    def recorded(draws: Draws, name: object, *shape: int) -> Tensor:
        names.append(name)
        return shared(draws, name, *shape)

    monkeypatch.setattr(Draws, "shared", recorded)
    noise, pasted = partial(ERASE, fill="noise"), partial(UNMIX, permutation="random")
    mixture(BASES["moco"], *(MASK, noise, pasted) * 2)(views(), drawn())
    assert len(names) == 2 * (2 + 2 + 2)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("pattern", ["discrete", "blocked"])
@pytest.mark.parametrize("mixer", [partial(MASK, permutation="reverse"), ERASE])
def test_cells_follow_the_pattern(mixer: Callable[..., Mixer], pattern: Pattern) -> None:
    """Oracle: the mask of that pattern by itself: no pixel of another's, or erased, equals the image's own."""
    for step in range(4):
        mask = GridMask(16, grid=4, pattern=pattern, ratio=0.4)
        own = mask(drawn(step).shared(("mixer", 0, "mask"), mask.numbers))
        mixed = partial(mixer, grid=4, pattern=pattern)(16)(views()[0], drawn(step), 0)
        assert torch.equal(mixed.view == views()[0], (own == 1).expand_as(mixed.view))


def test_symmetric_base_can_meet_both_keys() -> None:
    """Oracle: the mixture's row losses against both keys, summed; by default against the second view's only."""
    symmetric = partial(MOCO, symmetric=True)
    method = mixture(symmetric, target_views=(0, 1))
    own, partner = mask_of(), partners("random")
    online, targets = method.base.passes(views(), drawn())
    (branch,) = method.base.encode([mixed_by_hand(own, partner, views()[0])])
    share, terms = own.double().mean(), []
    for k in (0, 1):
        losses = row_losses("moco", method, branch.prediction, targets[k])
        rows = [share * losses[i, i] + (1 - share) * losses[i, j] for i, j in enumerate(partner)]
        terms.append(torch.stack(rows).mean())
    base = method.base.objective(online, targets)
    torch.testing.assert_close(method(views(), drawn()).loss, base + terms[0] + terms[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(mixture(symmetric)(views(), drawn()).loss, base + terms[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", BASES)
def test_all_of_the_base_is_trained_and_carried(name: str) -> None:
    """Oracle: a gradient in each trainable parameter; what the base alone would carry, of the clean views."""
    method = mixture(BASES[name])
    _, targets = method.base.passes(views(), drawn())
    carried, expected = method(views(), drawn()).carry, method.base.carry(targets)
    assert carried.keys() == expected.keys()
    assert all(torch.equal(carried[key], expected[key]) for key in expected)
    assert untrained(method.float()) <= {"base.encoder.net.cls_token"}


@pytest.mark.parametrize("permutation", ["reverse", "random"])
@pytest.mark.parametrize("blend_probability", [0.0, 1.0])
def test_both_kinds_follow_the_permutation(blend_probability: float, permutation: str) -> None:
    """Oracle: what is not the image's own is its partner's, at the share of the clipped square, not the one drawn."""
    for t in range(10):
        mixer = partial(UNMIX, blend_probability=blend_probability, permutation=permutation)
        mixed, uniform = mixer(16)(views()[0], drawn(t), 0), drawn(t).shared(("mixer", 0, "box"), 4)
        own, partner = uniform[1] if blend_probability else box_map(uniform[1:], 16), partners(permutation, step=t)
        expected = own * views()[0] + (1 - own) * views()[0][partner]
        torch.testing.assert_close(mixed.view, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mixed.own_share, own.mean())
        assert mixed.inverse.argsort().tolist() == partner


def test_blend_has_its_probability() -> None:
    """Oracle: a binomial test of how many mixtures leave no pixel as it was."""
    blended = 0
    for t in range(300):
        mixed = partial(UNMIX, blend_probability=0.3)(16)(views()[0][:2], Draws(0, t, 2), 0)
        blended += not (mixed.view == views()[0][:2]).any()
    # a square that covers the whole image leaves none either, which needs an own share below (1/16)^2
    assert binomtest(blended, 300, 0.3).pvalue > 1e-3


def test_erased_cells_have_the_mean_colour() -> None:
    """Oracle: zeros, the mean after normalisation, in the masked cells, and one term of weight 1."""
    method, own = mixture(BASES["moco"], ERASE), mask_of()
    mixed = ERASE(16)(views()[0], drawn(), 0)
    erased = torch.stack([torch.where(own == 1, image, torch.zeros_like(image)) for image in views()[0]])
    torch.testing.assert_close(mixed.view, erased, rtol=0, atol=0)
    online, targets = method.base.passes(views(), drawn())
    (branch,) = method.base.encode([erased])
    term = row_losses("moco", method, branch.prediction, targets[1]).diagonal().mean()
    expected = method.base.objective(online, targets) + term
    torch.testing.assert_close(method(views(), drawn()).loss, expected, rtol=1e-9, atol=0)


def test_noise_fills_erased_cells_only() -> None:
    """Oracle: a Kolmogorov-Smirnov test against the normal distribution; kept pixels stay; rows differ."""
    own, view = mask_of(), views()[0]
    noisy = partial(ERASE, fill="noise")(16)(view, drawn(), 0).view
    torch.testing.assert_close(noisy[:, :, own == 1], view[:, :, own == 1], rtol=0, atol=0)
    noise = noisy[:, :, own == 0]
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert len(noise.flatten(1).unique(dim=0)) == BATCH


def test_impossible_mixtures_are_refused() -> None:
    """Oracle: the messages name the setting and what is possible, when the method is built."""
    with pytest.raises(ConfigError, match=r"Mixture\.mixers is empty; bind .*@MixMask"):
        Mixture(vit(), base=BASES["moco"], mixers=())
    for target_views in ((0,), (0, 1), ()):
        with pytest.raises(ConfigError, match=r"Mixture\.target_views = .* MoCo has targets of the views \(1,\)"):
            mixture(target_views=target_views)
    for mixer in (partial(MASK, grid=17), partial(ERASE, grid=17)):
        with pytest.raises(ConfigError, match="grid = 17: an image of 16 px"):
            mixture(BASES["moco"], mixer)
    with pytest.raises(ConfigError, match=r"blend_probability = 1\.5"):
        mixture(BASES["moco"], partial(UNMIX, blend_probability=1.5))
