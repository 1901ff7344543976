"""Trains an encoder with a linear head on labels: the loop of every evaluation that changes the encoder.

All random numbers are a function of names, so that all encoders and all learning rates see the same images in the same
order, and an evaluation that was interrupted and resumed gives the same result.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.layers.drop import DropPath
from torch import Tensor, nn

from benchmark.data.resident import epoch_order
from benchmark.data.streaming import ahead, is_cropped_stored
from benchmark.evals.features import Bank, Network, best_classes, hits
from benchmark.evals.saved import Saved
from benchmark.nets.attention import choose_attention
from benchmark.nets.encoders import Encoder
from benchmark.nets.memory_format import choose_memory_format
from benchmark.nets.schedules import half_cosine
from benchmark.randomness import Draws, derive, seed_torch
from benchmark.runtime import progress
from benchmark.runtime.transfer import send
from benchmark.storage.digest import digest
from benchmark.views.colour import normalise
from benchmark.views.randaugment import rand_augment
from benchmark.views.recipes import View

PROGRESS = ("step", "seconds", "looks", "times")  # the attributes of a run that change beside the weights

Option = TypeVar("Option")


class Classifier(nn.Module):
    """An encoder and a linear head on a feature `(batch, width)`; the head starts at zero, so that no seed is involved.

    The feature is the mean of the patch tokens after the encoder's final norm, or the pooled feature if there are no
    tokens. Differs from He et al. 2022 (arXiv:2111.06377), who replace the final norm by a new one after the mean.
    What the encoder keeps fixed, such as sine positions, stays fixed.
    """

    def __init__(self, encoder: Encoder, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, view: Tensor) -> Tensor:
        """Return the logits `(batch, classes)` of normalised images."""
        features = self.encoder(view)
        logits: Tensor = self.head(features.pooled if features.tokens is None else features.tokens.mean(1))
        return logits


class SupervisedSettings(ABC):
    """How a classifier is trained; by default with random crops and flips as the only regularisation.

    `rate` is the peak learning rate; a group of the optimiser has `scale` times it. It rises from 0 over the share
    `warmup` of the steps and falls to `floor` on a half cosine. `crop_scale` is subject to the limits of the data.
    `magnitude` is RandAugment's; `mixup` and `cutmix` are the parameters of their Beta distributions, and each batch
    uses one of the two (Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899).
    """

    rate: float
    warmup: float = 0.0
    floor: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    magnitude: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    drop_path: float = 0.0

    @abstractmethod
    def optimiser(self, classifier: Classifier) -> torch.optim.Optimizer:
        """Build the optimiser; each of its groups has the `scale` of its learning rate."""

    def peak(self, batch_size: int) -> float:
        """Return the peak learning rate for a batch size."""
        return self.rate * batch_size / 256

    def rate_at(self, progress: float, batch_size: int) -> float:
        """Return the learning rate at `progress` in [0, 1)."""
        peak = self.peak(batch_size)
        if progress < self.warmup:
            return peak * progress / self.warmup
        return self.floor + (peak - self.floor) * half_cosine(progress - self.warmup, 1 - self.warmup)


@dataclass(frozen=True)
class Trained:
    """The best classes `(looks, n, min(5, classes))` of the classified images, and the seconds of training `(looks,)`.

    A look is one pass over these images during training; the last look is after the last step.
    """

    classes: Tensor
    seconds: Tensor


class Trainer:
    """Trains classifiers on the images of a bank, one after the other, each from the encoder's weights.

    The results and the state of the current training are `saved` in the network's folder. `settings` are the
    evaluation's part of what numbers depend on.
    """

    def __init__(self, name: str, settings: object, bank: Bank, network: Network) -> None:
        self.bank, self.network = bank, network
        self.feature = "mean" if "mean" in bank.train else "pooled"
        start = digest(network.copy().state_dict() | {"labels": bank.labels, "fit": bank.fit})
        self.saved = Saved(name, network.folder, (settings, start, bank.dataset, *network.terms))

    def train(
        self,
        part: str,
        settings: SupervisedSettings,
        rows: Tensor,
        queries: Tensor | None,
        *,
        steps: int,
        batch_size: int,
        seed: int,
        every: int | None = None,
    ) -> Trained:
        """Train on the train images `rows`; classify `queries` of train, or the test images if None.

        They are classified after `every` steps and at the end. `part` names the result: if it was trained before an
        interruption, it is not trained again. `batch_size` is at most the number of rows; the incomplete batch of an
        epoch is left out.
        """
        if part not in self.saved.results:
            run = _Run(self, settings, rows, steps, batch_size, seed)
            if state := self.saved.begun(part):
                run.load(state)
            while run.step < steps:
                progress.say(f"{part}, step {run.step + 1:,} of {steps:,}")
                run.take()
                if run.step == steps or (every and run.step % every == 0):
                    run.look(queries)
                if self.saved.is_due:
                    self.saved.keep(part, run.state())
            self.saved.finish(part, {"classes": torch.stack(run.looks), "seconds": torch.tensor(run.times)})
        return Trained(**self.saved.results[part])

    def choose(self, options: Iterable[Option], train: Callable[[Option], Trained], held: Tensor) -> Option:
        """Return the option that classifies most of the images `held` of train correctly, or the first of equals."""
        labels = self.bank.labels[held]
        return max(options, key=lambda option: hits(train(option).classes[-1], labels) if len(held) else 0)


class _Run:
    """One training of a classifier."""

    def __init__(
        self, trainer: Trainer, settings: SupervisedSettings, rows: Tensor, steps: int, batch_size: int, seed: int
    ) -> None:
        self.bank, self.network, self.settings, self.rows = trainer.bank, trainer.network, settings, rows
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.view = self.network.limits.apply(View(crop_scale=settings.crop_scale))
        self.mix: Mixup | None = None
        if settings.mixup or settings.cutmix:
            classes, smoothing = self.bank.classes, settings.smoothing
            self.mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=smoothing, num_classes=classes)
        width = self.bank.train[trainer.feature].shape[1]
        self.classifier = Classifier(self.network.copy(), width, self.bank.classes).to(self.network.device)
        choose_attention(self.classifier, self.network.device, "float32")
        if trainer.feature == "pooled":
            choose_memory_format(self.classifier, self.network.device)
        drop_paths_(self.classifier.encoder, settings.drop_path)
        self.optimiser = settings.optimiser(self.classifier)
        self.step, self.seconds = 0, 0.0
        self.looks: list[Tensor] = []
        self.times: list[float] = []

    def take(self) -> None:
        begin, device = time.perf_counter(), self.network.device
        seed_torch(self.seed, self.step, "torch")  # dropped paths
        images, labels = self._batch()
        images, targets = self.mix(images, labels) if self.mix else (images, labels)
        self.classifier.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = self.classifier(images)
        smoothing = 0.0 if self.mix else self.settings.smoothing  # mixed targets are already smoothed
        F.cross_entropy(logits.float(), targets, label_smoothing=smoothing).backward()
        rate = self.settings.rate_at(self.step / self.steps, self.batch_size)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.perf_counter() - begin

    @torch.no_grad()
    def look(self, queries: Tensor | None) -> None:
        """Classify the images `queries` of train, or the test images if None, in eval mode and float32."""
        begin, device = time.perf_counter(), self.network.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds += time.perf_counter() - begin
        self.classifier.eval()
        classes = []
        source = self.network.test if queries is None else self.network.train
        for _, images in ahead(source, queries, device):
            view = normalise(images.float() / 255, self.network.mean, self.network.std)
            classes.append(best_classes(self.classifier(view).cpu()))
        self.looks.append(torch.cat(classes))
        self.times.append(self.seconds)

    def state(self) -> dict[str, Any]:
        """Return all that changes in training."""
        nets = {"classifier": self.classifier.state_dict(), "optimiser": self.optimiser.state_dict()}
        return nets | {name: getattr(self, name) for name in PROGRESS}

    def load(self, state: dict[str, Any]) -> None:
        self.classifier.load_state_dict(state["classifier"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name in PROGRESS:
            setattr(self, name, state[name])

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return the normalised random views and the labels of this step."""
        epoch, place = divmod(self.step, len(self.rows) // self.batch_size)
        order = epoch_order(self.seed, epoch, len(self.rows))
        ids = self.rows[order[place * self.batch_size : (place + 1) * self.batch_size]]
        draws, mean = Draws(self.seed, self.step, len(ids)), self.network.mean

        def draw(name: str, *shape: int) -> Tensor:
            return draws.rows(("view", name), *shape)

        train = self.network.train
        if is_cropped_stored(train):
            crops = train.subset(ids).cut([self.view.cut(draw)])[:]
            crops, labels = send(self.network.device, crops[:, 0], self.bank.labels[ids])
            images = self.view.finish(crops, draw)
        else:
            images, labels = send(self.network.device, train[ids], self.bank.labels[ids])
            images = self.view(images, images.shape[-1], draw)
        magnitude = self.settings.magnitude
        images = rand_augment(images, magnitude, mean, lambda name, *shape: draws.rows(("randaugment", name), *shape))
        np.random.seed(derive(self.seed, self.step, "mix") % 2**32)  # Mixup draws from numpy's generator
        return normalise(images, mean, self.network.std), labels


def drop_paths_(encoder: Encoder, rate: float) -> None:
    """Drop blocks of a transformer in training (Huang et al. 2016, arXiv:1603.09382).

    The probability rises linearly from 0 for the first block to `rate` for the last.
    """
    blocks = [part for part in encoder.modules() if hasattr(part, "drop_path1")]
    for block, probability in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(probability), DropPath(probability)
