"""The training of an encoder with a linear head on labels: one loop for every evaluation that moves the encoder.

Each draw is a function of names, so that all encoders and all rates see the same images in the same order, and an
interrupted evaluation ends like any other.
"""

import hashlib
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.layers.drop import DropPath
from torch import Tensor, nn

from benchmark.data.resident import epoch_order
from benchmark.data.streaming import ahead
from benchmark.evals.features import Bank, Network, best_classes
from benchmark.nets.attention import choose_attention
from benchmark.nets.encoders import Encoder
from benchmark.nets.schedules import half_cosine
from benchmark.randomness import Draws, derive
from benchmark.runtime import progress
from benchmark.runtime.transfer import send
from benchmark.storage import checkpoint
from benchmark.storage.digest import digest
from benchmark.views.colour import normalise
from benchmark.views.randaugment import rand_augment
from benchmark.views.recipes import View

SAVE_SECONDS = 300.0


class Classifier(nn.Module):
    """An encoder and a linear head on a feature `(batch, width)`; the head starts at zero, so that no seed is involved.

    The feature is the mean of the patch tokens after the encoder's final norm, or the pooled one of an encoder without
    tokens. Differs from He et al. 2022 (arXiv:2111.06377), who have a new norm behind the mean in place of the final
    one. What the encoder keeps fixed, such as sine positions, stays fixed.
    """

    def __init__(self, encoder: Encoder, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, view: Tensor) -> Tensor:
        """Return the logits `(batch, classes)` of normalised images."""
        found = self.encoder(view)
        logits: Tensor = self.head(found.pooled if found.tokens is None else found.tokens.mean(1))
        return logits


