"""MixMask (arXiv:2210.11456) and its relatives: a two-view method that also sees mixtures of two images.

`Mixture` holds any two-view method; its mixers are `MixMask`, `UnMix` (Shen et al. 2022, arXiv:2003.05438) and
`Erase`, the comparison in which the masked pixels are not filled by another image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import gin
import torch
from torch import Tensor

from benchmark.errors import ConfigError
from benchmark.method import Container, Siamese, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.mixing import GridMask, Pattern, box_map
from benchmark.randomness import Draws

Permutation = Literal["reverse", "random"]
Ratio = float | tuple[float, float]


@dataclass(frozen=True)
class Mixed:
    """Mixed views `(batch, 3, side, side)` and what they hold.

    `own_share` is the share of a mixture that is its own image, a scalar in (0, 1]. Row `inverse[i]` of the mixtures
    `(batch,)` holds image i as the filler; None where no image fills.
    """

    view: Tensor
    own_share: Tensor
    inverse: Tensor | None


class Mixer(Protocol):
    """Mixes the images of one view; its draws are named by its `place` among the mixers."""

    def __call__(self, view: Tensor, draws: Draws, place: int) -> Mixed: ...


@gin.register
class MixMask:
    """Fills the masked cells of each image from its partner: one mask per batch (Eq. 1).

    Grid, `pattern` and `mask_ratio` are those of `GridMask`. The partner is the image at the mirrored place of the
    batch or, under "random", that of a random permutation.
    """

    def __init__(
        self, image_size: int, *, grid: int, pattern: Pattern, mask_ratio: Ratio, permutation: Permutation
    ) -> None:
        self.mask = GridMask(image_size, grid=grid, pattern=pattern, ratio=mask_ratio)
        self.permutation = permutation

    def __call__(self, view: Tensor, draws: Draws, place: int) -> Mixed:
        weights = self.mask(draws.shared(("mixer", place, "mask"), self.mask.numbers))
        return _mix(view, weights, self.permutation, draws, place)


@gin.register
class UnMix:
    """Blends each image with its partner, or pastes a square of the partner into it.

    One choice per batch, as in the code of Shen et al. 2022: a blend with `blend_probability`, else a square. The own
    share of a blend is uniform; that of a square is what is left after clipping.
    """

    def __init__(self, image_size: int, *, blend_probability: float, permutation: Permutation) -> None:
        if not 0 <= blend_probability <= 1:
            raise ConfigError(f"UnMix.blend_probability = {blend_probability}: a probability is a number in [0, 1].")
        self.image_size, self.blend_probability, self.permutation = image_size, blend_probability, permutation

    def __call__(self, view: Tensor, draws: Draws, place: int) -> Mixed:
        uniform = draws.shared(("mixer", place, "box"), 4)
        box = box_map(uniform[1:], self.image_size)
        weights = torch.where(uniform[0] < self.blend_probability, uniform[1].expand_as(box), box)
        return _mix(view, weights, self.permutation, draws, place)


@gin.register
class Erase:
    """Fills the masked cells of each image with the data set's mean colour, or with Gaussian noise (section 4.2)."""

    def __init__(
        self, image_size: int, *, grid: int, pattern: Pattern, mask_ratio: Ratio, fill: Literal["mean", "noise"]
    ) -> None:
        self.mask = GridMask(image_size, grid=grid, pattern=pattern, ratio=mask_ratio)
        self.fill = fill

    def __call__(self, view: Tensor, draws: Draws, place: int) -> Mixed:
        kept = self.mask(draws.shared(("mixer", place, "mask"), self.mask.numbers))
        erased = kept * view
        if self.fill == "noise":
            radius, angle = draws.rows(("mixer", place, "noise"), 2, *view.shape[1:]).unbind(1)
            erased = erased + (1 - kept) * (-2 * torch.log1p(-radius)).sqrt() * (2 * torch.pi * angle).cos()
        return Mixed(erased, kept.mean(), None)


def _mix(view: Tensor, weights: Tensor, permutation: Permutation, draws: Draws, place: int) -> Mixed:
    """Weight each image by `weights` `(side, side)` and its partner by the rest."""
    if permutation == "random":
        partner = draws.shared(("mixer", place, "partner"), len(view)).argsort()
    else:
        partner = torch.arange(len(view) - 1, -1, -1, device=view.device)
    return Mixed(weights * view + (1 - weights) * view[partner], weights.mean(), partner.argsort())


@gin.register
class Mixture(Container):
    """Adds to the base's loss, for each mixer, a term of the mixed first view against the clean targets (Eq. 4 to 6).

    term = lambda * compare(a, t) + (1 - lambda) * compare(a[inverse], t), with a = the online network on the mixture,
    t = the target of each of `target_views`, summed, and lambda = the mixture's actual own share. The base's own
    passes and targets are used again: a mixer costs one more forward of the online network. Two mixers of different
    permutations are the paper's MixMask*.

    Differs from the paper: its public code covers MoCo only, and the terms on other bases follow it: the mixture is
    never a target, SimCLR contrasts one direction without negatives of its own view, and the term's weight is 1 beside
    a base of any scale. Under symmetric MoCo the mixture meets both keys, as in the public code of Un-Mix, where
    `target_views` says so. Empty and full masks are mended by one cell. Erasing has one term of weight 1, where the
    paper names two, and stands for the erasing alone of Jing et al. 2022 (arXiv:2206.07700), without their filters
    and crops. Mixing pixels on a ViT is an extension.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Callable[[Encoder], Siamese],
        mixers: tuple[Callable[[int], Mixer], ...],
        target_views: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__(encoder, base)
        if not mixers:
            raise ConfigError("Mixture.mixers is empty; bind at least one, for instance (@MixMask,).")
        if not target_views or not set(target_views) <= set(self.base.target_views):
            raise ConfigError(
                f"Mixture.target_views = {target_views}: {type(self.base).__name__} has targets of the views "
                f"{self.base.target_views}. Use some of these."
            )
        self.mixers = tuple(mixer(encoder.image_size) for mixer in mixers)
        self.compared = target_views

    def forward(self, views: Views, draws: Draws) -> Step:
        online, targets = self.base.passes(views, draws)
        base = self.base.objective(online, targets)
        loss, logs = base, {"base_loss": base.detach()}
        for place, mixed in enumerate(self._mixed(views, draws)):
            (branch,) = self.base.encode([mixed.view])
            for k in self.compared:
                loss = loss + self._term(branch.prediction, targets[k], mixed)
            logs |= {f"own_share_{place}": mixed.own_share, f"mask_ratio_{place}": 1 - mixed.own_share}
        return Step(loss, logs | {"mixture_loss": (loss - base).detach()}, self.base.carry(targets))

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        shown = {"mixtures/view": views[0]}
        for place, (mixer, mixed) in enumerate(zip(self.mixers, self._mixed(views, draws), strict=True), start=1):
            if mixed.inverse is not None:
                shown[f"mixtures/filler {place}"] = views[0][mixed.inverse.argsort()]
            shown[f"mixtures/{type(mixer).__name__} {place}"] = mixed.view
        return shown

    def _mixed(self, views: Views, draws: Draws) -> Iterator[Mixed]:
        return (mixer(views[0], draws, place) for place, mixer in enumerate(self.mixers))

    def _term(self, prediction: Tensor, target: Tensor, mixed: Mixed) -> Tensor:
        to_image = self.base.compare(prediction, target)
        if mixed.inverse is None:
            return to_image
        to_filler = self.base.compare(prediction[mixed.inverse], target)
        return mixed.own_share * to_image + (1 - mixed.own_share) * to_filler
