"""Another library's module, transforms and worker processes under Lightning's Trainer: what the peers share."""

import logging
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import to_pil_image

WORKERS = 2
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # each turn would introduce itself


class Pictures(Dataset[Any]):
    """Images as they come from a file, for a transform that asks for PIL."""

    def __init__(self, images: Tensor, transform: Callable[[Any], list[Tensor]]) -> None:
        self.pictures = [to_pil_image(image) for image in images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.pictures[index])


def loader(pictures: Pictures, batch_size: int, batches: int, *, persistent: bool) -> DataLoader[Any]:
    """Return a loader of `batches` random batches an epoch."""
    return DataLoader(
        pictures,
        batch_size=batch_size,
        sampler=RandomSampler(pictures, num_samples=batches * batch_size),
        num_workers=WORKERS,
        persistent_workers=persistent,
    )


class Clock(pl.Callback):
    """Times the batches after the first, which waits for the workers to start."""

    seconds = 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        if batch_idx == 0:
            self.begin = time.perf_counter()
        self.seconds = time.perf_counter() - self.begin


class Trained:
    """A module under Lightning's Trainer, which says how many `views` a step takes; a turn is a fit of its own.

    `library` is its library with the version, `precision` the Trainer's.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        pictures: Pictures,
        batch_size: int,
        steps: int,
        *,
        name: str,
        library: str,
        precision: Any,
    ) -> None:
        self.name = name
        self.module, self.precision, self.steps = module, precision, steps
        self.library = f"{library}, pytorch-lightning {version('pytorch-lightning')}, {precision}"
        self.batches = loader(pictures, batch_size, steps + 1, persistent=False)
        self.size = pictures.pictures[0].size[0]

    def flops(self, batch_size: int) -> int:
        for part in self.module.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False  # as products, which is how ours is counted
        views = [torch.full((batch_size, 3, self.size, self.size), 0.5) for _ in range(self.module.views)]
        with FlopCounterMode(display=False) as counter:
            self.module.cpu().train().training_step(views, 0).backward()
        for part in self.module.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = True  # timm's default
        self.module.zero_grad()
        return int(counter.get_total_flops())

    def __call__(self) -> float:
        clock = Clock()
        trainer = pl.Trainer(
            max_steps=self.steps + 1,
            precision=self.precision,
            devices=1,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.module, self.batches)
        return clock.seconds