class SupervisedSettings(ABC):
    """How a classifier is trained; by default nothing but random crops and flips regularises it.

    `rate` is the peak rate: of the head, unless a group of the optimiser has another `scale`. It rises from 0 over the
    share `warmup` of the steps and falls to `floor` on a half cosine. `crop_scale` gives way to the limits of the data.
    `magnitude` is RandAugment's; `mixup` and `cutmix` are the parameters of their Beta distributions, one of the two
    for each batch (Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899).
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
        """Build the optimiser; each of its groups has the `scale` of its rate."""

    def peak(self, batch_size: int) -> float:
        """Return the peak rate for a batch size: in proportion, and `rate` at 256."""
        return self.rate * batch_size / 256

    def rate_at(self, progress: float, batch_size: int) -> float:
        """Return the rate at `progress` in [0, 1)."""
        peak = self.peak(batch_size)
        if progress < self.warmup:
            return peak * progress / self.warmup
        return self.floor + (peak - self.floor) * half_cosine(progress - self.warmup, 1 - self.warmup)


@dataclass(frozen=True)
class Trained:
    """The best classes `(looks, n, min(5, classes))` of the images that were asked, and seconds of training, by look.

    The last look is that after the last step.
    """

    classes: Tensor
    seconds: Tensor


class Trainer:
    """Trains classifiers on the images of a bank, one after the other, each from the encoder's weights.

    What was trained, and where the present one stands, is kept in a folder of the network's, under all that numbers
    depend on (`settings` tell the evaluation's part), until `discard`.
    """

    def __init__(self, name: str, settings: object, bank: Bank, network: Network) -> None:
        self.bank, self.network = bank, network
        self.feature = "mean" if "mean" in bank.train else "pooled"
        start = digest(network.copy().state_dict() | {"labels": bank.labels, "fit": bank.fit})
        stated = (settings, start, bank.dataset, network.mean, network.std, network.limits, str(network.device))
        self.key = hashlib.sha256(repr((*stated, torch.__version__)).encode()).hexdigest()
        self.folder = network.folder and network.folder / f"{name}-{self.key[:16]}"
        self.results: dict[str, dict[str, Tensor]] = {}
        self.present: dict[str, Any] | None = None
        self.saves = 0
        if self.folder:
            state, warnings = checkpoint.newest(self.folder, self.key)
            for warning in warnings:
                print(f"warning: {warning}", file=sys.stderr)
            if state:
                self.results, self.present, self.saves = state["results"], state["present"], state["saves"]

    def train(
        self,
        part: str,
        settings: SupervisedSettings,
        rows: Tensor,
        asked: Tensor | None,
        *,
        steps: int,
        batch_size: int,
        seed: int,
        every: int | None = None,
    ) -> Trained:
        """Train on the images `rows` of train and classify others, after `every` steps and at the end.

        These are `asked` of train, int64 ids, or by None the test images.
        `part` names the result: what was trained before an interruption is not trained again. `batch_size` is at most
        the number of rows; the incomplete batch of an epoch is left out.
        """
        if part not in self.results:
            run = _Run(self, settings, rows, steps, batch_size, seed)
            if self.present and self.present["part"] == part:
                run.load(self.present)
            saved = time.monotonic()
            while run.step < steps:
                progress.say(f"{part}, step {run.step + 1:,} of {steps:,}")
                run.take()
                if run.step == steps or (every and run.step % every == 0):
                    run.look(asked)
                if self.folder and time.monotonic() - saved > SAVE_SECONDS:
                    self.present = {"part": part} | run.state()
                    self._save()
                    saved = time.monotonic()
            self.results[part] = {"classes": torch.stack(run.looks), "seconds": torch.tensor(run.times)}
            self.present = None
            self._save()
        return Trained(**self.results[part])

    def discard(self) -> None:
        """Remove what was kept."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self) -> None:
        if self.folder:
            self.saves += 1
            state = {"key": self.key, "results": self.results, "present": self.present, "saves": self.saves}
            checkpoint.save(state, self.saves, self.folder)


class _Run:
    """One training of a classifier and its whole state."""

    def __init__(
        self, trainer: Trainer, settings: SupervisedSettings, rows: Tensor, steps: int, batch_size: int, seed: int
    ) -> None:
        self.bank, self.network, self.settings, self.rows = trainer.bank, trainer.network, settings, rows
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.view = self.network.limits.apply(View(crop_scale=settings.crop_scale))
        self.mix = _mixer(settings, self.bank.classes)
        width = self.bank.train[trainer.feature].shape[1]
        self.classifier = Classifier(self.network.copy(), width, self.bank.classes).to(self.network.device)
        choose_attention(self.classifier, self.network.device, "float32")
        if trainer.feature == "pooled":
            self.classifier.to(memory_format=torch.channels_last)
        drop_paths_(self.classifier.encoder, settings.drop_path)
        self.optimiser = settings.optimiser(self.classifier)
        self.step, self.seconds = 0, 0.0
        self.looks: list[Tensor] = []
        self.times: list[float] = []

    def take(self) -> None:
        """Take one step."""
        begin, device = time.perf_counter(), self.network.device
        torch.manual_seed(derive(self.seed, self.step, "torch"))  # dropped paths
        images, labels = self._batch()
        images, targets = self.mix(images, labels) if self.mix else (images, labels)
        self.classifier.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = self.classifier(images)
        smoothing = 0.0 if self.mix else self.settings.smoothing  # mixed targets are smooth already
        F.cross_entropy(logits.float(), targets, label_smoothing=smoothing).backward()
        rate = self.settings.rate_at(self.step / self.steps, self.batch_size)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.perf_counter() - begin

    @torch.no_grad()
    def look(self, asked: Tensor | None) -> None:
        """Classify the images `asked` of train, or by None the test images, in eval mode and float32."""
        begin, device = time.perf_counter(), self.network.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds += time.perf_counter() - begin
        self.classifier.eval()
        found = []
        source = self.network.test if asked is None else self.network.train
        for _, images in ahead(source, asked, device):
            view = normalise(images.float() / 255, self.network.mean, self.network.std)
            found.append(best_classes(self.classifier(view).cpu()))
        self.looks.append(torch.cat(found))
        self.times.append(self.seconds)

    def state(self) -> dict[str, Any]:
        """Return all that changes in training."""
        return {
            "classifier": self.classifier.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "looks": self.looks,
            "times": self.times,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.classifier.load_state_dict(state["classifier"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.looks, self.times = (
            state[name] for name in ("step", "seconds", "looks", "times")
        )

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return the normalised random views and the labels of this step."""
        epoch, place = divmod(self.step, len(self.rows) // self.batch_size)
        order = epoch_order(self.seed, epoch, len(self.rows))
        ids = self.rows[order[place * self.batch_size : (place + 1) * self.batch_size]]
        draws = Draws(self.seed, self.step, len(ids))
        images, labels = send(self.network.device, self.network.train[ids], self.bank.labels[ids])
        images = self.view(images, images.shape[-1], lambda name, *shape: draws.rows(("view", name), *shape))
        images = rand_augment(
            images,
            self.settings.magnitude,
            self.network.mean,
            lambda name, *shape: draws.rows(("randaugment", name), *shape),
        )
        np.random.seed(derive(self.seed, self.step, "mix") % 2**32)
        return normalise(images, self.network.mean, self.network.std), labels


def drop_paths_(encoder: Encoder, rate: float) -> None:
    """Let the blocks of a transformer be left out in training: the first never, the last with probability `rate`.

    (Huang et al. 2016, arXiv:1603.09382.)
    """
    blocks = [part for part in encoder.modules() if hasattr(part, "drop_path1")]
    for block, probability in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(probability), DropPath(probability)


def _mixer(settings: SupervisedSettings, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return timm's mixer, which draws from numpy's generator; None where nothing is mixed."""
    if not (settings.mixup or settings.cutmix):
        return None
    return Mixup(settings.mixup, settings.cutmix, label_smoothing=settings.smoothing, num_classes=classes)
