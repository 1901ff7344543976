"""stable-pretraining 0.1 at the work of our methods: its methods and transforms, trained by Lightning's Trainer.

Numbers that decide what a step costs (widths, depths, the share of masked tokens) are those of ours; everything else
is as stable-pretraining ships it or shows it in its examples. Its decoder of MAE has a layer for queries that ours has
not, and decodes no class token: its step costs 0.4 % more FLOPs.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gin
import pytorch_lightning as pl
import torch
from lightning_peers import Pictures, Trained
from loguru import logger
from stable_pretraining.data import transforms
from stable_pretraining.methods import MAE, SimCLR
from timm import create_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.errors import MissingError

PINNED = "0.1"
LIBRARY = f"stable-pretraining {version('stable-pretraining')}"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of its example

if not version("stable-pretraining").startswith(f"{PINNED}."):
    raise MissingError(f"The peers are written for stable-pretraining {PINNED}, found {LIBRARY}. Install that version.")
logger.disable("stable_pretraining")  # each module would introduce itself


class Views:
    """The views of an image, made by transforms that take and return a dictionary."""

    def __init__(self, views: int, *steps: Callable[[Any], Any]) -> None:
        self.views = views
        self.transform = transforms.Compose(transforms.RGB(), *steps, transforms.ToImage(mean=MEAN, std=STD))

    def __call__(self, picture: Any) -> list[Tensor]:
        return [self.transform({"image": picture})["image"] for _ in range(self.views)]


class Fit(pl.LightningModule):
    """A method of the library, which takes the views and returns its loss."""

    def __init__(self, method: nn.Module, views: int, optimiser: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.method, self.views, self.optimiser = method, views, optimiser

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.method(*batch).loss
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimiser(self.parameters())


@gin.register
class StableSimCLR(Trained):
    """SimCLR on a ResNet-18 for small images; `precision` is the Trainer's."""

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        steps: int,
        *,
        name: str,
        projector_hidden: int,
        projector_width: int,
        precision: str,
    ) -> None:
        resnet = create_model("resnet18", num_classes=0)
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        module = Fit(
            SimCLR(resnet, (projector_hidden, projector_width)),
            2,
            lambda parameters: torch.optim.SGD(parameters, lr=0.06),
        )
        views = Views(  # of its example on CIFAR-10, without its blur, as ours
            2,
            transforms.RandomResizedCrop((images.shape[-1],) * 2),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
            transforms.RandomGrayscale(p=0.2),
        )
        pictures = Pictures(images, views)
        super().__init__(module, pictures, batch_size, steps, name=name, library=LIBRARY, precision=precision)


@gin.register
class StableMAE(Trained):
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
        precision: str,
    ) -> None:
        size = images.shape[-1]
        vit = VisionTransformer(size, patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0)
        module = Fit(MAE(vit, *decoder, mask_ratio), 1, lambda parameters: torch.optim.AdamW(parameters, lr=1.5e-4))
        views = Views(
            1, transforms.RandomResizedCrop((size, size), scale=(0.2, 1.0)), transforms.RandomHorizontalFlip(p=0.5)
        )
        pictures = Pictures(images, views)
        super().__init__(module, pictures, batch_size, steps, name=name, library=LIBRARY, precision=precision)
