"""DINO (Caron et al. 2021, arXiv:2104.14294): each crop predicts what a momentum copy makes of another, large one."""

from dataclasses import replace

import gin
import torch
from torch import Tensor, nn

from benchmark.annotations import Count, Fraction, Natural, Positive, Probability, Share
from benchmark.losses import full_precision, soft_cross_entropy
from benchmark.method import Method, ParamGroup, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import prototype_head
from benchmark.nets.momentum import MomentumCopy, check_momentum, cosine_momentum
from benchmark.randomness import Draws
from benchmark.views.recipes import Interval, Strengths, View, ViewLimits


@gin.register
def multi_crop(
    limits: ViewLimits,
    *,
    local_views: Natural = 6,
    local_resolution: Share = 0.5,
    global_scale: Interval = (0.4, 1.0),
    local_scale: Interval = (0.05, 0.4),
    jitter: Strengths = (0.4, 0.4, 0.2, 0.1),
    jitter_p: Probability = 0.8,
    grey_p: Probability = 0.2,
    global_blur_p: Interval = (1.0, 0.1),
    local_blur_p: Probability = 0.5,
    solarize_p: Probability = 0.2,
) -> tuple[View, ...]:
    """Two large crops, of which the second is at times solarized, and small crops of a lower resolution.

    Where the data limit the scale of crops, both ranges are cut to what is allowed.
    """
    low, high = limits.crop_scale or (0.0, 1.0)
    wide, narrow = ((min(max(a, low), high), min(max(b, low), high)) for a, b in (global_scale, local_scale))
    shared = View(crop_scale=wide, interpolation="bicubic", jitter=jitter, jitter_p=jitter_p, grey_p=grey_p)
    first = replace(shared, blur_p=global_blur_p[0])
    second = replace(shared, blur_p=global_blur_p[1], solarize_p=solarize_p)
    local = replace(shared, crop_scale=narrow, blur_p=local_blur_p, resolution=local_resolution)
    limits = replace(limits, crop_scale=None)
    return tuple(limits.apply(view) for view in (first, second, *[local] * local_views))


@full_precision
def sharpened(logits: Tensor, centre: Tensor, temperature: Tensor) -> Tensor:
    """Return the teacher's probabilities `(..., prototypes)`: softmax((logits - centre) / temperature)."""
    return ((logits - centre) / temperature).softmax(dim=-1)


@gin.register
class DINO(Method):
    """Cross entropy of the student for each crop with the teacher for each other large crop, the mean of all (Eq. 3).

    The teacher sees the two large crops alone. Its logits are centred by a moving average of their mean (Eq. 4) and
    sharpened by a temperature that rises on a line from the first of `teacher_temperatures` to the second during
    `temperature_warmup` of the run. Its weights follow the student's, with a momentum that rises to 1 on a half cosine.
    Crops of one size pass the encoder together. The prototypes rest for the share `prototypes_frozen` of the run.

    Differs from the paper: there is no stochastic depth, and the gradients of each tensor are not clipped; the weight
    decay is the protocol's, where the paper raises it on a half cosine, as gin/paper/dino.gin does; a ViT has fixed
    positions; the temperature of the teacher rises from step to step, where the authors' code has one for each epoch.
    """

    takes_more_views = True
    centre: Tensor

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
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = prototype_head(encoder.width, head_hidden, bottleneck, prototypes)
        self.target = MomentumCopy(encoder, self.projector)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.temperature, self.prototypes_frozen = temperature, prototypes_frozen
        self.teacher_temperatures, self.temperature_warmup = teacher_temperatures, temperature_warmup
        self.momentum = check_momentum(momentum, f"{type(self).__name__}.momentum")
        self.centre_momentum = check_momentum(centre_momentum, f"{type(self).__name__}.centre_momentum")

    def forward(self, views: Views, draws: Draws) -> Step:
        large, small = list(views[:2]), list(views[2:])
        student = [logits for crops in filter(None, (large, small)) for logits in self.student(crops)]
        teacher = self.target(torch.cat(large))
        return Step(self.compare(student, teacher), carry={"mean": teacher.mean(0)})

    def compare(self, student: list[Tensor], teacher: Tensor) -> Tensor:
        """Return the mean over pairs of a crop, by its logits, and another, large one: `teacher` has those of both."""
        expected = sharpened(teacher, self.centre, self.teacher_temperature()).chunk(2)
        pairs = [(s, t) for t in range(2) for s in range(len(student)) if s != t]
        return torch.stack([soft_cross_entropy(student[s] / self.temperature, expected[t]) for s, t in pairs]).mean()

    def teacher_temperature(self) -> Tensor:
        first, last = self.teacher_temperatures
        return first + (last - first) * (self.progress / self.temperature_warmup).clamp(max=1)

    def student(self, crops: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the logits `(batch, prototypes)` of each of some crops of one size."""
        return self.projector(self.encoder(torch.cat(crops)).pooled).chunk(len(crops))  # type: ignore[no-any-return]

    def after_backward(self, step: Step) -> None:
        self.centre.lerp_(step.carry["mean"], 1 - self.centre_momentum)

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, self.projector, cosine_momentum(self.momentum, progress))

    def param_groups(self) -> list[ParamGroup]:
        """Return the prototypes, which rest at first, and all else."""
        resting = list(self.projector[-1].parameters())
        others = [p for p in self.parameters() if p.requires_grad and all(p is not each for each in resting)]
        return [ParamGroup(others), ParamGroup(resting, frozen=self.prototypes_frozen)]

    def projection_head(self) -> nn.Module:
        return self.projector[:-1]
