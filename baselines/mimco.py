"""MimCo (Zhou et al. 2022, arXiv:2209.03063): a masked student reconstructs, by contrast, what a teacher sees."""

import gin
import torch
from torch import nn

from benchmark.annotations import Positive
from benchmark.errors import ConfigError
from benchmark.losses import info_nce, info_nce_patches
from benchmark.method import Method, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.frozen import Frozen
from benchmark.nets.heads import Head, mlp
from benchmark.nets.masking import check_squares, mask_of, masked_units, pick
from benchmark.randomness import Draws


@gin.register
class MimCo(Method):
    """The student sees one view with squares of patches replaced by a mask token, the frozen teacher sees all of it.

    loss = patch_weight * InfoNCE(masked patches) + image_weight * InfoNCE(images). A masked patch's feature is
    contrasted with the teacher's features of the same image at the masked places, an image's feature with the
    teacher's of the whole batch.

    Differs from the paper: only its abstract and its idea were at hand, so the following is our choice. The masks are
    SimMIM's (arXiv:2111.09886), `mask_unit` x `mask_unit` patches each; teacher and student see the same crop; the
    patch head is linear - GELU - linear on the student alone, the image head linear - batch norm - ReLU - linear on
    the class token, or on the mean of a Swin's tokens; negatives are the image's other masked patches and the batch's
    other images; the teacher's features are neither projected nor centred.
    """

    n_views = 1

    def __init__(
        self,
        encoder: Encoder,
        teacher: Encoder,
        *,
        mask_ratio: float,
        mask_unit: int,
        patch_temperature: Positive,
        image_temperature: Positive,
        patch_weight: float,
        image_weight: float,
    ) -> None:
        super().__init__()
        (tokens, patch), (theirs, their_patch) = (net.patch_grid(dropped=False) for net in (encoder, teacher))
        if (theirs, their_patch) != (tokens, patch):
            raise ConfigError(
                f"MimCo compares patches one by one, but the teacher has {theirs} of {their_patch} px and the student "
                f"{tokens} of {patch} px. Give both the same patch and image size."
            )
        side = round(tokens**0.5)
        if mask_unit < 1 or side % mask_unit:
            raise ConfigError(
                f"MimCo.mask_unit = {mask_unit} does not divide the {side} x {side} patches of {encoder.name}; choose "
                f"a divisor of {side}."
            )
        self.squares = side // mask_unit
        if patch_weight < 0 or image_weight < 0 or not patch_weight + image_weight:
            raise ConfigError(
                f"MimCo needs weights of at least 0, one of them above; got patch_weight = {patch_weight} and "
                f"image_weight = {image_weight}."
            )
        self.encoder = encoder
        self.teacher = Frozen(teacher)
        assert encoder.fill_width is not None
        self.mask_token = nn.Parameter(torch.empty(encoder.fill_width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.patch_head = Head(
            nn.Linear(encoder.width, encoder.width), nn.GELU(), nn.Linear(encoder.width, teacher.width)
        )
        self.image_head = mlp(encoder.width, encoder.width, teacher.width, layers=2, bias=True)
        self.mask_ratio, self.mask_unit = check_squares(mask_ratio, self.squares**2, "MimCo.mask_ratio"), mask_unit
        self.patch_temperature, self.image_temperature = patch_temperature, image_temperature
        self.patch_weight, self.image_weight = patch_weight, image_weight

    def forward(self, views: Views, draws: Draws) -> Step:
        (view,) = views
        ids = masked_units(draws.rows("mask", self.squares, self.squares), self.mask_ratio, self.mask_unit)
        mask = mask_of(ids, (self.squares * self.mask_unit) ** 2)
        teacher = self.teacher(view)
        student = self.encoder(view, fill=(mask, self.mask_token))
        assert student.tokens is not None
        assert teacher.tokens is not None
        patches = info_nce_patches(
            self.patch_head(pick(student.tokens, ids)), pick(teacher.tokens, ids), temperature=self.patch_temperature
        )
        images = info_nce(self.image_head(student.pooled), teacher.pooled, temperature=self.image_temperature)
        logs = {"patch_loss": patches.detach(), "image_loss": images.detach(), "mask_ratio": mask.mean()}
        return Step(self.patch_weight * patches + self.image_weight * images, logs)
