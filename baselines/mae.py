"""MAE (He et al. 2022, arXiv:2111.06377): restore the pixels of masked patches."""

from collections.abc import Callable

import gin
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.method import Method, Step, Views
from benchmark.nets.encoders import Encoder, Features
from benchmark.nets.masking import visible_tokens
from benchmark.nets.reconstruction import Restoration
from benchmark.randomness import Draws


@gin.register
class MAE(Method):
    """The encoder sees the visible patches of one view; a decoder restores the masked ones, standardised per patch.

    The loss is the squared error, averaged over the pixels of a patch and over the masked patches of the batch
    (section 3). At least `mask_ratio` of the patches is masked.

    Differs from the paper: the encoder's initialisation is the protocol's; the decoder's size too, since the paper's
    512 x 8 would cost more than a small encoder; the decoder starts from Xavier-uniform matrices, as in the authors'
    code.
    """

    n_views = 1

    def __init__(self, encoder: Encoder, *, decoder: Callable[[Encoder], nn.Module], mask_ratio: float) -> None:
        super().__init__()
        if mask_ratio == 0:
            raise ConfigError("MAE.mask_ratio = 0 masks no patch, and the loss has no other; use more than 0.")
        self.encoder = encoder
        self.restore = Restoration(encoder, decoder, masked_weight=1.0)
        self.mask_ratio = self.restore.check(mask_ratio, "MAE.mask_ratio")

    def forward(self, views: Views, draws: Draws) -> Step:
        features = self._encode(views, draws)
        return Step(self.restore(views[0], features), {"mask_ratio": self.restore.share(features.visible)})

    def pictures(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        return self.restore.pictures(views[0], self._encode(views, draws))

    def _encode(self, views: Views, draws: Draws) -> Features:
        visible = visible_tokens(draws.rows(("mask", 0), self.restore.tokens), self.mask_ratio)
        features: Features = self.encoder(views[0], visible)
        return features
