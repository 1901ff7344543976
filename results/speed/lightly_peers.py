"""Lightly 1.6 at the work of our methods: its loader, transforms, modules and losses, trained by Lightning's Trainer.

Numbers that decide what a step costs (widths, depths, the share of masked tokens) are those of ours; everything else
is as lightly ships it or shows it in its examples.
"""

import time

import gin
import lightly
import pytorch_lightning as pl
import torch
from lightly.loss import NTXentLoss
from lightly.models import ResNetGenerator, utils
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightly.models.modules.heads import SimCLRProjectionHead
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from lightly.transforms import MAETransform, SimCLRTransform
from lightning_peers import Pictures, Trained, loader
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.errors import MissingError

PINNED = "1.6"
LIBRARY = f"lightly {lightly.__version__}"

if not lightly.__version__.startswith(f"{PINNED}."):
    raise MissingError(
        f"The peers are written for lightly {PINNED}, found {lightly.__version__}. Install that version."
    )


@gin.register
class LightlyViews:
    """The views of SimCLR, made in worker processes that are kept from turn to turn."""

    def __init__(self, images: Tensor, batch_size: int, steps: int, *, name: str, blur: float) -> None:
        self.name, self.library = name, LIBRARY
        transform = SimCLRTransform(input_size=images.shape[-1], gaussian_blur=blur)
        self.batches = loader(Pictures(images, transform), batch_size, steps, persistent=True)

    def flops(self, batch_size: int) -> None:
        return None

    def __call__(self) -> float:
        begin = time.perf_counter()
        for _ in self.batches:
            pass
        return time.perf_counter() - begin


class Contrast(pl.LightningModule):
    """The example of SimCLR, with the ResNet for small images and a projector of our size."""

    views = 2

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        resnet = ResNetGenerator("resnet-18")
        self.backbone = nn.Sequential(*list(resnet.children())[:-1], nn.AdaptiveAvgPool2d(1))
        self.projection_head = SimCLRProjectionHead(512, hidden, width)
        self.criterion = NTXentLoss()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        a, b = (self.projection_head(self.backbone(view).flatten(start_dim=1)) for view in batch)
        return self.criterion(a, b)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


@gin.register
class LightlySimCLR(Trained):
    """SimCLR on a ResNet-18 for small images; `precision` is the Trainer's, by default float32."""

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        steps: int,
        *,
        name: str,
        projector_hidden: int,
        projector_width: int,
        precision: str = "32-true",
    ) -> None:
        pictures = Pictures(images, SimCLRTransform(input_size=images.shape[-1], gaussian_blur=0.0))
        module = Contrast(projector_hidden, projector_width)
        super().__init__(module, pictures, batch_size, steps, name=name, library=LIBRARY, precision=precision)


class Restore(pl.LightningModule):
    """The example of MAE, with an encoder and a decoder of our sizes."""

    views = 1

    def __init__(
        self, size: int, patch: int, width: int, depth: int, heads: int, decoder: tuple[int, int, int], ratio: float
    ) -> None:
        super().__init__()
        vit = VisionTransformer(size, patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0)
        narrow, blocks, decoder_heads = decoder
        self.patch, self.ratio = patch, ratio
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.embed = nn.Linear(width, narrow)
        self.decoder = MaskedVisionTransformerDecoderTIMM((size // patch) ** 2, narrow, blocks, decoder_heads)
        self.predict = nn.Linear(narrow, patch**2 * 3)
        self.criterion = nn.MSELoss()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images = batch[0]
        length = self.backbone.sequence_length
        keep, mask = utils.random_token_mask((len(images), length), self.ratio, device=images.device)
        encoded = self.embed(self.backbone.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), length))
        tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
        predicted = self.predict(utils.get_at_index(self.decoder(tokens), mask))
        target = utils.get_at_index(utils.patchify(images, self.patch), mask - 1)
        target = utils.normalize_mean_var(target, dim=-1)
        return self.criterion(predicted, target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1.5e-4)


@gin.register
class LightlyMAE(Trained):
    """MAE on a small ViT; `decoder` is width, depth and heads, `precision` the Trainer's."""

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        steps: int,
        *,
        name: str,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        decoder: tuple[int, int, int],
        mask_ratio: float,
        precision: str = "32-true",
    ) -> None:
        size = images.shape[-1]
        pictures = Pictures(images, MAETransform(input_size=size))
        module = Restore(size, patch, width, depth, heads, decoder, mask_ratio)
        super().__init__(module, pictures, batch_size, steps, name=name, library=LIBRARY, precision=precision)
