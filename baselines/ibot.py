"""iBOT (Zhou et al. 2022, arXiv:2111.07832): DINO on class tokens, and the same on masked patches."""

import gin
import torch
from torch import Tensor, nn

from baselines.dino import DINO, sharpened
from benchmark.annotations import Count, Fraction, Positive, Probability, Share
from benchmark.errors import ConfigError
from benchmark.losses import masked_soft_cross_entropy
from benchmark.method import Step, Views
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.masking import masked_blocks
from benchmark.randomness import Draws

TRIES = 16
"""Rectangles that are tried for a mask. Its mean share is then the authors' to 0.001 on 4 x 4, 8 x 8 and 14 x 14."""


def of_patches(head: nn.Module, features: Features) -> Tensor:
    """Return the logits `(batch, tokens, prototypes)` of each patch token."""
    assert features.tokens is not None
    return head(features.tokens.flatten(0, 1)).unflatten(0, features.tokens.shape[:2])  # type: ignore[no-any-return]


@gin.register
class IBOT(DINO):
    """Large crops lose rectangles of patches to a mask token; the teacher sees them whole.

    loss = DINO's, between class tokens of different crops, + the cross entropy of the student with the teacher at the
    masked patches of the same crop, averaged over these, the images and both large crops (Eq. 2 and 3). One head serves
    class and patch tokens. Logits of patches have a centre of their own, which follows the mean of the teacher's over
    all patches, and the temperatures of class tokens. With probability `mask_p` a crop is masked, by up to a share that
    is uniform in the range `mask_ratios`, else it is whole.

    Differs from the paper: as DINO here does. The mask token does not decay. The gains of the prototypes are fixed at
    1, as in the authors' code for a ViT-B, and not learnt, as for a ViT-S. For each mask 16 rectangles are tried, where
    the authors' code stops after ten in a row that do not fit.
    """

    patch_centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive,
        teacher_temperatures: tuple[Positive, Positive],
        temperature_warmup: Share,
        momentum: float,
        centre_momentum: float,
        prototypes: Count,
        prototypes_frozen: Fraction,
        head_hidden: Count,
        bottleneck: Count,
        mask_p: Probability,
        mask_ratios: tuple[Fraction, Fraction],
        mask_aspect: tuple[Positive, Positive],
    ) -> None:
        super().__init__(
            encoder,
            temperature=temperature,
            teacher_temperatures=teacher_temperatures,
            temperature_warmup=temperature_warmup,
            momentum=momentum,
            centre_momentum=centre_momentum,
            prototypes=prototypes,
            prototypes_frozen=prototypes_frozen,
            head_hidden=head_hidden,
            bottleneck=bottleneck,
        )
        for name, (low, high) in {"mask_ratios": mask_ratios, "mask_aspect": mask_aspect}.items():
            if low > high:
                raise ConfigError(f"IBOT.{name} = {(low, high)} is no range: give the smaller number first.")
        self.side = round(encoder.patch_grid(dropped=False)[0] ** 0.5)
        self.mask_p, self.mask_ratios, self.mask_aspect = mask_p, mask_ratios, mask_aspect
        assert encoder.fill_width is not None
        self.mask_token = nn.Parameter(torch.zeros(encoder.fill_width))
        self.register_buffer("patch_centre", torch.zeros(prototypes))

    def forward(self, views: Views, draws: Draws) -> Step:
        large, small = torch.cat(list(views[:2])), list(views[2:])
        mask = self.masks(draws)
        seen, (teacher, whole) = self.encoder(large, fill=(mask, self.mask_token)), self.target.encode(large)
        student = [*self.projector(seen.pooled).chunk(2), *(self.student(small) if small else ())]
        classes = self.compare(student, teacher)
        patches, expected = of_patches(self.projector, seen), of_patches(self.target.projector, whole)
        probabilities = sharpened(expected, self.patch_centre, self.teacher_temperature())
        restored = masked_soft_cross_entropy(patches / self.temperature, probabilities, mask)
        logs = {"class_loss": classes.detach(), "patch_loss": restored.detach(), "mask_ratio": mask.mean()}
        return Step(classes + restored, logs, {"mean": teacher.mean(0), "patch_mean": expected.mean((0, 1))})

    def masks(self, draws: Draws) -> Tensor:
        """Return which patches of both large crops are masked, `(2 * batch, tokens)` floats."""
        is_masked, share = torch.cat([draws.rows(("ratio", crop), 2) for crop in range(2)]).unbind(1)
        low, high = self.mask_ratios
        ratio = torch.where(is_masked < self.mask_p, low + share * (high - low), 0.0)
        blocks = torch.cat([draws.rows(("mask", crop), TRIES, 4) for crop in range(2)])
        return masked_blocks(blocks, ratio, self.side, self.mask_aspect)

    def after_backward(self, step: Step) -> None:
        super().after_backward(step)
        self.patch_centre.lerp_(step.carry["patch_mean"], 1 - self.centre_momentum)
