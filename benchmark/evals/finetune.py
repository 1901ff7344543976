"""Fine-tuning: the encoder and a linear head trained together on all of train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import gin
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor

from benchmark.annotations import NonNegative, Positive, Range, Share
from benchmark.errors import ConfigError
from benchmark.evals.features import Bank, Ranking, at_edge
from benchmark.evals.supervised import Classifier, SupervisedSettings, Trained, Trainer
from benchmark.randomness import derive

FACTORS = (1.0, 1 / 3, 3.0)  # of the rate; of equally good ones the first
TARGETS = (90, 95, 99)  # percent of the final accuracy
Fraction = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True, kw_only=True)
class Tuning(SupervisedSettings):
    """What the recipes of both kinds of encoder have, and its ranges."""

    rate: Positive
    weight_decay: NonNegative
    crop_scale: tuple[float, float]

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(
                f"{type(self).__name__}.crop_scale must be (low, high), 0 < low <= high <= 1; got {self.crop_scale}."
            )


@gin.register
@dataclass(frozen=True, kw_only=True)
class ViTTuning(Tuning):
    """AdamW with a rate that falls by `layer_decay` from layer to layer (He et al. 2022, arXiv:2111.06377, Table 9).

    `rate` is per 256 images and that of the head; block i of `depth`, counted from 0, gets the share
    layer_decay^(depth - i), the final norm that of the last block, and class token and patch embedding
    layer_decay^(depth + 1). Vectors, the class token and positions are not decayed. `drop_path` is the last block's;
    `warmup` a share of the steps.

    Differs from the source: crops are no smaller than half the image, since images here are small, and nothing is
    erased.
    """

    rate: Positive = 1e-3
    weight_decay: NonNegative = 0.05
    layer_decay: Share = 0.75
    drop_path: Fraction = 0.1
    warmup: Fraction = 0.05
    crop_scale: tuple[float, float] = (0.5, 1.0)
    magnitude: Annotated[float, Range(0, 10)] = 9.0
    mixup: NonNegative = 0.8
    cutmix: NonNegative = 1.0
    smoothing: Fraction = 0.1

    floor = 1e-6

    def optimiser(self, classifier: Classifier) -> torch.optim.Optimizer:
        net = classifier.encoder.net
        groups = param_groups_layer_decay(net, self.weight_decay, net.no_weight_decay(), layer_decay=self.layer_decay)
        for group in groups:  # timm sees no layer behind the last block
            group["scale"] = group.pop("lr_scale") * self.layer_decay
        groups += [group | {"scale": 1.0} for group in param_groups_weight_decay(classifier.head, self.weight_decay)]
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)


@gin.register
@dataclass(frozen=True, kw_only=True)
class ConvNetTuning(Tuning):
    """SGD with Nesterov momentum, crops and flips, as in Chen et al. 2020 (arXiv:2002.05709, B.8.1).

    `rate` is per 256 images. Vectors are not decayed.
    """

    rate: Positive = 0.05
    weight_decay: NonNegative = 1e-4
    crop_scale: tuple[float, float] = (0.08, 1.0)

    def optimiser(self, classifier: Classifier) -> torch.optim.Optimizer:
        groups = [group | {"scale": 1.0} for group in param_groups_weight_decay(classifier, self.weight_decay)]
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)


@gin.register
@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train the encoder with a linear head on all of train and rank the test images after the last epoch.

    An encoder that gives patch tokens is trained by the recipe `vit`, any other by `convnet`. Of 1/3, 1 and 3 times its
    rate the one is taken that does best on the hold-out after `select_epochs` epochs on the fitting part; the row is
    flagged if that is not the middle one.

    With `curve` the chosen rate is trained for all `epochs` on the fitting part once more, for the accuracy on the
    hold-out after each epoch: `measures` are the first epoch that reaches a share of the last one's accuracy, and the
    seconds of training until then.
    """

    vit: Callable[[], Tuning] = ViTTuning
    convnet: Callable[[], Tuning] = ConvNetTuning
    epochs: int = 100
    select_epochs: int = 20
    batch_size: int = 256
    curve: bool = False

    name = "finetune"
    version = "1.0"

    def __post_init__(self) -> None:
        for tuning in (self.vit, self.convnet):
            tuning()  # which refuses what it cannot train by, before an encoder is pretrained
        if not 1 <= self.select_epochs <= self.epochs:
            raise ConfigError(
                f"FineTune needs select_epochs from 1 to the epochs; got {self.select_epochs} and {self.epochs}."
            )
        if self.batch_size < 2 or self.batch_size % 2:
            raise ConfigError(
                f"FineTune.batch_size must be even, since images are mixed in pairs; got {self.batch_size}."
            )

    def __call__(self, bank: Bank) -> Ranking | None:
        """Choose the rate on the hold-out, train on all of train; None for raw pixels."""
        if bank.network is None:
            return None
        settings = (self.vit if "mean" in bank.train else self.convnet)()
        terms = (self.version, settings, self.epochs, self.select_epochs, self.batch_size)
        trainer = Trainer(self.name, terms, bank, bank.network)
        hits = {FACTORS[0]: 0}
        for factor in FACTORS if len(bank.held) else ():
            tried = replace(settings, rate=factor * settings.rate)
            ranked = self._train(trainer, f"rate {factor}", tried, bank.fit, bank.held, self.select_epochs).classes[-1]
            hits[factor] = int((ranked[:, 0] == bank.labels[bank.held]).sum())
        factor = max(hits, key=lambda factor: hits[factor])
        chosen = replace(settings, rate=factor * settings.rate)
        accuracy, measures = [], {}
        if self.curve and len(bank.held):
            looks = self._train(trainer, "curve", chosen, bank.fit, bank.held, self.epochs, curve=True)
            accuracy = (looks.classes[:, :, 0] == bank.labels[bank.held]).double().mean(1).tolist()
            measures = speed(accuracy, looks.seconds.tolist())
        whole = torch.arange(len(bank.labels))
        final = self._train(trainer, "final", chosen, whole, None, self.epochs)
        trainer.discard()
        flags = [] if factor == FACTORS[0] else [at_edge("learning rate")]
        if not len(bank.held):
            flags.append("one train image a class, so the learning rate is the middle one by rule")
        return Ranking(
            final.classes[-1],
            {"feature": trainer.feature, "rate": chosen.rate},
            tuple(flags),
            measures=measures,
            curve=tuple(accuracy),
        )

    def _train(
        self,
        trainer: Trainer,
        part: str,
        settings: SupervisedSettings,
        rows: Tensor,
        asked: Tensor | None,
        epochs: int,
        curve: bool = False,
    ) -> Trained:
        batch_size = min(self.batch_size, len(rows) // 2 * 2)
        per_epoch = len(rows) // batch_size
        return trainer.train(
            part,
            settings,
            rows,
            asked,
            steps=epochs * per_epoch,
            batch_size=batch_size,
            seed=derive(self.name),
            every=per_epoch if curve else None,
        )


def speed(accuracy: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Return the first epoch, from 1, that reaches 90, 95 and 99 % of the last accuracy, and the seconds until then."""
    measures: dict[str, float] = {}
    for percent in TARGETS:
        epoch = next(i for i, reached in enumerate(accuracy) if 100 * reached >= percent * accuracy[-1])
        measures |= {f"epochs_to_{percent}": epoch + 1.0, f"seconds_to_{percent}": seconds[epoch]}
    return measures
