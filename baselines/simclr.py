"""SimCLR (Chen et al. 2020, arXiv:2002.05709): agreement of two views against all other views of the batch."""

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, Positive
from benchmark.errors import ConfigError
from benchmark.losses import info_nce, nt_xent
from benchmark.method import Branch, Siamese, Views, Visible
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.heads import mlp


@gin.register
class SimCLR(Siamese):
    """NT-Xent (Eq. 1) on the projections of both views, which pass the network in one joint forward.

    The joint forward matters: batch norm sees the statistics of both views, as in the authors' code. With `joint` =
    False each view has a forward of its own. `projector_norm` is the batch norm of the projector's hidden layers, and
    `projector_bias` the bias of its last layer.

    Differs from the paper: the projector has batch norm in its hidden layers and none on its output; the loss is the
    mean over the 2 * batch rows, where the authors' code sums the two halves (twice this mean); crops are resized
    bilinearly, where that code is bicubic.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive,
        projector_layers: Count,
        projector_hidden: Count,
        projector_width: Count,
        projector_norm: bool = True,
        projector_bias: bool = False,
        joint: bool = True,
    ) -> None:
        projector = mlp(
            encoder.width,
            projector_hidden,
            projector_width,
            layers=projector_layers,
            batch_norm=projector_norm,
            bias=projector_bias,
        )
        super().__init__(encoder, projector)
        self.temperature, self.joint = temperature, joint

    def encode(self, views: Views, visible: Visible | None = None) -> tuple[Branch, ...]:
        """Pass all views through the network in one forward, which needs equally many visible tokens in each."""
        if not self.joint:
            return super().encode(views, visible)
        kept = [ids for ids in visible or [] if ids is not None]
        counts = [None if ids is None else ids.shape[1] for ids in visible or []]
        if len(set(counts)) > 1:
            raise ConfigError(
                f"SimCLR joins its views in one forward and needs as many visible tokens in each, got {counts} (None: "
                f"all). Mask the views at one ratio, or use a base that encodes each view by itself."
            )
        features = self.encoder(torch.cat(list(views)), torch.cat(kept) if kept else None)
        parts = [
            [None] * len(views) if joint is None else joint.chunk(len(views))
            for joint in (features.pooled, features.tokens, features.visible, self.projector(features.pooled))
        ]
        return tuple(Branch(z, z, Features(pooled, tokens, ids)) for pooled, tokens, ids, z in zip(*parts, strict=True))

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Contrast each row with all targets: one direction, without the negatives of its own view."""
        return info_nce(prediction, target, temperature=self.temperature)

    def objective(self, online: dict[int, Branch], targets: dict[int, Tensor]) -> Tensor:
        return nt_xent(online[0].projection, targets[1], temperature=self.temperature)
