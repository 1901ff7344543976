"""SimMIM (Xie et al. 2022, arXiv:2111.09886): predict the pixels of masked squares by one linear layer."""

import gin
import torch
from torch import Tensor, nn

from benchmark.annotations import Count
from benchmark.errors import ConfigError
from benchmark.losses import reconstruction
from benchmark.method import Method, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.nets.masking import check_squares, mask_of, masked_units, patchify, unpatchify
from benchmark.randomness import Draws


@gin.register
class SimMIM(Method):
    """Squares of one view are replaced by a mask token; a linear layer predicts their pixels from the last tokens.

    loss = |prediction - pixel|, averaged over the masked pixels of the batch (section 3.4 and the authors' code). A
    square has `mask_unit` x `mask_unit` patches of `patch` pixels. As many are masked as `mask_ratio` asks for, rounded
    up.

    Differs from the paper: a ViT has fixed positions in place of learned biases, no residual branch is left out, and
    its class token serves no loss. A Swin's table of relative positions and the mask token decay as the protocol says.
    Optimiser and schedule are the protocol's, without the authors' clip of 5.0 (`AdamW.clip`).
    """

    n_views = 1

    def __init__(self, encoder: Encoder, *, mask_ratio: float, mask_unit: Count, patch: Count) -> None:
        super().__init__()
        self.tokens, self.patch = encoder.patch_grid(dropped=False)
        square = mask_unit * patch
        if square % self.patch or encoder.image_size % square:
            raise ConfigError(
                f"SimMIM.mask_unit = {mask_unit} and SimMIM.patch = {patch} make squares of {square} px. They must "
                f"consist of tokens of {self.patch} px ({encoder.name}) and divide the image side {encoder.image_size}."
            )
        self.squares, self.unit = encoder.image_size // square, square // self.patch
        self.mask_ratio = check_squares(mask_ratio, self.squares**2, "SimMIM.mask_ratio")
        assert encoder.fill_width is not None
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.empty(encoder.fill_width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.predict = nn.Linear(encoder.width, self.patch**2 * 3)

    def forward(self, views: Views, draws: Draws) -> Step:
        mask, predicted = self._predict(views[0], draws)
        patches = patchify(views[0], self.patch)
        loss = reconstruction(
            predicted, patches, mask, masked_weight=1.0, visible_weight=0.0, kind="l1", standardised=False
        )
        return Step(loss, {"mask_ratio": mask.mean()})

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        mask, predicted = self._predict(views[0], draws)
        patches, masked = patchify(views[0], self.patch), mask[..., None].bool()
        images = {
            "original": views[0],
            "visible": unpatchify(patches.masked_fill(masked, torch.nan), self.patch),
            "restored": unpatchify(torch.where(masked, predicted, patches), self.patch),
        }
        return {f"reconstructions/{row}": image for row, image in images.items()}

    def _predict(self, view: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the mask `(batch, tokens)` and the predicted pixels `(batch, tokens, pixels)` of a view."""
        ids = masked_units(draws.rows("mask", self.squares, self.squares), self.mask_ratio, self.unit)
        mask = mask_of(ids, self.tokens)
        features = self.encoder(view, fill=(mask, self.mask_token))
        return mask, self.predict(features.tokens)
