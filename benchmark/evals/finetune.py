"""Fine-tuning: the encoder and a linear head trained together on all of train."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Annotated, Any

import gin
import torch
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor

from benchmark.annotations import NonNegative, Positive, Range, Share
from benchmark.errors import ConfigError
from benchmark.evals.features import Bank, Choices, Fraction, Ranking, at_edge
from benchmark.evals.supervised import Classifier, SupervisedSettings, Trained, Trainer
from benchmark.randomness import derive

FACTORS = (1.0, 1 / 3, 3.0)  # of the learning rate; of equally good ones the first is chosen
TARGETS = (90, 95, 99)  # percent of the final accuracy


@dataclass(frozen=True, kw_only=True)
class Tuning(SupervisedSettings):
    """The settings that both kinds of encoder have."""

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
    """AdamW with a learning rate that falls from layer to layer (He et al. 2022, arXiv:2111.06377, Table 9).

    `rate` is per 256 images. The layers have

        rate                                head, final norm, and what else follows the last block (authors' code)
        rate * layer_decay^(depth - i)      block i of `depth`, counted from 0
        rate * layer_decay^(depth + 1)      class token and patch embedding

    Vectors, the class token and positions have no weight decay. `drop_path` is that of the last block, and `warmup` a
    share of the steps.

    Differs from the source: crops have at least half of the image's area, since images here are small, and there is
    no random erasing.
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
        net, parts = classifier.encoder.net, defaultdict(list)
        for name, exponent in exponents(net).items():
            parameter = net.get_parameter(name)
            if parameter.requires_grad:
                plain = parameter.ndim <= 1 or any(fnmatch(name, pattern) for pattern in net.no_weight_decay())
                parts[exponent, 0.0 if plain else self.weight_decay].append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": parameters, "scale": self.layer_decay**exponent, "weight_decay": weight_decay}
            for (exponent, weight_decay), parameters in parts.items()
        ]
        groups += [group | {"scale": 1.0} for group in param_groups_weight_decay(classifier.head, self.weight_decay)]
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)


@gin.register
@dataclass(frozen=True, kw_only=True)
class ConvNetTuning(Tuning):
    """SGD with Nesterov momentum, crops and flips, as in Chen et al. 2020 (arXiv:2002.05709, B.5).

    `rate` is per 256 images. Vectors have no weight decay.

    Differs from the source, which has no weight decay. Its transfer to other data sets (B.8.1) has the same optimiser
    and views, but takes the rate and the weight decay from a grid.
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

    An encoder with patch tokens is trained with the settings `vit`, any other with `convnet`. The learning rate is 1/3,
    1 or 3 times theirs, whichever does best on the hold-out after `select_epochs` epochs on the fitting part; the row
    is flagged if it is not the middle one.

    With `curve` the chosen rate is also trained on the fitting part for all `epochs`, to record the accuracy on the
    hold-out after each epoch, see `speed`.
    """

    vit: Callable[[], Tuning] = ViTTuning
    convnet: Callable[[], Tuning] = ConvNetTuning
    epochs: int = 100
    select_epochs: int = 20
    batch_size: int = 256
    curve: bool = False

    name = "finetune"
    version = "2.0"

    def __post_init__(self) -> None:
        for tuning in (self.vit, self.convnet):
            tuning()  # refuses impossible settings before an encoder is pretrained
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

        def train(
            part: str, factor: float, rows: Tensor, queries: Tensor | None, epochs: int, curve: bool = False
        ) -> Trained:
            scaled = replace(settings, rate=factor * settings.rate)
            size = min(self.batch_size, len(rows) // 2 * 2)
            per_epoch, seed = len(rows) // size, derive(self.name)
            steps, every = epochs * per_epoch, per_epoch if curve else None
            return trainer.train(part, scaled, rows, queries, steps=steps, batch_size=size, seed=seed, every=every)

        def select(factor: float) -> Trained:
            return train(f"rate {factor}", factor, bank.fit, bank.held, self.select_epochs)

        factor = trainer.choose(FACTORS, select, bank.held)
        accuracy, measures = [], {}
        if self.curve and len(bank.held):
            looks = train("curve", factor, bank.fit, bank.held, self.epochs, curve=True)
            accuracy = (looks.classes[:, :, 0] == bank.labels[bank.held]).double().mean(1).tolist()
            measures = speed(accuracy, looks.seconds.tolist())
        final = train("final", factor, torch.arange(len(bank.labels)), None, self.epochs)
        trainer.saved.discard()
        flags = [] if factor == FACTORS[0] else [at_edge("learning rate")]
        if not len(bank.held):
            flags.append("one train image a class, so the learning rate is the middle one by rule")
        choices: Choices = {"feature": trainer.feature, "rate": factor * settings.rate}
        return Ranking(final.classes[-1], choices, tuple(flags), measures=measures, curve=tuple(accuracy))


def speed(accuracy: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Return the first epoch, from 1, that reaches 90, 95 and 99 % of the last accuracy, and the seconds until then."""
    measures: dict[str, float] = {}
    for percent in TARGETS:
        epoch = next(i for i, reached in enumerate(accuracy) if 100 * reached >= percent * accuracy[-1])
        measures |= {f"epochs_to_{percent}": epoch + 1.0, f"seconds_to_{percent}": seconds[epoch]}
    return measures


def exponents(net: Any) -> dict[str, int]:
    """Return by name the power of the layer decay of each parameter of a timm transformer.

    It is 1 for the last block, one more for each block before it, and 0 for what follows the blocks. timm's own count
    has the final norm in the last block's layer, or in one of its own if it follows the mean of the tokens.
    """
    layers = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    blocks = {name for name in layers if re.match(r"\w+\.\d+\.", name)}
    last = max(layers[name] for name in blocks)
    return {name: last + 1 - layer if name in blocks or layer < last else 0 for name, layer in layers.items()}
